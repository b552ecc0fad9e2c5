"""The `records` reward and the counts behind it: values, matching of lists, reading, speed."""

from __future__ import annotations

import copy
import json
import random
import time
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data_aug.receipts import synthesize
from adapters.rewards.records import Records
from adapters.rewards.records_match import MAX_ITEMS, OUTSIDE, assigned, compare, read, tally, total
from adapters.rewards.records_schema import RECEIPT, compiled
from adapters.rewards.records_values import day, key, number
from adapters.tasks.records import RecordsTask
from adapters.types import Counts, Example

ORDER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "x-normalise": "name"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "amounts": {"type": "array", "items": {"type": "number", "x-tolerance": 0.5}},
        "paid": {"type": "boolean"},
        "day": {"type": "string", "format": "date"},
        "seller": {"type": "object", "properties": {"id": {"type": "string", "x-normalise": "id"}}},
        "lines": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "what": {"type": "string"},
                    "price": {"type": "number", "x-tolerance": 0.01},
                    "parts": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"no": {"type": "integer"}, "by": {"type": "string"}},
                        },
                    },
                },
            },
        },
    },
}
NODE = compiled(ORDER)
WORDS = st.sampled_from(["a", "b", "Ab", "straße", "ﬁ", "x y"])
PARTS = st.lists(st.fixed_dictionaries({}, optional={"no": st.integers(0, 3), "by": WORDS}), max_size=3)
LINES = st.fixed_dictionaries({}, optional={"what": WORDS, "price": st.sampled_from([1, 1.005, 2.5]), "parts": PARTS})
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "name": WORDS,
        "tags": st.lists(WORDS, max_size=4),
        "amounts": st.lists(st.sampled_from([1.0, 1.4, 1.8, 9]), max_size=4),
        "paid": st.booleans(),
        "day": st.sampled_from(["2024-01-02", "2023-11-12"]),
        "seller": st.fixed_dictionaries({}, optional={"id": WORDS}),
        "lines": st.lists(LINES, max_size=4),
    },
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ORDER["properties"], "x"]), inner),
    max_leaves=12,
)


def counted(gold: Any, pred: Any) -> dict[str, Counts]:
    return tally(NODE, compare(NODE, gold, pred))


def example(gold: Any) -> Example:
    return Example("a", "", (), json.dumps(gold), gold=gold, meta={"record_schema": ORDER})


def shuffled(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict):
        names = rng.sample(list(value), len(value))
        return {name: shuffled(value[name], rng) for name in names}
    return [shuffled(item, rng) for item in rng.sample(value, len(value))] if isinstance(value, list) else value


@given(OBJECTS)
def test_gold_scores_one(gold: dict) -> None:
    scored = Records()(json.dumps(gold), example(gold))
    assert scored.score == 1
    assert scored.parts["readable"] == 1
    whole = total(counted(gold, gold))
    assert whole.gold == whole.pred == whole.matched


@given(OBJECTS, OBJECTS, st.randoms(use_true_random=False))
def test_the_order_of_keys_and_lists_changes_nothing(gold: dict, pred: dict, rng: random.Random) -> None:
    assert counted(gold, pred) == counted(shuffled(gold, rng), shuffled(pred, rng))


@given(OBJECTS, OBJECTS)
def test_counts_are_in_bounds_and_the_other_way_round_they_swap(gold: dict, pred: dict) -> None:
    there, back = counted(gold, pred), counted(pred, gold)
    for path, counts in there.items():
        assert 0 <= counts.matched <= min(counts.gold, counts.pred)
        assert (counts.gold, counts.pred) == (back[path].pred, back[path].gold)


@given(OBJECTS, st.data())
def test_a_field_left_out_lowers_recall_and_not_precision(gold: dict, draw: st.DataObject) -> None:
    filled = [name for name, value in gold.items() if total(counted({name: value}, None)).gold]
    if not filled:
        return
    gone = draw.draw(st.sampled_from(filled))
    left = total(counted(gold, {name: value for name, value in gold.items() if name != gone}))
    assert left.recall < 1
    assert left.precision == (1 if left.pred else 0)


