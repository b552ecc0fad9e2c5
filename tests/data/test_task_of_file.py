"""The task of a data file: found where only one can read it, asked for otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import funding_rows, ie_rows, write_jsonl

from adapters.data.task_of_file import task_of_file
from adapters.data_aug import desk, receipts
from adapters.data_aug.agent import synthesize
from adapters.errors import UserError


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (funding_rows(1)[0], "funding"),
        ({"id": "bare", "funders": []}, "funding"),
        (ie_rows(1)[0], "ie"),
        (next(iter(synthesize(1, 0))), "agent"),
        (next(receipts.synthesize(1, 0)), "records"),
        (next(desk.synthesize(1, 0)), "chat"),
        ({"prompt": "Where?", "completion": "In Lima."}, "chat"),
        ({"id": "text", "text": "x", "schema": ["a"], "task": "NER", "gold": '{"a": []}'}, "ie"),
        ({"id": "repr", "funding_statement": "x", "funders": "[{'funder_name': 'X'}]"}, "funding"),
        ({"id": "says so", "task": "agent", "text": "x"}, "agent"),
    ],
)
def test_the_rows_say_which_task_reads_them(tmp_path: Path, row: dict, task: str) -> None:
    assert task_of_file(write_jsonl(tmp_path / "rows.jsonl", [row])) == task


def test_a_given_task_is_taken_as_it_is(tmp_path: Path) -> None:
    assert task_of_file(tmp_path / "not read", "mine.py:Task") == "mine.py:Task"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"id": "a", "text": "x"}, "line 1: no installed task reads the labels of this record; name the task with --t"),
        ({"funders": [], "gold": {"person": []}}, "the tasks funding, ie could all read this record"),
    ],
)
def test_a_file_that_leaves_it_open_is_asked_about(tmp_path: Path, row: dict, text: str) -> None:
    with pytest.raises(UserError, match=text):
        task_of_file(write_jsonl(tmp_path / "rows.jsonl", [row]))


def test_unreadable_lines_are_passed_over(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", funding_rows(1))
    path.write_text("{torn\n" + path.read_text())
    assert task_of_file(path) == "funding"
