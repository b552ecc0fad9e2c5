"""Uncertain labels of the funding task: left out of rewards and metrics on both sides, and masked in the target."""

import json

import pytest

from adapters.rewards.funding import Funding
from adapters.tasks.funding import FundingTask
from adapters.types import Counts

AWARDS = {"award_ids": ["A-1", "A-2"], "funding_scheme": ["Probes"], "award_title": []}
ROW = {
    "funding_statement": "By the Elm Fund (Probes A-1, A-2), the Fir Trust and the Oak Council.",
    "funders": [
        {"funder_name": "Elm Fund", "awards": [AWARDS]},
        {"funder_name": "Fir Trust", "awards": []},
        {"funder_name": "Oak Council", "awards": [{"award_ids": ["B-1"]}]},
    ],
}


def example(*paths, target="compact", scorer="published"):
    return FundingTask(target=target, scorer=scorer).example({**ROW, "uncertain": list(paths)})


def masked(made):
    return [made.completion[start:end] for start, end in made.masked]


def answer(*funders):
    return json.dumps([{"funder_name": name, "award_ids": list(ids)} for name, *ids in funders])


LINK = ("funders.0.awards.0.award_ids.1", "funders.1.awards.0.award_ids")


def test_spans_of_the_target():
    one = example(LINK[0])
    assert masked(one) == [',"A-2"']
    assert masked(example("funders.0.awards.0.award_ids.0")) == ['"A-1",']
    assert masked(example("funders.0.awards.0.award_ids")) == [',"award_ids":["A-1","A-2"]']
    assert masked(example("funders.0.awards.0")) == [',"funding_scheme":["Probes"]', ',"award_ids":["A-1","A-2"]']
    assert masked(example("funders.1.funder_name")) == ['{"funder_name":"Fir Trust"}']
    assert masked(example("funders.1.awards")) == ["}"], "it is uncertain that there is nothing"
    assert masked(example("funders.2.awards.0.award_ids", target="nested")) == ['[\n          "B-1"\n        ]']
    assert example().masked == ()
    assert one.completion == example().completion, "the target itself stays"
    assert "uncertain" not in example(LINK[0], target="nested").completion


def test_paths_through_other_forms_of_rows():
    flat = {**ROW, "funders": [{"funder_name": "Elm Fund", "award_ids": ["A-1"]}]}
    assert masked(FundingTask(target="compact").example({**flat, "uncertain": ["funders.0.award_ids.0"]})) == [
        ',"award_ids":["A-1"]'
    ]
    texts = {**ROW, "funders": json.dumps(ROW["funders"]), "uncertain": json.dumps([LINK[0]])}
    assert masked(FundingTask(target="compact").example(texts)) == [',"A-2"']
    for path in ("funders.7.funder_name", "funders.0.awards.0.award_ids.9", "elsewhere", "funders", "funders.x", ""):
        with pytest.raises(ValueError, match="leads to no label"):
            example(path)


@pytest.mark.parametrize("scorer", ["published", "corrected"])
def test_an_uncertain_id_neither_counts_as_found_nor_as_missed(scorer):
    task, made = FundingTask(target="compact", scorer=scorer), example(*LINK, scorer=scorer)
    reward = Funding(scorer=scorer)
    for answered in (
        answer(("Elm Fund", "A-1", "A-2"), ("Fir Trust",), ("Oak Council", "B-1")),
        answer(("Elm Fund", "A-1"), ("Fir Trust", "A 2"), ("Oak Council", "B-1")),
        answer(("Elm Fund", "A-1"), ("Fir Trust",), ("Oak Council", "B-1")),
    ):
        for mode in task.counts(made.gold, answered).values():
            assert mode["award_id"] == Counts(2, 2, 2)
            assert mode["funder"] == Counts(3, 3, 3)
        assert reward(answered, made).score == 1.0
        assert [a for a in task.align(made.gold, answered) if "2" in (a.gold or a.pred or "")] == []
    wrong = answer(("Elm Fund", "A-1", "A-9"), ("Fir Trust",), ("Oak Council",))
    assert task.counts(made.gold, wrong)["balanced"]["award_id"] == Counts(2, 2, 1), "what is certain still counts"
    assert reward(wrong, made).score < 0.9


def test_an_uncertain_funder_is_left_out_with_its_awards():
    task, made = FundingTask(target="compact"), example("funders.2.funder_name")
    for more in ([], [("Oak Council", "B-1")], [("Oak Council",)]):
        counts = task.counts(made.gold, answer(("Elm Fund", "A-1", "A-2"), ("Fir Trust",), *more))["balanced"]
        assert counts["funder"] == Counts(2, 2, 2)
        assert counts["award_id"] == Counts(2, 2, 2)
    extra = answer(("Elm Fund", "A-1", "A-2"), ("Fir Trust",), ("Ash Union", "C-1"))
    assert task.counts(made.gold, extra)["balanced"]["funder"] == Counts(2, 3, 2)


UNNAMED = [{"funder_name": None, "awards": [{"award_ids": ["A-1"], "funding_scheme": ["Probes"]}]}]


@pytest.mark.parametrize("target", ["compact", "nested"])
@pytest.mark.parametrize("scorer", ["published", "corrected"])
def test_a_wholly_uncertain_unnamed_funder_is_left_out(target, scorer):
    task, reward = FundingTask(target=target, scorer=scorer), Funding(scorer=scorer)
    made = task.example({**ROW, "funders": UNNAMED, "uncertain": ["funders.0"]})
    assert masked(made) == [made.completion[made.completion.index("{") : made.completion.rindex("}") + 1]]
    for answered in (made.completion, "[]", answer((None, "A-1")), answer((None,))):
        assert reward(answered, made).score == 1.0
    for answered in (answer((None, "B-2")), answer(("Elm Fund", "A-1"))):
        assert reward(answered, made).score == 0.0
    part = task.example({**ROW, "funders": UNNAMED, "uncertain": ["funders.0.awards.0.award_ids"]})
    assert "null" not in "".join(masked(part)), "its scheme is certain"
    assert reward("[]", part).score == 0.0
    assert reward(part.completion, part).score == 1.0


def test_gold_answers_are_worth_one():
    for paths in (LINK, ("funders.0.awards",), ("funders.0", "funders.1", "funders.2")):
        for target in ("compact", "nested"):
            made = example(*paths, target=target)
            assert Funding(scorer="corrected")(made.completion, made).score == 1.0
            assert all(start < end <= len(made.completion) for start, end in made.masked)


def test_an_uncertain_name_takes_no_other_funder_with_it():
    names = ("National Science Foundation", "National Science Foundation of China")
    given = {"funding_statement": "x", "funders": [{"funder_name": name, "awards": []} for name in names]}
    task = FundingTask(target="compact")
    made = task.example({**given, "uncertain": ["funders.1.funder_name"]})
    reward = Funding()
    assert reward(answer(names[:1]), made).score == 1.0
    assert reward(answer(names[:1], names[1:]), made).score == 1.0, "the uncertain one is no false positive"
    assert reward("[]", made).score < 0.5, "the sure one is missed"
    assert task.counts(made.gold, "[]")["strict"]["funder"] == Counts(1, 0, 0)