@given(OBJECTS, JSON)
def test_any_json_is_scored(gold: dict, pred: Any) -> None:
    scored = Records()(json.dumps(pred), example(gold))
    assert scored.score is not None
    assert 0 <= scored.score <= 1
    said = sum(count.pred for count in counted(gold, pred).values())
    assert all(isinstance(value, float) for value in scored.parts.values())
    assert said >= 0


@given(OBJECTS, st.text())
def test_any_text_is_scored(gold: dict, text: str) -> None:
    assert 0 <= (Records()(text, example(gold)).score or 0) <= 1


def test_an_unreadable_answer_is_no_empty_one() -> None:
    reward, nothing, some = Records(), example({}), example({"name": "a"})
    assert reward("{}", nothing) == (1.0, {"readable": 1.0})
    for text in ("", "none", "[]", "null", '{"name": "a"', '{"name": "a", "name": "a"}', '{"paid": NaN}', "{} {}"):
        assert reward(text, nothing) == (0.0, {"readable": 0.0}), text
        assert reward(text, some).score == 0, text
    assert reward("{}", some).score == 0
    assert reward("{}", Example("a", "", ())).score is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('```json\n{"a": 1}\n```', None),
        ('Here it is: {"a": 1}. Anything else?', None),
        ('<think>{"a": 2}</think>\n{"a": 1}', None),
        ('\ufeff{"a": 1}', None),
        ('{"a": 1', "not JSON: Expecting ',' delimiter"),
        ('{"a": 1}{"a": 1}', "wrong shape: more than one object"),
        ('[{"a": 1}]', "wrong shape: a list"),
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "not JSON: the key 'c' stands in one object twice"),
        ('{"a": Infinity}', "not JSON: Infinity is not JSON"),
        ('{"a":' * 100_000, "not JSON: nested too deeply"),
        ("no answer", "not JSON: there is no object"),
        ('{"a": "' + "x" * 1_000_000 + '"}', "longer than 1,000,000 characters"),
    ],
)
def test_where_the_object_of_an_answer_is(text: str, problem: str | None) -> None:
    found = read(text)
    if problem is None:
        assert found == ({"a": 1}, None)
    else:
        assert found.value is None
        assert str(found.problem).startswith(problem)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,200.50", 1200.5), ("1.200,50", 1200.5), ("1 200,50", 1200.5), ("1'200.50", 1200.5), ("$1,200", 1200),
        ("1.200", 1.2), ("1,20", 1.2), ("12 €", 12), ("-3", -3), ("\u22123", -3), ("1e3", 1000), ("1.234.567", 1234567),
        (7, 7), (True, None), ("1,2,3", None), ("", None), ("nan", None), ("inf", None), ("1_0", None), (10**400, None),
        ("12 March", None), (None, None), ([1], None), ("1 20", None), ("9" * 100, None),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(text: object, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2024-03-12", "2024-03-12"), ("12.03.2024", "2024-03-12"), ("12 March 2024", "2024-03-12"),
        ("March 12, 2024", "2024-03-12"), ("12 Mar 2024", "2024-03-12"), ("2024/03/12", "2024-03-12"),
        ("20240312", "2024-03-12"), ("25/12/2024", "2024-12-25"), ("12/25/2024", "2024-12-25"),
        ("12/12/2024", "2024-12-12"), ("03/12/2024", None), ("31.02.2024", None), ("soon", None), (20240312, None),
    ],
)  # fmt: skip
def test_dates_in_the_spellings_that_mean_one_day(text: object, iso: str | None) -> None:
    assert day(text) == iso


@pytest.mark.parametrize(
    ("normaliser", "same", "other"),
    [
        ("exact", [("e\u0301", "é")], [("A", "a"), ("a b", "a  b")]),
        ("text", [("A  b", "a B"), ("ﬁn", "fin"), ("STRASSE", "straße")], [("é", "e"), ("a-b", "ab")]),
        ("name", [("The Café Röhm", "cafe rohm"), ("A & B", "a and b"), ("A. B.", "a b")], [("!!", "??"), ("a", "b")]),
        ("id", [("R 12/3-a", "r123A")], [("12", "123"), ("--", "//")]),
    ],
)
def test_normalisers(normaliser: str, same: list, other: list) -> None:
    for a, b in same:
        assert key(a, "string", normaliser) == key(b, "string", normaliser)
    for a, b in other:
        assert key(a, "string", normaliser) != key(b, "string", normaliser)


