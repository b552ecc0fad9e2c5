"""What the card says of the rows that a stage was trained on, and of its steps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.pipeline.run_folder import Stage
from adapters.publish import stages

BY_DOMAIN = {"bio": {"rows": 20}, "news": {"rows": 4}}


def seen(kind: str, *, rows: int = 40, batch: int = 4, held_out: int = 0, **manifest: Any) -> str:
    """The sentence on a stage whose plan had so many rows."""
    stage = Stage(Path(f"run/1-{kind}"), 0, kind, {}, manifest)
    ledger = {"stages": {stage.name: {"rows": rows, "validation": {"rows": held_out}}}}
    made: Any = SimpleNamespace(ledger=ledger)
    return str(stages._data(made, stage, {"kind": kind, "batch_size": batch})["seen"])


def test_what_the_steps_saw_is_counted_by_the_steps_that_were_taken() -> None:
    all_of_it = "Trained on: 40 examples (2 rows were held out, and 1 row was left out as too long); the steps saw"
    assert seen("sft", steps=25, held_out=2, too_long=1) == f"{all_of_it} 40 of them, 2.5 times each."
    assert seen("sft", steps=10) == "Trained on: 40 examples; the steps saw 40 of them, once each."
    early = seen("sft", steps=25, figures={"steps": 5, "select": {"stopped_early": True}})
    assert early == "Trained on: 40 examples; the steps saw no more than 20 of them."
    replaced = seen("grpo", steps=5, figures={"steps": 5, "groups_replaced": 3})
    assert replaced.endswith("no more than 23 of them."), "a fresh prompt for each group that was replaced"
    windows = seen("token_classification", steps=25, figures={"steps": 25})
    assert windows.endswith("examples; the steps saw 100 windows of their texts.")


@pytest.mark.parametrize(("kind", "what"), [("best_of", "its own answers"), ("dpo", "pairs of its own answers")])
def test_a_stage_that_samples_was_trained_on_what_it_learned(kind: str, what: str) -> None:
    told = seen(kind, steps=6, held_out=3, figures={"steps": 6, "samples": {"rows": 40, "learned": 12}})
    saw = "the steps saw 12 of them, 2 times each."
    assert told == f"Trained on: 12 {what} to 40 prompts (3 rows were held out); {saw}"


def test_a_distilled_stage_sees_equally_many_prompts_of_each_domain() -> None:
    told = seen("distill", rows=24, steps=10, teachers=BY_DOMAIN, figures={"steps": 10})
    assert told == "Trained on: 24 prompts; the steps saw of bio 20 of 20, once each; of news 4 of 4, 5 times each."
    left_out = {"unreadable": {"bio": 3, "news": 1, "text": "…"}}
    told = seen("distill", rows=30, steps=5, teachers=BY_DOMAIN, figures={"steps": 5, **left_out})
    assert told == (
        "Trained on: 24 prompts (4 rows were left out, because the task cannot read the teacher's answer, and 2 rows "
        "were not drawn); the steps saw of bio no more than 10 of 20; of news 4 of 4, 2.5 times each."
    )


@pytest.mark.parametrize(("figures", "shown"), [({}, 4), ({"samples": {"rows": 4, "learned": 1}}, None)])
def test_rows_by_source_are_trained_on_unless_answers_are(figures: dict[str, Any], shown: int | None) -> None:
    stage = Stage(Path("run/1-sft"), 0, "sft", {}, {"data": [{"source": "a"}], "figures": figures})
    ledger = {"stages": {stage.name: {"rows": 4, "sources": [{"source": "a", "trained": 4}]}}}
    made: Any = SimpleNamespace(ledger=ledger)
    [entry] = stages._data(made, stage, {"kind": "sft", "batch_size": 4})["data"]
    assert entry.get("trained") == shown
