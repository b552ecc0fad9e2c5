"""Entities and relations: prompts, targets, the reward's vectors, and texts that try to get more than they deserve."""

from __future__ import annotations

import json
import os
import pickle
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data_aug.noise import PRESETS, noise_row, preset
from adapters.errors import UserError
from adapters.evaluation import metrics
from adapters.plugins.registry import resolve
from adapters.plugins.reward_probe import probe
from adapters.plugins.rewards import NamedReward
from adapters.recipe.fields import PluginSpec
from adapters.rewards.ie import InformationExtraction
from adapters.rewards.ie_records import MAX_TEXT, AnswerReader
from adapters.tasks.ie import NER_USER, SYSTEM, IeTask
from adapters.types import Counts, Example, Reward, Scored, Task

SCHEMA = ["person", "organization", "location"]
GOLD = {"person": ["Marie Curie"], "organization": ["University of Paris"], "location": []}
ROW = {"task": "NER", "schema": SCHEMA, "text": "Marie Curie worked at the University of Paris.", "gold": GOLD}
RELATION = {"Work_For": [{"head": "Marie Curie", "tail": "University of Paris"}]}
NOTHING: dict[str, list[Any]] = {label: [] for label in SCHEMA}


def tagged(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"<think>\nHm.\n</think>\n<answer>\n{text}\n</answer>"


def reward(completion: str, gold: object = GOLD, **options: Any) -> Scored:
    return InformationExtraction(**options)(completion, Example("1", "s", (), gold=gold))


def score(completion: str, gold: object = GOLD, **options: Any) -> float | None:
    return reward(completion, gold, **options).score


# -------------------------------------------------------------------------------------------- the prompts and the rows


def test_the_published_prompt() -> None:
    example = IeTask().example(ROW, id="7", source="s")
    assert isinstance(IeTask(), Task)
    assert [m["role"] for m in example.prompt] == ["system", "user"]
    assert example.prompt[0]["content"] == SYSTEM
    assert SYSTEM.startswith("You are an expert in information extraction. Given a task instruction with schema ")
    assert SYSTEM.endswith(
        "provide your answer in JSON format.\n\nFormat your response as:\n<think>\n"
        "Your step-by-step reasoning...\n</think>\n<answer>\nYour JSON extraction result here\n</answer>"
    )
    assert example.prompt[1]["content"] == (
        "You are an expert in named entity recognition. Please extract entities that match the schema definition from "
        "the input. Return an empty list if the entity type does not exist. Please respond in the format of a JSON "
        'dictionary.\n\nEntity types to extract: ["person", "organization", "location"]\n\nInput text: Marie Curie '
        "worked at the University of Paris.\n\nPlease think step by step and respond in the following format:\n"
        "<think>\nYour reasoning process...\n</think>\n<answer>\nYour JSON extraction result\n</answer>"
    )
    assert example.completion == f"<think>\n\n</think>\n<answer>\n{json.dumps(GOLD)}\n</answer>"


def test_relations_are_asked_for_and_answered() -> None:
    row = {"task": "RE", "schema": ["Kill", "Work_For"], "text": "…", "gold": RELATION}
    example = IeTask().example(row)
    user = example.prompt[1]["content"]
    assert user.startswith("You are an expert in relationship extraction. Please extract relationship triples that")
    assert 'Relation types to extract: ["Kill", "Work_For"]\n\nInput text: …\n\n' in user
    assert example.gold == {"Kill": [], **RELATION}
    assert score(example.completion or "", example.gold) == 1.0
    subject = {**row, "gold": {"Work_For": [{"subject": "Marie Curie", "object": "University of Paris"}]}}
    assert IeTask().example(subject).gold == example.gold


@pytest.mark.parametrize("target", ["tagged", "bare", "compact"])
def test_the_target_scores_full_marks(target: Any) -> None:
    options: Any = {} if target == "tagged" else {"missing_answer": "whole"}
    task = IeTask(target=target, **options)
    example = task.example(ROW)
    for fields in task.counts(example.gold, example.completion or "").values():
        assert fields["entity"] == Counts(2, 2, 2)
        assert fields["relation"] == Counts(0, 0, 0)
    assert task.is_well_formed(example.completion or "")
    assert task.counts(example.gold, task.empty_answer(example))["labelled"]["entity"] == Counts(2, 0, 0)
    weights: Any = {} if target == "tagged" else {"think": 0.0, "answer": 0.0, "f1": 0.9}
    named = NamedReward("ie", InformationExtraction(**weights, **options))
    assert named.reward(example.completion or "", example) == Scored(
        1.0, {**dict.fromkeys(("think", "answer"), float(target == "tagged")), "json": 1.0, "f1": 1.0,
              "f1_some_gold": 1.0, "empty_answers": 0.0, "tags": 4.0 if target == "tagged" else 0.0}
    )  # fmt: skip
    assert probe(named, [example, task.example({**ROW, "gold": {}})], ()) == []


def test_targets_differ_in_length_only() -> None:
    short = IeTask(target="compact", missing_answer="whole")
    assert short.example(ROW).completion == '{"person":["Marie Curie"],"organization":["University of Paris"]}'
    assert short.example({**ROW, "gold": NOTHING}).completion == "{}"
    assert IeTask(target="bare", missing_answer="whole").example(ROW).completion == json.dumps(GOLD)
    assert "<think>\nBecause.\n</think>" in (IeTask().example({**ROW, "reasoning": "Because."}).completion or "")
    with pytest.raises(ValueError, match="missing_answer: whole"):
        IeTask(target="compact")


def test_labels_keep_the_order_of_the_schema_or_a_seeded_one() -> None:
    backwards = IeTask().example({**ROW, "gold": dict(reversed(GOLD.items()))})
    assert list(backwards.gold) == SCHEMA
    orders = {tuple(IeTask(label_order=n).example(ROW).gold) for n in range(20)}
    assert len(orders) == 6, "every order of three labels comes up"
    assert IeTask(label_order=3).example(ROW).prompt == IeTask(label_order=3).example(ROW).prompt
    assert IeTask(label_order=3).rephrase(2) == IeTask().rephrase(5) == IeTask(label_order=5)
    other = IeTask(label_order=3).example({**ROW, "text": "Another text.", "gold": {}})
    assert list(other.gold) == list(IeTask(label_order=3).example(ROW).gold), "one order for all rows of a schema"


def test_text_from_a_table_is_read_too() -> None:
    row = {**ROW, "gold": json.dumps(GOLD), "schema": json.dumps(SCHEMA)}
    assert IeTask().example(row).gold == GOLD
    assert IeTask().gold({"gold": {"a": None}}) == {"a": []}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"text": " "}, "text is missing or empty"),
        ({"gold": None}, "object from labels to lists"),
        ({"gold": "{"}, "gold is text, but not JSON"),
        ({"gold": {"person": "Marie"}}, "object from labels to lists"),
        ({"gold": {"person": [3]}}, "texts or objects with head and tail, not 3"),
        ({"gold": {"person": [" "]}}, "texts or objects"),
        ({"gold": {"alien": ["E.T."]}}, "'alien', which is not in the schema"),
        ({"schema": []}, "at least one"),
        ({"schema": ["a", "a"], "gold": {}}, "twice"),
        ({"task": "EE"}, "NER or RE, not 'EE'"),
        ({"task": None, "gold": {}}, "NER or RE, not None"),
    ],
)
def test_bad_rows_say_why(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        IeTask().example({**ROW, **change})


def test_a_text_with_placeholders_stays_as_it_is() -> None:
    user = IeTask().example({**ROW, "text": "{labels} {text}", "schema": ["{text}"], "gold": {}}).prompt[1]["content"]
    assert '["{text}"]' in user
    assert "Input text: {labels} {text}\n" in user
    with pytest.raises(ValueError, match="must contain"):
        IeTask(ner_user="{text}")
    assert NER_USER.count("{text}") == 1


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_protected_mentions_can_still_be_found_in_the_noisy_text(name: str) -> None:
    text = "The \"fi nal\" offi ce of O'Neill & Sons , the final office and Zürich's *star* <b> ."
    gold = {"a": ['"fi nal" offi ce', "O'Neill & Sons"], "b": ["final office", "Zürich's *star* <b>"]}
    row = {"task": "NER", "schema": ["a", "b"], "text": text, "gold": gold}
    noisy, task = preset(name, "heavy"), IeTask()
    changed = 0
    for seed in range(200):
        result = noise_row(row, noisy, seed=seed, policy="protect", field="text", labels=task.labels)
        assert result.row["gold"] == gold
        shown = " ".join(result.row["text"].split())
        changed += shown != text
        assert all(mention in shown for found in gold.values() for mention in found)
    assert changed > 20


def test_noise_finds_the_labels() -> None:
    assert [label.value for label in IeTask().labels(ROW)] == ["Marie Curie", "University of Paris"]
    found = list(IeTask().labels({"gold": RELATION}))
    assert [label.path for label in found] == [("gold", "Work_For", 0, "head"), ("gold", "Work_For", 0, "tail")]


# ------------------------------------------------------------------------------------------------ the reward's vectors

VECTORS = {
    "perfect": (tagged(GOLD), 1.0),
    "one of two": (tagged({"person": ["Marie Curie"]}), 0.7667),
    "second entity under wrong type": (tagged({"person": ["Marie Curie", "University of Paris"]}), 0.65),
    "extra out-of-schema entity": (tagged({**GOLD, "city": ["Paris"]}), 0.86),
    "duplicate mention": (tagged({**GOLD, "person": ["Marie Curie", "Marie Curie"]}), 1.0),
    "case differs": (tagged({**GOLD, "person": ["marie curie"]}), 0.65),
    "a list": (tagged(["Marie Curie"]), 0.25),
    "null": (tagged("null"), 0.25),
    "single-quoted": (tagged(str(GOLD)), 0.2),
    "fenced": (tagged(f"```json\n{json.dumps(GOLD)}\n```"), 0.2),
    "no think": (f"<answer>{json.dumps(GOLD)}</answer>", 0.9),
    "no answer tag": (f"<think>Hm.</think>{json.dumps(GOLD)}", 0.1),
    "unclosed answer": (f"<think>Hm.</think><answer>{json.dumps(GOLD)}", 0.1),
    "empty string": ("", 0.0),
    "{}": (tagged({}), 0.3),
    "NaN": (tagged('{"person": NaN}'), 0.2),
    "value a bare string": (tagged({**GOLD, "person": "Marie Curie"}), 0.7667),
}
EMPTY_VECTORS = {
    "{}": (tagged({}), 1.0),
    "all empty lists": (tagged(NOTHING), 1.0),
    "one false positive": (tagged({"person": ["He"]}), 0.3),
    "[]": (tagged([]), 0.25),
    "not JSON": (tagged("none"), 0.2),
    "no answer": ("<think>Nothing.</think>", 0.1),
}
RELATION_VECTORS = {
    "perfect": (tagged(RELATION), 1.0),
    "head and tail swapped": (tagged({"Work_For": [{"head": "University of Paris", "tail": "Marie Curie"}]}), 0.3),
    "subject and object": (tagged({"Work_For": [{"subject": "Marie Curie", "object": "University of Paris"}]}), 1.0),
    "a pair as a list": (tagged({"Work_For": [["Marie Curie", "University of Paris"]]}), 0.3),
    "an end missing": (tagged({"Work_For": [{"head": "Marie Curie"}]}), 0.3),
}


@pytest.mark.parametrize(("completion", "wanted"), VECTORS.values(), ids=VECTORS)
def test_vectors(completion: str, wanted: float) -> None:
    assert score(completion) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(("completion", "wanted"), EMPTY_VECTORS.values(), ids=EMPTY_VECTORS)
def test_vectors_where_there_is_nothing_to_find(completion: str, wanted: float) -> None:
    assert score(completion, NOTHING) == pytest.approx(wanted)


@pytest.mark.parametrize(("completion", "wanted"), RELATION_VECTORS.values(), ids=RELATION_VECTORS)
def test_vectors_of_relations(completion: str, wanted: float) -> None:
    assert score(completion, RELATION) == pytest.approx(wanted)


def test_no_gold_is_no_score() -> None:
    assert isinstance(InformationExtraction(), Reward)
    assert score(tagged(GOLD), None) is None


# -------------------------------------------------------------------------------------------------- the open questions


def test_strict_form() -> None:
    good = tagged(GOLD)
    assert score(f"\n {good}\n", tags="strict") == 1.0
    for text in (f"Well: {good}", f"{good} Done.", good.replace("</think>", "</think> so ")):
        assert score(text, tags="strict") == pytest.approx(0.8), "the answer counts, its form does not"
        assert score(text) == 1.0
    think, answer = good.split("\n<answer>")
    assert score(f"<answer>{answer}{think}", tags="strict") == pytest.approx(0.8), "the answer came before the thought"
    assert score(good + "<answer>{}</answer>", tags="strict") == 0.0, "two answers"
    assert score(f"<think>a</think>{good}", tags="strict") == pytest.approx(0.8), "two thoughts"
    assert score(f"<think>my <answer> is</think>{good}", tags="strict") == pytest.approx(0.8)


def test_of_several_answers_the_last_counts() -> None:
    text = tagged({}) + tagged(GOLD)
    assert score(text) == 1.0
    assert score("<think>I write it in <answer> tags.</think>" + tagged(GOLD)) == 1.0
    assert score(tagged(GOLD) + "</answer>") == 1.0


def test_text_without_tags_can_be_read_whole() -> None:
    bare = json.dumps(GOLD)
    options: dict[str, Any] = {"missing_answer": "whole"}
    assert score(bare, **options) == pytest.approx(0.8)
    assert score(f"<think>x</think>{bare}", **options) == pytest.approx(0.9)
    assert score(bare, **options, think=0.0, answer=0.0, json=0.1, f1=0.9) == 1.0
    assert score(tagged(GOLD), **options) == 1.0


def test_the_other_options() -> None:
    twice = '{"person": ["He"], "person": ["Marie Curie"], "organization": ["University of Paris"]}'
    assert score(tagged(twice)) == pytest.approx(0.86), "the first value is not hidden"
    assert score(VECTORS["case differs"][0], casefold=True) == 1.0
    assert score(tagged({**GOLD, "person": ["  Marie \n Curie "]})) == 1.0
    assert score(VECTORS["second entity under wrong type"][0], typed=False) == 1.0
    assert score(tagged([]), json_other=0.0) == pytest.approx(0.2)
    swapped = RELATION_VECTORS["head and tail swapped"][0]
    assert score(swapped, RELATION, symmetric=("Work_For",)) == 1.0
    assert score(swapped, RELATION, symmetric=("Kill",)) == pytest.approx(0.3)
    subject = RELATION_VECTORS["subject and object"][0]
    assert score(subject, RELATION, relation_keys="head_tail") == pytest.approx(0.3)
    assert score(tagged(RELATION), {"Work_For": []}, relation_keys="subject_object") == 1.0, "nothing was read"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tags": "loose"}, "tags must be one of presence, strict, got 'loose'"),
        ({"f1": 0.8}, "must sum to 1, got 1.1"),
        ({"think": -0.1}, "think must lie between 0 and 1"),
        ({"json_other": 0.2}, "not be above json"),
        ({"symmetric": "compare"}, "list of relation names"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        InformationExtraction(**options)


# -------------------------------------------------------------------------------------------------------------- gaming


@pytest.mark.parametrize(
    "text",
    [
        "<answer></answer>",
        "<think></think><answer></answer>",
        tagged('{"person": [""], "organization": [" "], "location": ["\\n"]}'),
        tagged('{"": [""]}'),
        tagged('{"person": [["Marie Curie"]], "organization": [{"text": "University of Paris"}]}'),
        tagged(ROW["text"]),
        tagged(json.dumps(json.dumps(GOLD))),
    ],
)
def test_nothing_earns_no_f1(text: str) -> None:
    assert reward(text).parts["f1"] == 0.0


def test_tags_alone_do_not_pay_for_long() -> None:
    assert score("<think></think><answer></answer>" * 4) == pytest.approx(0.2)
    assert score("<think></think><answer></answer>" * 5) == 0.0
    assert score("<think></think>" * 100 + tagged(GOLD)) == 0.0
    assert reward("<think>" * 7 + tagged(GOLD)).parts["tags"] == 11.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 100_000,
        "<think>" * 50_000 + "</think>" * 50_000,
        "<" * 500_000,
        tagged("[" * 400_000),
        tagged('{"a":' * 100_000),
        tagged('{"person": [' + '"He", ' * 100_000 + '"She"]}'),
        tagged("{" + '"person": ["He"], ' * 30_000 + '"person": []}'),
        tagged('{"person": [' + "9" * 10_000 + "]}"),
        tagged("```" + "a" * 500_000),
        tagged("`" * 500_000),
        tagged('{"person": ["' + " " * 500_000 + '"]}'),
        "x" * (MAX_TEXT + 1),
    ],
    ids=lambda text: f"{text[:20]!r}",
)
@pytest.mark.parametrize("missing_answer", ["nothing", "whole"])
def test_hostile_texts_are_answered_at_once(text: str, missing_answer: str) -> None:
    began = time.process_time()
    assert 0.0 <= (score(text, missing_answer=missing_answer) or 0.0) < 0.31
    assert time.process_time() - began < 5, "a quadratic step takes minutes here"


