"""The loop around the training, on the instant echo backend: skip, continue, refuse, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import funding_rows, write_jsonl

from adapters import adapter, plan, recipe_file
from adapters import run as running
from adapters.backends.echo import EchoBackend
from adapters.types import UserError

RECIPE = """name: mine
task: funding
model: {base: none}
trainer: echo
run_dir: RUNS
stages:
  - kind: sft
    data: [{path: train.jsonl, name: real}, {synthesize: funding, n: 5, name: synthetic}]
    learning_rate: 1e-4
    validation: 0.1
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    beta: 0.1
    rewards: [funding]
evaluate:
  - {name: seen, data: [{path: train.jsonl, name: real}, {path: new.jsonl, name: new}]}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(30))
    write_jsonl(tmp_path / "new.jsonl", funding_rows(10, "n"))
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    return path


def start(path: Path, *overrides: str) -> tuple[plan.Plan, dict]:
    file = recipe_file.load(path, overrides)
    backend = EchoBackend(file.recipe)
    made = plan.make(file, backend)
    return made, running.run(made, backend)


def test_report_has_every_model_set_and_source(mine: Path) -> None:
    made, report = start(mine)
    seen = report["sets"]["seen"]
    assert list(seen) == ["base", "1-sft", "2-grpo"]
    assert seen["base"]["metrics"]["balanced"]["funder"]["recall"] == 0
    assert seen["2-grpo"]["metrics"]["balanced"]["funder"]["f1"] > 0.7
    low, high = seen["2-grpo"]["metrics"]["balanced"]["funder"]["f1_ci"]
    assert low <= seen["2-grpo"]["metrics"]["balanced"]["funder"]["f1"] <= high
    assert seen["2-grpo"]["by_source"]["real"]["metrics"]["strict"]["funder"]["f1"] == 1
    assert seen["2-grpo"]["by_source"]["new"]["metrics"]["strict"]["funder"]["f1"] == 0
    assert seen["2-grpo"]["rewards"]["funding"]["mean"] > seen["base"]["rewards"]["funding"]["mean"]
    samples = (made.folder / "eval/2-grpo/seen/samples.jsonl").read_text().splitlines()
    assert len(samples) == 40
    ledger = json.loads((made.folder / "ledger.json").read_text())
    assert [s["source"] for s in ledger["stages"]["1-sft"]["sources"]] == ["real", "synthetic"]
    assert ledger["tests"]["seen"]["also_in_training"] == 30
    assert any("30 of 40 texts also stand in the training data" in note for note in made.notes)


def test_the_same_command_skips_what_is_done(mine: Path) -> None:
    made, report = start(mine)
    before = {p: p.stat().st_mtime_ns for p in made.folder.rglob("adapter_model.safetensors")}
    again, second = start(mine)
    assert all(job.done for job in again.jobs)
    assert second["sets"] == report["sets"]
    assert before == {p: p.stat().st_mtime_ns for p in made.folder.rglob("adapter_model.safetensors")}


def test_a_changed_recipe_is_refused_by_the_key(mine: Path) -> None:
    made, _ = start(mine)
    with pytest.raises(UserError, match=r"stages.0.learning_rate was 0.0001, is 0.0002.*\n.*--fresh"):
        start(mine, "stages.0.learning_rate=2e-4")
    write_jsonl(mine.parent / "train.jsonl", funding_rows(29))
    with pytest.raises(UserError, match="the training data"):
        start(mine)
    assert running.set_aside(made.folder) == made.folder.with_name("mine.1")
    start(mine, "stages.0.learning_rate=2e-4")


def test_changed_test_sets_only_evaluate_again(mine: Path) -> None:
    start(mine)
    made, report = start(mine, "evaluate.0.name=other")
    assert list(report["sets"]) == ["other"]
    assert all(job.done for job in made.jobs)


def test_a_damaged_adapter_is_trained_again(mine: Path) -> None:
    made, _ = start(mine)
    weights = made.jobs[1].folder / "adapter_model.safetensors"
    weights.write_bytes(b"{}")
    assert adapter.problems(made.jobs[1].folder) == [f"{weights} was changed after training"]
    file = recipe_file.load(mine)
    assert [job.done for job in plan.make(file, EchoBackend(file.recipe)).jobs] == [True, False]


def test_leftovers_of_another_job_are_not_continued(mine: Path) -> None:
    file = recipe_file.load(mine)
    made = plan.make(file, EchoBackend(file.recipe))
    work = adapter.partial(made.jobs[0].folder)
    work.mkdir(parents=True)
    (work / "fingerprint").write_text("another")
    (work / "stale").write_text("x")
    start(mine)
    assert not (made.jobs[0].folder / "stale").exists()


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "adapters", *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=env
    )


def test_the_command_line_shows_plan_and_results(mine: Path) -> None:
    done = command("run", str(mine), "stages.0.max_steps=2", cwd=mine.parent)
    assert done.returncode == 0, done.stderr
    for text in (
        "1-sft",
        "2 steps of 16",
        "KL 0.1 to the adapter of stage 1",
        "30 real + 5 synthetic",
        "award_id",
        "valid",
    ):
        assert text in done.stdout, done.stdout
    dry = command("run", str(mine), "--dry-run", "stages.0.max_steps=2", cwd=mine.parent)
    assert "done, skipped" in dry.stdout
    machine = command("run", str(mine), "--json", "stages.0.max_steps=2", cwd=mine.parent)
    assert json.loads(machine.stdout)["sets"]["seen"]["base"]["n"] == 40
    refused = command("run", str(mine), "stages.0.max_steps=3", cwd=mine.parent)
    assert refused.returncode == 2
    fresh = command("run", str(mine), "--fresh", "stages.0.max_steps=3", cwd=mine.parent)
    assert fresh.returncode == 0
    assert (mine.parent / "runs" / "mine.1").is_dir()


def test_a_dry_run_writes_nothing(mine: Path) -> None:
    before = sorted(mine.parent.rglob("*"))
    assert command("run", str(mine), "--dry-run", cwd=mine.parent).returncode == 0
    assert sorted(mine.parent.rglob("*")) == before


def test_failed_work_exits_with_1_and_keeps_the_details(mine: Path) -> None:
    (mine.parent / "late.py").write_text(
        "class Late:\n"
        "    calls = 0\n"
        "    def __call__(self, completion, example):\n"
        "        Late.calls += 1\n"
        "        if Late.calls > 60: raise OSError('grader gone')\n"
        "        return 1.0 if completion == example.completion else 0.0\n"
    )
    done = command("run", str(mine), "stages.1.rewards=[./late.py:Late]", cwd=mine.parent)
    assert done.returncode == 1
    assert "grader gone" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (mine.parent / "runs/mine/run.log").read_text()
