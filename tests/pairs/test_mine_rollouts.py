"""Preference pairs from the rollouts of a run, whose rows its stage had changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import ie_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pairs import mine
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe

RECIPE = """name: varied
task: {use: ie, target: compact, missing_answer: whole}
model: {base: none}
trainer: echo
stages:
  - kind: grpo
    data: [{path: train.jsonl}]
    vary: 1.0
    batch_size: 4
    learning_rate: 1e-5
    rewards: [{use: ie, missing_answer: whole}]
"""


def rolled_out(folder: Path, *overrides: str) -> Plan:
    """A finished run, with a good and a bad answer to each of its rows."""
    (folder / "varied.yaml").write_text(RECIPE)
    file = load_recipe(folder / "varied.yaml", [f"run_dir={folder / 'runs'}", *overrides])
    backend = EchoBackend(file.recipe)
    plan = make_plan(file, backend)
    run_plan(plan, backend)
    [job] = plan.jobs
    graded = [(e.id, text, score) for e in job.examples for text, score in ((e.completion, 1.0), ("nothing", 0.0))]
    entries = [{"step": 1, "id": i, "reward": "ie", "score": s, "completion": text} for i, text, s in graded]
    write_jsonl(job.folder / "rollouts-0.jsonl", entries)
    return plan


@pytest.mark.parametrize("more", [[], ["stages.0.noise={use: ocr, share: 1.0}"]], ids=["varied", "noised too"])
def test_pairs_have_the_prompts_that_were_answered(tmp_path: Path, more: list[str]) -> None:
    write_jsonl(tmp_path / "train.jsonl", ie_rows(12))
    plan = rolled_out(tmp_path, *more)
    task, completions = mine.rollouts(plan.folder)
    pairs = mine.pairs(completions, task, margin=0.2, floor=0.5)
    asked = {e.id: list(e.prompt) for e in plan.jobs[0].examples}
    assert len(pairs) == 12
    assert {pair["id"]: pair["prompt"] for pair in pairs} == asked
    plain = {row["id"]: list(plan.task.example(row).prompt) for row in ie_rows(12)}
    assert all(asked[id] != plain[id] for id in plain)


@pytest.mark.slow
def test_rows_of_one_id_and_several_prompts_are_refused(tmp_path: Path) -> None:
    rows = ie_rows(12)
    write_jsonl(tmp_path / "train.jsonl", rows)
    repeated = rolled_out(tmp_path, "stages.0.data.0.repeat=2")
    with pytest.raises(UserError, match=r"the id 'r0' has several prompts .* cannot be told apart") as raised:
        mine.rollouts(repeated.folder)
    assert raised.value.at == ("stages", 0, "data")
    plain = rolled_out(tmp_path, "stages.0.data.0.repeat=2", "stages.0.vary=0", "name=plain")
    assert len(mine.rollouts(plain.folder)[1]) == 24
    write_jsonl(tmp_path / "train.jsonl", [*rows, {**rows[1], "text": "Ada r1 came late to Town 1 ."}])
    shared = rolled_out(tmp_path, "stages.0.vary=0", "name=shared")
    with pytest.raises(UserError, match="the id 'r1' has several prompts"):
        mine.rollouts(shared.folder)
