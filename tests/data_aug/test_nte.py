"""`adapters data build-nte`: questions from rows of entities."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.tasks.mine import MineTask

ROWS = [
    {"id": "1", "text": "BRCA1 and BRCA2: BRCA1 again", "schema": ["gene", "drug"], "gold": {"gene": ["BRCA1"]}},
    {"id": "2", "text": "Nothing here", "schema": ["gene", "drug"], "gold": {"gene": [], "drug": []}},
    {"id": "3", "text": "p53 x", "schema": ["gene"], "gold": {"gene": ["p53", "absent"]}},
    {"id": "4", "text": "a b a", "schema": ["x"], "gold": {"x": ["a"]}, "spans": [[4, 5, "x"], [0, 3, "y"]]},
    {"id": "5", "text": "secret test", "schema": ["gene"], "gold": {"gene": ["secret"]}},
    {"id": "6", "text": "a met b", "schema": ["met"], "gold": {"met": [{"head": "a", "tail": "b"}]}, "task": "RE"},
]


def build(folder: Path, *options: str) -> tuple[list[dict], dict]:
    write_jsonl(folder / "ie.jsonl", ROWS)
    write_jsonl(folder / "test.jsonl", [{"text": "Secret, test!"}])
    arguments = ["data", "build-nte", str(folder / "ie.jsonl"), "-o", str(folder / "out.jsonl"), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--exclude", str(folder / "test.jsonl"), *options])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    return rows, json.loads(result.stdout)


def test_each_label_of_a_schema_becomes_a_question(tmp_path: Path) -> None:
    rows, summary = build(tmp_path, "--negatives", "1")
    found = {(row["id"], row["instruction"]): row["gold"] for row in rows}
    assert found == {
        ("1", "gene"): [[0, 5], [17, 22]],
        ("1", "drug"): [],
        ("2", "gene"): [],
        ("2", "drug"): [],
        ("3", "gene"): [[0, 3]],
        ("4", "x"): [[4, 5]],  # its own places, not every "a"
    }
    assert summary == {
        **{"read": 6, "rows": 6, "positives": 3, "empty": 3, "empty_left_out": 0, "excluded": 1, "relations": 1},
        **{"repeated": 0, "not_found": {"gene": 1}},
    }
    assert all(MineTask().example(row) for row in rows)


def test_empty_rows_are_a_share_at_most_and_the_draw_is_repeated(tmp_path: Path) -> None:
    rows, summary = build(tmp_path, "--negatives", "0.25", "--seed", "3")
    assert (summary["positives"], summary["empty"], summary["empty_left_out"]) == (3, 1, 2)
    assert build(tmp_path, "--negatives", "0.25", "--seed", "3")[0] == rows
    assert len(build(tmp_path, "--max-rows", "2")[0]) == 2
    assert build(tmp_path, "--negatives", "0")[1]["empty"] == 0


def test_labels_and_questions_are_asked_in_other_words(tmp_path: Path) -> None:
    rows, _ = build(tmp_path, "--kind", "label", "--negatives", "1")
    assert {(row["id"], row["instruction"]): row["gold"] for row in rows}["1", "This text mentions a gene"] is True
    assert {row["gold"] for row in rows} == {True, False}
    rows, _ = build(tmp_path, "--question", "Which {label} is named?")
    assert rows[0]["instruction"] == "Which gene is named?"


def test_the_published_format_has_the_prompt_in_its_words(tmp_path: Path) -> None:
    rows, _ = build(tmp_path, "--as", "nte", "--negatives", "0")
    words, tags = rows[0]["words"], rows[0]["ner"]
    assert " ".join(words) == (
        "User : BRCA1 and BRCA2 : BRCA1 again Question : What is the gene mentioned ? Assistant : Answer : The gene is"
    )
    assert [n for n, tag in enumerate(tags) if tag == "B"] == [2, 6]
    assert all(MineTask().example(row) for row in rows)
    rows, _ = build(tmp_path, "--as", "nte", "--kind", "label", "--negatives", "1")
    assert rows[0]["ner"][:4] == ["O", "O", "B", "O"]
    assert rows[1]["ner"][:4] == ["O", "O", "O", "B"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "x"], "--kind is span or label, not 'x'."),
        (["--negatives", "2"], "--negatives is a share and must lie between 0 and 1, got 2.0."),
        (["--question", "What?"], "--question must contain {label}."),
        (["--as", "x"], "--as is rows or nte, not 'x'."),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: list[str], message: str) -> None:
    write_jsonl(tmp_path / "ie.jsonl", ROWS)
    result = CliRunner().invoke(
        app, ["data", "build-nte", str(tmp_path / "ie.jsonl"), "-o", str(tmp_path / "o.jsonl"), *options]
    )
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "o.jsonl").exists()
