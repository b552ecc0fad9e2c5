"""The table of base and tuned models, and gold beside predictions."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.evaluation.alignment import compare_values
from adapters.evaluation.comparison import deltas


def figures(f1: float, *fields: str, gold: int = 4) -> dict[str, Any]:
    return {"n": 10, "metrics": {"strict": {field: {"f1": f1, "gold": gold} for field in fields}}}


def test_the_average_needs_two_sets_of_one_field() -> None:
    one = {"a": {"base": figures(0.25, "funder"), "1-sft": figures(0.5, "funder")}}
    assert [(line["set"], line["delta"]) for line in deltas(one)] == [("a", 0.25)]
    two = {**one, "b": {"base": figures(0.0, "funder"), "1-sft": figures(0.75, "funder")}}
    assert [(line["set"], line["delta"]) for line in deltas(two)] == [("a", 0.25), ("b", 0.75), ("average", 0.5)]
    assert deltas(two)[-1]["n"] == 20
    fields = ("funder", "award")
    several = {**one, "b": {"base": figures(0.0, *fields), "1-sft": figures(0.75, *fields)}}
    assert [(line["set"], line["field"]) for line in deltas(several)] == [
        ("a", "funder"), ("b", "funder"), ("b", "award")
    ]  # fmt: skip


def test_a_set_of_one_model_and_a_field_without_gold_are_left_out() -> None:
    assert deltas({"a": {"base": figures(0.25, "funder")}}) == []
    assert deltas({"a": {"base": figures(0.25, "funder", gold=0), "1-sft": figures(0.5, "funder", gold=0)}}) == []


@pytest.mark.parametrize(
    ("gold", "pred", "beside"),
    [
        # Letters in common: 6 of 10, 5 of 10, and none where nothing else is left to compare with.
        (["abcdefghij", "1"], ["abcdefxxxx", "2"], ["abcdefxxxx", "2"]),
        (["abcdefghij", "1"], ["abcdexxxxx", "2"], [None, None]),
        (["Wellcome Trust"], ["DFG"], ["DFG"]),
    ],
    ids=["alike", "unlike", "the only ones"],
)
def test_unequal_values_stand_side_by_side_when_alike_or_alone(gold: list, pred: list, beside: list) -> None:
    rows = compare_values(gold, pred)
    assert [row.pred for row in rows if row.gold is not None] == beside
    assert not any(row.matched for row in rows)


def test_at_most_200_values_are_shown() -> None:
    assert len(compare_values(list(range(500)), list(range(500)))) == 200
