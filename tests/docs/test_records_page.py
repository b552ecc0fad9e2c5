"""docs/records.md is followed to the letter, with the echo trainer: its files are written and its commands run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from docs_blocks import ROOT, blocks, named_files
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.rewards.records_schema import _CHECKS, _READ, OWN
from adapters.rewards.records_values import NORMALISERS
from adapters.tasks.records import RecordsTask

PAGE = ROOT / "docs/records.md"
TEXT = PAGE.read_text(encoding="utf-8")


def follow(page: Path, folder: Path) -> None:
    """Write the files of a page into a folder, the current one, and run its four commands."""
    for name, text in named_files(page).items():
        (folder / name).write_text(text, encoding="utf-8")
    lines = [line for block in blocks(page) for line in block.text.splitlines()]
    commands = [line.removeprefix("$ ") for line in lines if line.removeprefix("$ ").startswith("adapters ")]
    assert len(commands) == 4
    for command in commands:
        done = CliRunner().invoke(app, shlex.split(command)[1:], env={"COLUMNS": "120"})
        assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    follow(PAGE, tmp_path)
    report = json.loads((tmp_path / "runs/invoices/report.json").read_text())
    assert report["sets"]["test"]["base"]["metrics"]["values"]["(all)"]["gold"] == 8
    assert len((tmp_path / "receipts.jsonl").read_text().splitlines()) == 1000


def test_the_page_shows_the_schema_as_a_model_sees_it() -> None:
    schema = json.loads(named_files(PAGE)["invoice.schema.json"])
    assert f"```\n{RecordsTask(schema=schema).node.shown()}\n```" in TEXT


def test_the_page_names_every_keyword_and_normaliser() -> None:
    named = set(re.findall(r"`([\w$-]+)(?:: [\w-]+)?`", TEXT))
    assert {*_CHECKS, *_READ, *OWN, *NORMALISERS} - {"anyOf", "$ref"} <= named
