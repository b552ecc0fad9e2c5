"""The corpus of the vector."""

from __future__ import annotations

from pathlib import Path

import pytest
from graphs import TEXTS, write_jsonl


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", [{"id": i, "text": text} for i, text in TEXTS])
