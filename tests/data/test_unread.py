"""Columns that nobody reads are counted in the ledger."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from conftest import funding_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.data.load import load_examples
from adapters.data.unread import Noted
from adapters.pipeline import ledger
from adapters.pipeline.plan import make_plan
from adapters.recipe.fields import PathSource
from adapters.recipe.load import load_recipe
from adapters.tasks.funding import FundingTask

RECIPE = """name: unread
task: funding
model: {base: none}
trainer: echo
stages:
  - {kind: dpo, data: [{path: pairs.jsonl, license: MIT}], batch_size: 2, learning_rate: 1e-5, validation: 0}
"""


def test_a_row_notes_what_is_read_of_it() -> None:
    row = Noted({"a": 1, "b": 2, "c": None, "d": 4})
    assert row.unread == {"a", "b", "d"}, "null says that there is nothing"
    assert (row["a"], row.get("b"), row.get("x"), "d" in row) == (1, 2, None, True)
    assert row.unread == {"d"}
    for read_all in (dict, lambda r: {**r}, list, lambda r: dict(r.items()), lambda r: list(r.values()), json.dumps):
        row = Noted({"a": 1})
        read_all(row)
        assert row.unread == set()
    assert pickle.loads(pickle.dumps(row)) == {"a": 1}


def test_columns_that_nobody_reads_are_counted(tmp_path: Path) -> None:
    rows = [{**row, "doi": "10.1/x", "lang": "en"} for row in funding_rows(6)]
    rows[0]["year"] = 1999
    write_jsonl(tmp_path / "a.jsonl", rows)
    source = PathSource(path="a.jsonl", where={"lang": "en"})
    [entry] = load_examples([source], FundingTask(), root=tmp_path, seed=1).ledger
    assert entry["unread"] == {"doi": 6, "year": 1}


def test_a_part_of_the_prompt_that_nobody_reads_is_a_warning(tmp_path: Path) -> None:
    pair = {"prompt": "Who paid?", "chosen": "The Sample Trust.", "rejected": "Nobody.", "system": "Be brief."}
    rows = [
        {**pair, "id": str(n), "prompt": f"Who paid for {n}?", "history": [["a", "b"]], "doi": "x"} for n in range(4)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "r.yaml").write_text(RECIPE)
    file = load_recipe(tmp_path / "r.yaml")
    plan = make_plan(file, EchoBackend(file.recipe))
    assert ledger.findings(ledger.of_plan(plan)) == ["nobody reads the column 'history', which 4 rows of pairs have"]
