"""The sentences of `build_published_like.py`: every slot is a value of the published record it was written for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.data_aug.funding_statements import written

ROOT = Path(__file__).parents[2]


def test_the_slots_are_filled_with_every_value_of_the_record(tmp_path: Path) -> None:
    folder = os.environ.get("ADAPTERS_DATA")
    if not folder:
        pytest.skip("ADAPTERS_DATA is unset: it names the folder that holds funding/structures.jsonl")
    shutil.copy(Path(folder) / "funding/structures.jsonl", tmp_path)
    subprocess.run([sys.executable, ROOT / "scripts/build/build_published_like.py", tmp_path], check=True)
    rows = [json.loads(line) for line in (tmp_path / "published_like.jsonl").open(encoding="utf-8")]
    assert len({row["id"] for row in rows}) == len(rows) == 257
    assert sum(bool(row["funders"]) for row in rows) == 197
    for row in rows:
        names, ids, other = written._values(row["funders"])
        assert "⟦" not in row["funding_statement"]
        assert all(value in row["funding_statement"] for value in (*names, *ids, *other))


def test_the_sentences_hold_no_published_value() -> None:
    rows = [json.loads(line) for line in (ROOT / "tests/vectors/published_like.jsonl").open(encoding="utf-8")]
    for row in rows:
        assert ("record" in row) == ("⟦" in row["funding_statement"])
