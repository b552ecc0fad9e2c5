"""The student's recipe in a folder with its teachers and rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from student import RECIPE, teacher
from tiny import ie_rows, write_jsonl


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "bio.jsonl", ie_rows(20, "b"))
    write_jsonl(tmp_path / "news.jsonl", ie_rows(12, "n"))
    for value, name in enumerate(("bio", "news"), 1):
        teacher(tmp_path / "teachers" / name, value=float(value))
    (tmp_path / "student.yaml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    return tmp_path / "student.yaml"
