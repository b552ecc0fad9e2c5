"""docs/environments.md is followed to the letter, with the echo trainer: its files are written, its commands run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks, named_files
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.recipe.fields import EnvironmentSpec

PAGE = ROOT / "docs/environments.md"


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in named_files(PAGE).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    lines = [line for block in blocks(PAGE) for line in block.text.splitlines()]
    commands = [line.partition(" #")[0] for line in lines if line.startswith("adapters ")]
    assert len(commands) == 2
    checked = CliRunner().invoke(app, shlex.split(commands[0])[1:], env={"COLUMNS": "300"}).stdout
    assert "with scripted texts ended after max_turns, with 6 turns and a reward of 0" in " ".join(checked.split())
    assert "counts tokens" not in checked
    by_tokens = [*shlex.split(commands[0])[1:], "stages.0.trl={}"]
    assert "the loss dapo counts tokens" in CliRunner().invoke(app, by_tokens, env={"COLUMNS": "300"}).stdout
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "120"})
        assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "runs/guess/report.json").read_text())["sets"]["test"]["1-grpo"]
    assert figures["parts"]["Guess"] == {"cut": 0, "endless": 1, "success": 0, "turns": 6}


def test_the_class_of_the_page_plays() -> None:
    scope: dict = {}
    text = named_files(PAGE)["guess.py"]
    assert len(text.splitlines()) <= 16
    exec(text, scope)
    game = scope["Guess"]()
    game.reset({"highest": 20}, 3)
    low, high, replies = 1, 20, []
    while not game.success:
        middle = (low + high) // 2
        reply, reward = game.step(str(middle))
        low, high = (middle + 1, high) if reply == "Higher." else (low, middle - 1)
        replies.append((reply, reward))
    assert replies[-1] == (None, 1.0)
    assert len(replies) <= 5


def test_the_page_names_every_key() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in EnvironmentSpec.model_fields)
