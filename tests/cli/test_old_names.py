"""Old verbs and options work as the new ones, and the new name is said once, on standard error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["synthesize", "funding", "-n", "2"], ["data", "synthesize", "funding", "-n", "2"]),
        (["noise", "ROWS", "-n", "1"], ["data", "noise", "ROWS", "-n", "1"]),
        (["noise", "ROWS", "--help"], ["data", "noise", "ROWS", "--help"]),
    ],
)
def test_old_verbs(tmp_path: Path, old: list[str], new: list[str]) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", funding_rows(2))
    old, new = ([str(rows) if word == "ROWS" else word for word in words] for words in (old, new))
    assert run(*new)[2] == ""
    code, stdout, stderr = run(*old)
    assert (code, stdout) == run(*new)[:2]
    assert stderr == f"adapters {old[0]} is now adapters data {old[0]}.\n"


@pytest.mark.parametrize("words", [[], ["--help"], ["list"]])
def test_a_group_that_has_the_name_of_an_old_verb_is_the_group(words: list[str]) -> None:
    code, stdout, stderr = run("noise", *words)
    assert (code, stderr) == (0, "")
    assert "noise families" in stdout or "adapters.data_aug.noise" in stdout


def test_the_old_name_of_merge_shards(tmp_path: Path) -> None:
    code, _, stderr = run("extract-merge", tmp_path / "none.jsonl", "-o", tmp_path / "all.jsonl")
    assert code == 2
    assert stderr.startswith("adapters extract-merge is now adapters data merge-shards.\n")


@pytest.mark.parametrize("old", ["--reading=fixed", "--reading fixed", "--scorer corrected"])
def test_old_options(tmp_path: Path, old: str) -> None:
    rows = funding_rows(4)
    gold = write_jsonl(tmp_path / "gold.jsonl", rows)
    answers = [{"id": row["id"], "completion": json.dumps(row["funders"])} for row in rows[:3]]
    predictions = write_jsonl(tmp_path / "predictions.jsonl", answers)
    code, stdout, stderr = run("score", predictions, gold, "--json", *old.split())
    assert code == 0, stderr
    assert (stdout, code) == run("score", predictions, gold, "--json", "--set", "reading=fixed")[1::-1]
    assert stderr.count("--reading is now --scorer.\n") == old.startswith("--reading")


def test_an_old_option_is_one_only_where_the_new_one_exists() -> None:
    code, _, stderr = run("schema", "--key", "x")
    assert code == 2
    assert "is now" not in stderr
    assert "No such option" in stderr
