"""`noise:` in a stage, and `adapters data noise`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.pipeline.plan import Plan, make_plan
from adapters.recipe.load import load_recipe

RECIPE = """name: noisy
task: funding
model: {base: none}
trainer: echo
stages:
  - kind: sft
    data: [{path: train.jsonl, repeat: 2}]
    noise: {use: document, share: 0.5}
    epochs: 2
    learning_rate: 1e-4
    validation: 0
  - kind: grpo
    data: [{path: train.jsonl}]
    noise: {use: ocr, level: heavy, share: 1.0}
    learning_rate: 1e-5
    rewards: [funding]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(60))
    (tmp_path / "noisy.yaml").write_text(RECIPE)
    return tmp_path / "noisy.yaml"


def make(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


def test_every_epoch_and_repeat_has_noise_of_its_own(path: Path) -> None:
    sft, grpo = make(path).jobs
    assert (len(sft.examples), sft.steps) == (240, 15)
    texts = [e.prompt[-1]["content"] for e in sft.examples if e.id == "r1"]
    assert len(texts) == 4
    assert len({e.prompt[-1]["content"] for e in sft.examples}) > 120, "60 rows, noised four times each"
    entry = sft.ledger[0]["noise"]
    assert 0.35 < entry["rows"] < 0.65
    assert sum(f["rows"] for f in entry["by_family"].values()) >= entry["rows"]
    assert all(set(f) == {"rows", "characters", "ids"} for f in entry["by_family"].values())
    assert len(grpo.examples) == 60
    assert grpo.ledger[0]["noise"]["rows"] > 0.9


@pytest.mark.slow
def test_noise_is_a_pure_function_of_the_recipe(path: Path) -> None:
    first, second, other = make(path), make(path), make(path, "seed=7")
    assert first.jobs[0].examples == second.jobs[0].examples
    assert first.jobs[0].fingerprint == second.jobs[0].fingerprint
    assert first.jobs[0].examples != other.jobs[0].examples


def test_gold_still_earns_full_marks_under_protect(path: Path) -> None:
    for job in make(path).jobs:
        for example in job.examples:
            reward = make_reward()
            assert reward(example.completion or "", example).score == pytest.approx(1)


def make_reward():  # type: ignore[no-untyped-def]
    from adapters.rewards.funding import Funding

    return Funding()


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("stages.0.noise.use=documnt", "no noise is called 'documnt'"),
        ("stages.0.noise.policy=keep", "'protect', 'follow' or 'clean'"),
        ("stages.0.noise.rate=0.5", "takes a level, no parameters"),
        ("stages.0.noise={use: case, rat: 0.5}", "Did you mean rate"),
    ],
)
def test_mistakes_are_named(path: Path, override: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        make(path, override)


def test_one_family_with_parameters(path: Path) -> None:
    job = make(path, "stages.0.noise={use: case, rate: 0.5, share: 1.0}").jobs[0]
    assert set(job.ledger[0]["noise"]["by_family"]) == {"case"}


def test_the_command_shows_and_writes(path: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    data = str(tmp_path / "train.jsonl")
    shown = runner.invoke(app, ["noise", data, "--preset", "latex", "-n", "2"])
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.count("before") == 2
    out = tmp_path / "degraded.jsonl"
    assert runner.invoke(app, ["noise", data, "-o", str(out), "--variants", "4"]).exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 240
    assert [r["variant"] for r in rows[:4]] == [0, 1, 2, 3]
    assert len({r["funding_statement"] for r in rows[:4]}) > 2
    wrong = runner.invoke(app, ["noise", data, "--level", "loud"])
    assert wrong.exit_code == 2
    assert "--level" in wrong.stderr