strings = st.sampled_from(["Marie Curie", "University of Paris", "he", "", " ", "ü\u0301", "<answer>", "\ud800", '"'])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | strings,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings | st.sampled_from(SCHEMA), inner, max_size=4),
    max_leaves=12,
)
completions = (
    st.text(max_size=60)
    | st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "{}", "[]", "x"])).map("".join)
    | json_values.map(tagged)
)
readers = st.fixed_dictionaries(
    {},
    optional={
        "tags": st.sampled_from(["presence", "strict"]),
        "missing_answer": st.sampled_from(["nothing", "whole"]),
        "casefold": st.booleans(),
        "symmetric": st.sampled_from([(), ("person",)]),
    },
)
golds = st.dictionaries(st.sampled_from(SCHEMA), st.lists(st.sampled_from(["Marie Curie", "he", "Ü"]), max_size=3))


@given(completions, golds, readers)
def test_any_text_gets_a_score_of_its_own(completion: str, gold: dict[str, list[str]], options: dict[str, Any]) -> None:
    grader = InformationExtraction(**options)
    first = grader(completion, Example("1", "s", (), gold=gold))
    assert first.score is not None
    assert 0.0 <= first.score <= 1.0
    assert all(0.0 <= value <= 1.0 for name, value in first.parts.items() if name != "tags")
    assert first == pickle.loads(pickle.dumps(grader))(completion, Example("1", "s", (), gold=gold))
    # The metric counts what the reward pays for.
    task = IeTask(**options)
    counts = task.counts(gold, completion)["labelled"]["entity"]
    relation = task.counts(gold, completion)["labelled"]["relation"]
    both = counts + relation
    if task.is_well_formed(completion) and (both.gold or both.pred):
        assert first.parts["f1"] == pytest.approx(both.f())


