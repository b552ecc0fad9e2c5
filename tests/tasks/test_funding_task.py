"""Rows to prompts and targets and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import funding_rows

from adapters.tasks.funding import FundingTask
from adapters.types import Counts, Task

AWARD = {"funding_scheme": ["Starting Grant"], "award_ids": ["A-1", "B 2"], "award_title": ['On "quotes" & ünïcode']}
GOLD = [
    {"funder_name": "Fonds für Forschung", "awards": [AWARD]},
    {"funder_name": None, "awards": [{"funding_scheme": ["Key Programme"], "award_ids": [], "award_title": []}]},
    {"funder_name": "Trust", "awards": [{"funding_scheme": [], "award_ids": [], "award_title": []}]},
]
ROW = {"funding_statement": "Text with {braces} and {statement}.", "funders": GOLD}


def test_published_prompt_and_target() -> None:
    task = FundingTask()
    assert isinstance(task, Task)
    example = task.example(ROW, id="7", source="s")
    assert [m["role"] for m in example.prompt] == ["system", "user"]
    assert (
        example.prompt[1]["content"]
        == "Extract funding information from the following statement:\n\nText with {braces} and {statement}."
    )
    assert example.prompt[0]["content"].count("\n") == 3
    assert example.completion == json.dumps(GOLD, indent=2, ensure_ascii=False)
    assert (example.id, example.source) == ("7", "s")


@pytest.mark.parametrize("target", ["nested", "compact"])
def test_the_target_scores_full_marks(target: str) -> None:
    task = FundingTask(target=target)
    example = task.example(ROW)
    for fields in task.counts(example.gold, example.completion or "").values():
        for count in fields.values():
            assert count.gold == count.pred == count.matched
    assert task.is_well_formed(example.completion or "")
    assert fields["award_id"] == Counts(2, 2, 2)


def test_compact_is_short() -> None:
    compact = FundingTask(target="compact").example(ROW).completion or ""
    assert compact.startswith(
        '[{"funder_name":"Fonds für Forschung","funding_scheme":["Starting Grant"],"award_ids":["A-1","B 2"]'
    )
    assert compact.endswith('{"funder_name":"Trust"}]')
    assert FundingTask(target="compact").example({**ROW, "funders": []}).completion == "[]"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"funding_statement": " "}, "missing or empty"),
        ({"funding_statement": 3}, "funding_statement is a value of type int, not a text"),
        ({"funders": None}, "list of objects"),
        ({"funders": "{"}, "not JSON"),
        ({"funders": [3]}, "list of objects"),
    ],
)
def test_bad_rows_say_why(change: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        FundingTask().example({**ROW, **change})


def test_prompt_without_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="must contain"):
        FundingTask(user="Extract!")


@pytest.mark.parametrize(
    ("text", "well_formed"),
    [
        ("[]", True), ('{"funders": []}', True), ('[{"funder_name": "A"}]', True), ("```json\n[]\n```", True),
        ("", False), ("null", False), ('{"a": 1}', False), ("[", False), ("No funder is named.", False),
    ],
)  # fmt: skip
def test_a_list_of_funders_is_well_formed(text: str, well_formed: bool) -> None:
    assert FundingTask().is_well_formed(text) is well_formed


@given(st.text() | st.sampled_from(["[]", '[{"funder_name": "A"}]', '{"a": 1}', '[{"funder_name": "A"}']))
def test_no_text_breaks_the_counts(text: str) -> None:
    task = FundingTask()
    gold = task.example(funding_rows(1)[0]).gold
    counts = task.counts(gold, text)["balanced"]["funder"]
    assert counts.gold == 1
    assert counts.pred == 0 or task.is_well_formed(text)
