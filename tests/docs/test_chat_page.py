"""docs/chat.md is followed to the letter, with the echo trainer, and its tables say what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from docs_blocks import ROOT
from test_records_page import follow

from adapters.data.preference import TURN_KEYS
from adapters.tasks.chat import ChatTask

PAGE = ROOT / "docs/chat.md"


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    follow(PAGE, tmp_path)
    report = json.loads((tmp_path / "runs/desk/report.json").read_text())
    assert report["sets"]["test"]["base"]["metrics"]["exact"]["answer"]["gold"] == 1
    assert len((tmp_path / "desk.jsonl").read_text().splitlines()) == 1000


def test_the_page_names_the_keys_of_messages_and_the_fields() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in (*TURN_KEYS, *ChatTask.field_meanings, *ChatTask.modes))