@given(golds, st.randoms(use_true_random=False))
def test_order_and_repetition_do_not_matter(gold: dict[str, list[str]], rng: Any) -> None:
    shuffled = {k: rng.sample(v * 2, 2 * len(v)) for k, v in rng.sample(list(gold.items()), len(gold))}
    assert score(tagged(shuffled), gold) == pytest.approx(1.0)


@given(golds.filter(lambda gold: any(gold.values())), st.data())
def test_a_right_item_more_never_costs(gold: dict[str, list[str]], data: st.DataObject) -> None:
    items = sorted({(label, text) for label, found in gold.items() for text in found})
    some = data.draw(st.sets(st.sampled_from(items)))
    more = some | {data.draw(st.sampled_from(items))}

    def said(chosen: set[tuple[str, str]]) -> float:
        labels = {label: [text for other, text in sorted(chosen) if other == label] for label in gold}
        return score(tagged(labels), gold) or 0.0

    assert said(more) >= said(some)


# ---------------------------------------------------------------------------------------------------------- the metric


def test_micro_f1_counts_sets_and_never_the_empty() -> None:
    task = IeTask()
    rows = [
        (GOLD, tagged(GOLD)),
        (NOTHING, tagged({})),
        (NOTHING, "no answer"),
        (GOLD, tagged({"person": ["Marie Curie"]})),
    ]
    result = metrics.corpus([task.counts(gold, text) for gold, text in rows], intervals=False)
    assert result["labelled"]["entity"] == metrics.figures(Counts(4, 3, 3))
    assert task.counts([], tagged(GOLD))["labelled"]["entity"] == Counts(0, 2, 0), "a prediction without gold"
    assert [task.is_well_formed(text) for _, text in rows] == [True, True, False, True]


