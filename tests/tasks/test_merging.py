"""The records of a text's overlapping parts as one: what was seen twice is one, what was cut in two is joined."""

from __future__ import annotations

import pytest

from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.merging import merge


def award(*ids: str, scheme: tuple[str, ...] = (), title: tuple[str, ...] = ()) -> dict:
    return {"funding_scheme": list(scheme), "award_ids": list(ids), "award_title": list(title)}


def funder(name: str | None, *awards: dict) -> dict:
    return {"funder_name": name, "awards": list(awards) or [award()]}


def compact(*records: list[dict]) -> list[dict]:
    return FundingTask(target="compact").merge(records)


def nested(*records: list[dict]) -> list[dict]:
    return FundingTask(target="nested").merge(records)


def test_a_funder_seen_twice_is_one() -> None:
    record = [funder("Sample Trust", award("A-1"))]
    assert compact(record, record) == record
    assert nested(record, [funder("sample  trust", award("A 1"))]) == record, "spelling makes no second one"


def test_a_funder_whose_ids_stand_in_two_parts_is_joined() -> None:
    first, second = [funder("Sample Trust", award("1", "2"))], [funder("Sample Trust", award("2", "3"))]
    assert compact(first, second) == [funder("Sample Trust", award("1", "2", "3"))]
    apart = [funder("Sample Trust", award("1"), award("2"))], [funder("Sample Trust", award("2"), award("3"))]
    assert nested(*apart) == [funder("Sample Trust", award("1"), award("2"), award("3"))]
    assert compact([funder("Sample Trust", award("1"))], [funder("Sample Trust", award("3"))]) == [
        funder("Sample Trust", award("1", "3"))
    ]


def test_ids_without_their_funder_find_it() -> None:
    whole = [funder("Sample Trust", award("1", "2"))]
    assert compact(whole, [funder(None, award("2", "3"))]) == [funder("Sample Trust", award("1", "2", "3"))]
    assert compact([funder(None, award("2", "3"))], whole) == [funder("Sample Trust", award("2", "3", "1"))]
    assert compact(whole, [funder(None, award("9"))]) == [*whole, funder(None, award("9"))]


def test_an_empty_award_gives_way() -> None:
    assert nested([funder("Sample Trust")], [funder("Sample Trust", award("7"))]) == [
        funder("Sample Trust", award("7"))
    ]
    assert nested([funder("Sample Trust")], [funder("Sample Trust")]) == [funder("Sample Trust")]


def test_an_acronym_in_brackets_names_the_same_funder() -> None:
    first = [funder("Example Science Foundation (ESF)", award("1"))]
    for other in ("ESF", "Example Science Foundation"):
        assert compact(first, [funder(other, award("2"))]) == [
            funder("Example Science Foundation (ESF)", award("1", "2"))
        ]
    countries = [funder("Ministry of Samples (Spain)")], [funder("Ministry of Samples (Italy)")]
    assert compact(*countries) == [*countries[0], *countries[1]]


def test_what_one_answer_keeps_apart_stays_apart() -> None:
    record = [funder("Sample Trust", award("1")), funder("Sample Trust", award("2"))]
    assert compact(record) == record
    assert compact([], record, []) == record


def test_a_funder_named_twice_in_each_part_is_the_one_with_its_awards() -> None:
    record = [funder("Sample Trust", award("A-1")), funder("Sample Trust", award("B-2"))]
    assert nested(record, record) == record
    assert nested(record, record[1:]) == record


def test_awards_without_ids_are_one_by_scheme_or_title() -> None:
    first = [funder("Sample Trust", award(scheme=("Young Minds",)))]
    second = [funder("Sample Trust", award(scheme=("young minds",), title=("On Samples",)))]
    assert nested(first, second) == [funder("Sample Trust", award(scheme=("Young Minds",), title=("On Samples",)))]


def test_merging_changes_no_input() -> None:
    first, second = [funder("Sample Trust", award("1"))], [funder("Sample Trust", award("2"))]
    compact(first, second)
    assert (first, second) == ([funder("Sample Trust", award("1"))], [funder("Sample Trust", award("2"))])


def test_items_of_ie_are_a_set() -> None:
    entity = {"label": "place", "text": "Oslo", "head": None, "tail": None}
    relation = {"label": "in", "text": None, "head": "Ada", "tail": "Oslo"}
    other = {**entity, "text": "Lima"}
    assert IeTask().merge([[entity, relation], [other, entity]]) == [relation, other, entity]


ITEM = {"name": "Rye bread", "quantity": 2}


@pytest.mark.parametrize(
    ("records", "merged"),
    [
        ([{"shop": "A", "items": [ITEM]}, {"total": 3, "items": []}], {"shop": "A", "items": [ITEM], "total": 3}),
        ([{"shop": "A"}, {"shop": "B"}], {"shop": "A"}),
        ([{"shop": None}, {"shop": "B"}], {"shop": "B"}),
        ([[ITEM], [ITEM]], [ITEM]),
        ([[ITEM, ITEM], [ITEM]], [ITEM, ITEM]),
        ([[{"name": "Rye bread"}], [{"name": "rye bread", "price": 2.5}]], [{"name": "Rye bread", "price": 2.5}]),
        ([[ITEM], [{**ITEM, "quantity": 3}]], [ITEM, {**ITEM, "quantity": 3}]),
        ([[{"quantity": 1}], [{"quantity": 1, "price": 2}]], [{"quantity": 1}, {"quantity": 1, "price": 2}]),
        ([["Oslo", "Lima"], ["OSLO", "Rome"]], ["Oslo", "Lima", "Rome"]),
        ([{"a": {"b": "x"}}, {"a": {"c": "y"}}], {"a": {"b": "x", "c": "y"}}),
    ],
)
def test_the_default_for_other_tasks(records: list, merged: object) -> None:
    assert merge(records) == merged
