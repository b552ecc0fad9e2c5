"""Other funders in a labelled statement: labels stay exact, and what cannot follow stays as it was."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from adapters.data_aug.funding_links import mend
from adapters.data_aug.funding_statements import synthesize
from adapters.data_aug.funding_statements.redrawn import with_other_funders
from adapters.tasks.funding import FundingTask
from adapters.types import Row

TASK = FundingTask(target="compact")


def made(text: str, *names: str | None, **award: list[str]) -> dict[str, Any]:
    empty: dict[str, Any] = {"funding_scheme": [], "award_ids": [], "award_title": []}
    return {"funding_statement": text, "funders": [{"funder_name": name, "awards": [empty | award]} for name in names]}


def names(row: Row) -> list[Any]:
    return [funder["funder_name"] for funder in row["funders"]]


def test_made_statements_keep_exact_labels_and_get_other_names() -> None:
    kept = total = 0
    for index, row in enumerate(synthesize(300, seed=5)):
        other = TASK.vary(row, Random(index))
        after = TASK.example(other)
        for count in TASK.counts(after.gold, after.completion)["strict"].values():
            assert count.gold == count.pred == count.matched
        for old, new in zip(names(row), names(other), strict=True):
            assert (new in other["funding_statement"]) == (old in row["funding_statement"]) if old else new is None
            total += 1
            kept += old == new
        assert other == TASK.vary(row, Random(index))
    assert kept < 0.3 * total


def test_a_name_changes_wherever_it_stands_and_inside_other_labels() -> None:
    row = made("The Ada Fund paid. An Ada Fund Fellowship helped; the Ada Fund did not decide.", "Ada Fund",
               funding_scheme=["Ada Fund Fellowship"])  # fmt: skip
    other = with_other_funders(row, Random(1))
    (name,) = names(other)
    assert name != "Ada Fund"
    assert " " in name
    expected = row["funding_statement"].replace("Ada Fund", name)
    assert other["funding_statement"] == expected
    assert other["funders"][0]["awards"][0]["funding_scheme"] == [f"{name} Fellowship"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Paid by the Ada Science Fund (ASF) alone.", "Ada Science Fund"),
        ("Paid by the Ada Science Fund (ASF). The ASF did not decide.", "Ada Science Fund (ASF)"),
        ("An ASF-sponsored study.", "ASF"),
    ],
)
def test_a_name_with_a_short_form_beside_it_or_inside_a_word_stays(text: str, name: str) -> None:
    row = made(text, name)
    assert with_other_funders(row, Random(1)) == row


def test_an_acronym_becomes_an_acronym_and_no_funder_stays_none() -> None:
    for index in range(20):
        other = with_other_funders(made("Paid by ASF and by a Marie Curie grant.", "ASF", None), Random(index))
        first, second = names(other)
        assert " " not in first
        assert first != "ASF"
        assert second is None


def test_what_is_uncertain_stays_so() -> None:
    row = mend(made("ASF and BSF paid. X 12345 too.", "ASF", "BSF") | {"uncertain": ["funders.0.awards.0.award_ids"]})
    other = TASK.vary(row, Random(0))
    assert other["uncertain"] == row["uncertain"]
    assert TASK.example(other).masked


def test_labels_in_another_form_stay() -> None:
    row = made("Paid by ASF.", "ASF")
    for funders in (json.dumps(row["funders"]), [{"funder_name": "ASF"}], []):
        assert TASK.vary({**row, "funders": funders}, Random(0)) == {**row, "funders": funders}