def test_right_span_under_the_wrong_label_shows() -> None:
    counts = IeTask().counts(GOLD, tagged({"person": ["Marie Curie", "University of Paris"]}))
    assert counts["labelled"]["entity"] == Counts(2, 2, 1)
    assert counts["unlabelled"]["entity"] == Counts(2, 2, 2)


DATA = os.environ.get("ADAPTERS_DATA")


@pytest.mark.skipif(not DATA, reason="ADAPTERS_DATA is unset: it names the folder that holds ie/ncbi.test.jsonl …")
@pytest.mark.parametrize(
    ("name", "n", "items"),
    [
        ("ncbi.test", 937, 918),
        ("crossner_ai.test", 430, 1787),
        ("crossner_literature.test", 416, None),
        ("scierc_re.test", 397, None),
        ("conll04_re.test", 287, None),
    ],
)
def test_the_published_sizes(name: str, n: int, items: int | None) -> None:
    lines = (Path(DATA or "") / "ie" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    task, perfect = IeTask(), []
    for line in lines:
        example = task.example(json.loads(line))
        perfect.append(task.counts(example.gold, example.completion or ""))
        assert score(example.completion or "", example.gold) == pytest.approx(1.0)
    fields = metrics.corpus(perfect, intervals=False)["labelled"]
    assert len(perfect) == n
    assert {f["f1"] for f in fields.values() if f["gold"]} == {1.0}
    assert items is None or fields["entity"]["gold"] == items


def test_parameters_come_from_yaml() -> None:
    plug = PluginSpec.model_validate({"use": "ie", "symmetric": ["compare", "conjunction"], "tags": "strict"})
    for kind in ("tasks", "rewards"):
        made = resolve(kind, plug)
        assert (made.symmetric, made.tags) == (("compare", "conjunction"), "strict")
    with pytest.raises(UserError, match="'presence' or 'strict'"):
        resolve("rewards", PluginSpec.model_validate({"use": "ie", "tags": "loose"}))


def test_task_and_reward_agree_by_default() -> None:
    shared = AnswerReader()
    assert all(getattr(IeTask(), name) == value == getattr(InformationExtraction(), name)
               for name, value in vars(shared).items())  # fmt: skip


@pytest.mark.parametrize("casefold", [False, True])
def test_canonically_equal_unicode_is_one_text(casefold: bool) -> None:
    names = ["Zürich", "Nguyễn", "한국재단", "Å", "ΐ", "ﷺx"]
    gold = {unicodedata.normalize("NFD", "größe"): [unicodedata.normalize("NFD", name) for name in names]}
    answer = {"größe": [unicodedata.normalize("NFC", name) for name in names]}
    reader = AnswerReader(casefold=casefold)
    assert len(reader.items(gold)) == len(names)
    assert reader.items(gold) == reader.items(answer)
    assert reader.items({"a": ["H₂O"]}) != reader.items({"a": ["H2O"]}), "compatibility is no canonical equality"
