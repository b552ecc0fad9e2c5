"""Kinds of funding statements: each form writes what it labels, and its ids stand under the funders that it means."""

import json
from random import Random

import pytest

from adapters.data_aug.funding_statements import synthesize
from adapters.data_aug.funding_statements.awards import draw_mention
from adapters.data_aug.funding_statements.forms import FORMS, Todo
from adapters.data_aug.funding_statements.labels import label, literals
from adapters.data_aug.funding_statements.lists import long_list
from adapters.data_aug.funding_statements.names import known_funder
from adapters.data_aug.funding_statements.statement import KINDS, make_row

OFF = dict.fromkeys((*KINDS, *FORMS), 0.0)


def todo(seed, number=4):
    """A fixed number of well-known funders with awards."""
    rng = Random(seed)
    mentions, seen = [], set()
    while len(mentions) < number:
        funder = known_funder(rng)
        if not seen & funder.keys:
            seen |= funder.keys
            mentions.append(draw_mention(rng, funder, 0))
    return rng, Todo(mentions, 0)


def ids(mention):
    return [i for award in mention.awards for i in award.ids]


def written(name, wanted=30, number=4):
    """Texts of a form, with the mentions that it took."""
    found = []
    for seed in range(4000):
        rng, plan = todo(seed, number)
        before = list(plan.mentions)
        if text := FORMS[name][1](rng, plan):
            found.append((text, plan.mentions[: plan.at], before))
        if len(found) == wanted:
            return found
    raise AssertionError(f"{name} fits too rarely: {len(found)}")


@pytest.mark.parametrize("name", FORMS)
def test_a_form_writes_its_labels_and_nothing_else(name):
    for text, taken, before in written(name):
        assert taken
        for literal in literals(label(taken)):
            assert literal in text, (literal, text)
        # What belongs to the mentions that were not taken stands elsewhere.
        for mention in before[len(taken) :]:
            for other in ids(mention):
                assert other not in text or any(other in own for own in map(ids, taken))


def rows_of(name, number=60):
    return [row for i in range(3 * number) if (row := make_row(3, i, OFF | {name: 1.0}))["funders"]][:number]


def test_shared_grants_stand_under_both():
    for text, taken, _ in written("shared"):
        one, two = taken
        assert ids(one) == ids(two) != []
        assert text.index(one.funder.label) != text.rindex(two.funder.label)


def test_an_acronym_later_is_the_same_funder():
    for text, taken, _ in written("acronym_later"):
        funder, (first, later) = taken[0].funder, taken[0].awards
        assert funder.name in funder.label
        assert first.ids
        assert text[: text.rindex(later.ids[-1])].count(funder.acronym) > 1, "the later id stands behind the acronym"
        assert label(taken)[0]["funder_name"] == funder.label


def test_many_ids_of_one_body():
    counts = []
    for _, taken, _ in written("many_ids"):
        counts.append(len(ids(taken[0])))
        assert all(not ids(other) for other in taken[1:])
    assert min(counts) >= 4
    assert max(counts) > 12


def test_a_list_by_person_keeps_its_order():
    for text, taken, _ in written("by_person", number=6):
        places = [text.index(mention.funder.label) for mention in taken]
        assert len(taken) > 2
        assert places[0] < places[-1]


def test_codes_alone_have_one_object_without_a_name():
    for row in rows_of("codes"):
        nameless = [f for f in row["funders"] if f["funder_name"] is None]
        assert len(nameless) == 1
        assert any(award["award_ids"] for award in nameless[0]["awards"])


def test_a_second_passage_merges_with_the_first():
    repeated = 0
    for row in rows_of("second_passage", 120):
        names = [f["funder_name"] for f in row["funders"] if f["funder_name"]]
        assert len(names) == len(set(names))
        repeated += any(row["funding_statement"].count(name) > 1 for name in names)
    assert repeated > 60


def test_long_lists():
    sizes, with_ids = [], []
    for seed in range(80):
        text, mentions = long_list(Random(seed))
        funders = label(mentions)
        assert all(literal in text for literal in literals(funders))
        places = [text.find(f["funder_name"]) for f in funders]
        assert min(places) >= 0
        sizes.append(len(funders))
        with_ids.append(sum(len(ids(m)) for m in mentions))
    assert min(sizes) >= 20
    assert 50 <= max(sizes) <= 60
    assert max(with_ids) >= 20


@pytest.mark.slow
def test_dense_rows_have_long_answers():
    rows = list(synthesize(3000, seed=2))
    some = [row for row in rows if row["funders"]]
    dense = [
        row
        for row in some
        if len(row["funders"]) > 6 or sum(len(a["award_ids"]) for f in row["funders"] for a in f["awards"]) > 6
    ]
    assert 0.05 <= len(dense) / len(rows) <= 0.12
    # About three characters of compact JSON make a token.
    assert max(len(json.dumps(row["funders"])) for row in rows) > 4000


def test_kinds_can_be_left_out():
    full, without = (list(synthesize(400, 4, left)) for left in ((), (*KINDS, *FORMS)))
    assert any(f["funder_name"] is None for row in full for f in row["funders"])
    assert not any(f["funder_name"] is None for row in without for f in row["funders"])
    with pytest.raises(ValueError, match="unknown kinds"):
        next(synthesize(1, 1, ("nothing",)))
