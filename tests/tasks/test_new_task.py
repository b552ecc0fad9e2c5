"""docs/new_task.md is followed to the letter: its files are written out, run, and tried on any text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks, named_files
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.plugins.registry import resolve
from adapters.recipe.fields import PluginSpec
from adapters.types import Counts, Task

PAGE = ROOT / "docs/new_task.md"
FILES = named_files(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keywords")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_files_are_all_there() -> None:
    assert sorted(FILES) == ["keywords.py", "keywords.yaml", "test.jsonl", "train.jsonl"]


def test_the_commands_of_the_page(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = [
        line.partition("#")[0].removeprefix("adapters ")
        for block in blocks(PAGE)
        for line in block.text.splitlines()
        if line.startswith("adapters run ")
    ]
    assert len(commands) == 2
    for command in commands:
        done = CliRunner().invoke(app, command.split(), env={"COLUMNS": "100"})
        assert done.exit_code == 0, done.output
    tested = CliRunner().invoke(app, ["tasks", "test", "./keywords.py:Keywords", "--data", "train.jsonl", "--json"])
    assert json.loads(tested.stdout) == {"name": "./keywords.py:Keywords", "rows": 3, "errors": [], "warnings": []}
    everything = CliRunner().invoke(app, ["run", "keywords.yaml", "--all"])
    assert "always empty" in everything.stdout
    report = json.loads((folder / "runs/keywords/report.json").read_text())
    test = report["sets"]["test"]["2-grpo"]
    assert (test["n"], test["valid"], test["always_empty"]) == (2, 1.0, {"KeywordF": 0.5})
    again = ["eval", "runs/keywords", "--data", "train.jsonl", "--json"]
    done = CliRunner().invoke(app, again)
    assert done.exit_code == 0, done.output
    [(name, models)] = json.loads(done.stdout)["sets"].items()
    assert name.startswith("train@")
    seen = models["2-grpo"]
    assert seen["metrics"]["exact"]["keyword"]["f1"] == 1.0
    assert seen["rewards"]["KeywordF"]["mean"] == 1.0
    done = CliRunner().invoke(app, ["run", "keywords.yaml", "task.sytem=x", "--dry-run"])
    assert done.exit_code == 2
    assert "task.sytem" in done.stderr
    assert "Did you mean system?" in done.stderr


@given(text=st.text() | st.sampled_from(["[]", "null", "[[]]", '["sea ice"]', "[" * 100_000, "[NaN]"]))
def test_the_task_keeps_the_contract(folder: Path, text: str) -> None:
    task = resolve("tasks", PluginSpec(use="./keywords.py:Keywords"), folder=folder)
    reward = resolve("rewards", PluginSpec(use="./keywords.py:KeywordF"), folder=folder)
    assert isinstance(task, Task)
    example = task.example(json.loads(FILES["test.jsonl"].splitlines()[0]))
    found = task.counts(example.gold, text)["exact"]["keyword"]
    assert found.gold == 2
    assert task.counts(example.gold, example.completion)["exact"]["keyword"] == Counts(2, 2, 2)
    assert 0.0 <= reward(text, example).score <= 1.0
    assert reward(text, example).score == found.f()