def test_values_of_each_kind_by_path() -> None:
    gold = {"name": "Müller & Co", "tags": ["a", "a", "b"], "amounts": [1, 5], "paid": False, "day": "2024-03-12",
            "seller": {"id": "DE-1"}}  # fmt: skip
    pred = {"name": "muller and co", "tags": ["A", "b", "b"], "amounts": ["1.4", 7], "paid": "false",
            "day": "12 March 2024", "seller": "DE-1", "more": [1, {"x": 2}]}  # fmt: skip
    found = counted(gold, pred)
    wanted = {"name": (1, 1, 1), "tags[]": (3, 3, 2), "amounts[]": (2, 2, 1), "paid": (1, 1, 1), "day": (1, 1, 1),
              "seller.id": (1, 0, 0), OUTSIDE: (0, 3, 0)}  # fmt: skip
    assert {path: tuple(counts) for path, counts in found.items() if any(counts)} == wanted


def test_objects_are_assigned_by_all_their_values() -> None:
    node = NODE.fields["lines"].item
    assert node is not None
    gold = [{"what": "a", "price": 1}, {"what": "a", "price": 2}, {"what": "b", "parts": [{"no": 1}, {"no": 2}]}]
    pred = [{"what": "c", "parts": [{"no": 2}, {"no": 1}]}, {"what": "a", "price": 2.004}, {"what": "a"}]
    assert assigned(node, gold, pred) == {0: 2, 1: 1, 2: 0}
    best = max(
        sum(total(tally(node, compare(node, *pair))).matched for pair in zip(gold, order, strict=True))
        for order in permutations(pred)
    )
    assert total(counted({"lines": gold}, {"lines": pred})).matched == best == 5


def test_two_lists_of_200_objects_take_under_a_second() -> None:
    rng = random.Random(0)
    lines = [
        {"what": rng.choice("abc"), "price": n % 17, "parts": [{"no": rng.randrange(5)} for _ in range(3)]}
        for n in range(200)
    ]
    other = copy.deepcopy(lines)
    for line in other:
        line["price"] += rng.choice((0, 1))
    reward, gold = Records(), example({"lines": lines})
    reward(json.dumps({"lines": other[:3]}), gold)  # scipy is imported once
    began = time.process_time()
    scored = reward(json.dumps({"lines": rng.sample(other, 200)}), gold)
    assert time.process_time() - began < 1
    assert 0.7 < (scored.score or 0) < 1


def test_of_more_objects_than_are_assigned_the_equal_ones_still_count() -> None:
    lines = [{"what": str(n), "price": n} for n in range(3 * MAX_ITEMS)]
    assert total(counted({"lines": lines}, {"lines": lines[::-1]})).matched == 2 * len(lines)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"beta": 0}, "beta must lie between 0 and 100"),
        ({"normalise": "loose"}, "normalise must be one of exact, text, name, id"),
        ({"schema": {"type": "array", "items": {"type": "string"}}}, "a record is an object"),
    ],
)
def test_wrong_settings_are_refused(settings: dict, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Records(**settings)


def test_the_reward_counts_as_the_task_does() -> None:
    task = RecordsTask()
    rng = random.Random(1)
    rows = [task.example(row, id=row["id"]) for row in synthesize(20, 5)]
    for one, other in zip(rows, rng.sample(rows, len(rows)), strict=True):
        text = other.completion or ""
        whole = task.counts(one.gold, text)["values"]["(all)"]
        for reward in (Records(beta=0.5), Records(beta=0.5, schema=RECEIPT)):
            assert reward(text, one).score == whole.f(0.5)
    with pytest.raises(ValueError, match="give the reward its schema"):
        Records()("{}", Example("a", "", (), gold={}))
    assert Records(beta=0.5).formula() == "F0.5(values of the record, by field)"
