"""Parts of a prompt that nobody reads are warned of."""

from __future__ import annotations

from pathlib import Path

from tiny import write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.pipeline import ledger
from adapters.pipeline.plan import make_plan
from adapters.recipe.load import load_recipe

RECIPE = """name: unread
task: funding
model: {base: none}
trainer: echo
stages:
  - {kind: dpo, data: [{path: pairs.jsonl, license: MIT}], batch_size: 2, learning_rate: 1e-5, validation: 0}
"""


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
