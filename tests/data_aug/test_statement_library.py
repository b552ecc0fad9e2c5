"""`synthesize: funding_written`: every draw has exact labels, and other ids than the draw before."""

from __future__ import annotations

from itertools import islice

import pytest

from adapters.data_aug.funding_statements import library, written
from adapters.data_aug.funding_statements.redrawn import with_other_ids
from adapters.tasks.funding import FundingTask


def ids(row: library.Row) -> list[str]:
    return [i for f in row["funders"] for a in f["awards"] for i in a["award_ids"]]


@pytest.mark.slow
def test_every_statement_comes_once_with_exact_labels() -> None:
    size = len(library._library())
    rows = list(library.synthesize(size + 20, seed=3))
    assert len({row["id"] for row in rows}) == len(rows)
    assert not [why for row in rows if (why := written.refusal(row, row["funding_statement"]))]
    assert len({row["funding_statement"] for row in rows[:size]}) == size
    assert sum(not row["funders"] for row in rows[:size]) / size > 0.05
    task = FundingTask(target="compact")
    for row in rows:
        example = task.example(row)
        assert task.counts(example.gold, example.completion)["strict"]["funder"].f() in (1.0, 0.0)


def test_the_funders_stand_in_the_order_of_the_text() -> None:
    for row in library._library():
        assert written.labelled(row, row["funding_statement"])["funders"] == row["funders"]


@pytest.mark.slow
def test_a_row_depends_on_seed_and_index_only_and_ids_change() -> None:
    first, again = list(library.synthesize(60, seed=1)), list(islice(library.synthesize(600, seed=1), 60))
    assert first == again
    size = len(library._library())
    by_text = {row["funding_statement"]: row for row in library.synthesize(size, seed=1)}
    other = [row for row in library.synthesize(size, seed=2) if ids(row)]
    assert len([row for row in other if row["funding_statement"] in by_text]) < 0.2 * len(other)


def test_digits_change_in_text_and_labels_and_years_stay() -> None:
    row: library.Row = {
        "id": "",
        "source": "",
        "funding_statement": "By the A Fund (AB-2021-7777 and 7777; 0123) in 2021, extension AB-2021-7777-2.",
        "funders": [
            {
                "funder_name": "A Fund",
                "awards": [{"funding_scheme": [], "award_ids": ["AB-2021-7777", "7777", "0123"], "award_title": []}],
            }
        ],
    }
    drawn = with_other_ids(row, library.Random(1))
    first, second, third = ids(drawn)
    assert first.startswith("AB-2021-")
    assert third.startswith("0")
    assert {first[8:], second, third}.isdisjoint({"7777", "0123"})
    expected = f"By the A Fund ({first} and {second}; {third}) in 2021, extension AB-2021-7777-2."
    assert drawn["funding_statement"] == expected
