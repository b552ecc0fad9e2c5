"""Several optimizer steps whose batches are sampled at once: what is sampled, learned, logged, and resumed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import VOWELS, funding_rows, save_lively_model, write_jsonl

from adapters.backends import backend as make_backend
from adapters.errors import UserError
from adapters.pipeline.fingerprint import fingerprinted_settings
from adapters.pipeline.plan import make_plan
from adapters.recipe.load import load_recipe
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import NOT_IN_FINGERPRINT
from adapters.report.curves import panels

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from trl import GRPOConfig  # noqa: E402

from adapters.backends.local import trainer_args  # noqa: E402
from adapters.backends.local.speedups import grpo  # noqa: E402

RECIPE = """name: several
task: {use: funding, target: compact, system: Extract., user: "{statement}"}
model: {base: BASE, precision: fp32}
lora: {rank: 4, alpha: 8}
stages:
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 2
    group_size: 4
    micro_batch_size: 4
    updates_per_generation: 2
    max_steps: 8
    save_every: 4
    learning_rate: 3e-2
    beta: 0.1
    rewards: [{use: "./vowels.py:Vowels"}]
    max_completion_length: 160
    trl: {generation_kwargs: {max_new_tokens: 8}}
"""


class Stop(Exception):
    """The process ends here."""


class Run:
    """A stage in a folder of its own; trains again from where it is."""

    def __init__(self, folder: Path, base: Path, *overrides: str) -> None:
        folder.mkdir()
        write_jsonl(folder / "train.jsonl", funding_rows(11))
        (folder / "vowels.py").write_text(VOWELS)
        (folder / "r.yaml").write_text(RECIPE.replace("BASE", str(base)))
        file = load_recipe(folder / "r.yaml", overrides)
        self.backend = make_backend(file.recipe)
        plan = make_plan(file, self.backend)
        self.job, self.notes = plan.jobs[0], plan.notes
        self.out = folder / "out"
        self.out.mkdir()

    def train(self, stop_after: int | None = None) -> Mapping[str, Any]:
        def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
            if done == stop_after:
                raise Stop

        return self.backend.train(self.job, None, self.out, progress)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / name).read_text().splitlines()]

    def weights(self) -> dict[str, Any]:
        return load_file(self.out / "adapter_model.safetensors")


@pytest.mark.slow
def test_a_generation_is_shared_out_over_its_updates(tmp_path: Path, tiny_model: Path) -> None:
    base = save_lively_model(tiny_model, tmp_path / "lively")
    run = Run(tmp_path / "whole", base)
    assert run.job.steps == 8
    figures = run.train()
    rollouts, log = run.lines("rollouts-0.jsonl"), [e for e in run.lines("log.jsonl") if "loss" in e]
    assert Counter(r["step"] for r in rollouts) == {0: 16, 2: 16, 4: 16, 6: 16}, "2 updates x 2 prompts x 4"
    for n in range(4):
        assert set(Counter(r["id"] for r in rollouts[16 * n : 16 * n + 16]).values()) == {4}, "whole groups"
    assert len({r["id"] for r in rollouts[:32]}) == 8, "an epoch of two generations, without repetition"
    assert [e["step"] for e in log] == [*range(1, 9)]
    assert [e["step"] for e in log if "reward" in e] == [1, 3, 5, 7]
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6)
    ratios = [(e["importance_ratio/mean"], e["importance_ratio/max"]) for e in log]
    for mean, largest in ratios[::2]:
        assert (mean, largest) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4)), "still the sampling policy"
    for mean, largest in ratios[1::2]:
        assert largest > max(1.01, mean), "one step further"
    assert figures["importance_ratio_max"] == max(largest for _, largest in ratios)
    assert {"clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"} <= set(log[1])
    assert any(panel.title == "Largest importance ratio" and panel.main for panel in panels(log))

    stopped = Run(tmp_path / "stopped", base)
    with pytest.raises(Stop):
        stopped.train(stop_after=7)  # in the middle of the fourth generation, three steps after the checkpoint
    assert len(stopped.lines("rollouts-0.jsonl")) == 64
    stopped.train()
    weights = run.weights()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stopped.weights().items())
    assert stopped.lines("rollouts-0.jsonl") == rollouts
    again = [e for e in stopped.lines("log.jsonl") if "loss" in e]
    for one, other in zip(log, again, strict=True):
        assert {k: v for k, v in one.items() if "step_time" not in k} == {
            k: v for k, v in other.items() if "step_time" not in k
        }


@pytest.mark.slow
def test_one_update_is_what_it_was(tmp_path: Path, tiny_model: Path) -> None:
    base = save_lively_model(tiny_model, tmp_path / "lively")
    one = [f"stages.0.{key}" for key in ("updates_per_generation=1", "max_steps=8", "save_every=6")]
    run, stopped = Run(tmp_path / "one", base, *one), Run(tmp_path / "stopped", base, *one)
    run.train()
    rollouts = run.lines("rollouts-0.jsonl")
    assert Counter(r["step"] for r in rollouts) == dict.fromkeys(range(8), 8)
    assert not [key for e in run.lines("log.jsonl") for key in e if key.startswith("importance_ratio")]
    with pytest.raises(Stop):
        stopped.train(stop_after=7)
    stopped.train()
    assert stopped.lines("rollouts-0.jsonl") == rollouts, "in the second epoch: 11 rows are five and a half steps"
    weights = run.weights()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in stopped.weights().items())


def stage(**changes: object) -> Any:
    settings = {"kind": "grpo", "data": [{"path": "x"}], "learning_rate": 1e-4, "rewards": ["funding"], **changes}
    return Recipe.model_validate({"name": "x", "task": "funding", "model": {"base": "x"}, "stages": [settings]}).stages[
        0
    ]


@pytest.mark.slow
def test_steps_are_those_of_whole_generations(tmp_path: Path, tiny_model: Path) -> None:
    last = ("stages.0.max_steps=null", "stages.0.save_every=null")
    assert Run(tmp_path / "a", tiny_model, *last).job.steps == 4, "11 rows: two generations of 2 x 2"
    assert Run(tmp_path / "b", tiny_model, *last, "stages.0.epochs=2.2").job.steps == 12
    assert Run(tmp_path / "c", tiny_model, *last, "stages.0.updates_per_generation=1").job.steps == 5
    with pytest.raises(
        UserError, match=r"a generation of 6 batches of 2 prompts needs .* as many rows, and 11 are left"
    ):
        Run(tmp_path / "d", tiny_model, *last, "stages.0.updates_per_generation=6")


@pytest.mark.parametrize(
    ("key", "value", "near"), [("max_steps", 10, "8 or 12"), ("save_every", 3, "4"), ("save_every", 5, "4 or 8")]
)
def test_sizes_that_do_not_divide_are_refused(tmp_path: Path, key: str, value: int, near: str) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("BASE", "x"))
    said = rf"stages\.0.*{key}: {value} is no multiple of updates_per_generation \(4\); {near} is"
    whole = ["stages.0.updates_per_generation=4", f"stages.0.{key}={value}"]
    with pytest.raises(UserError, match=said):
        load_recipe(tmp_path / "r.yaml", whole)


def test_the_trainer_gets_whole_generations(tmp_path: Path, tiny_model: Path) -> None:
    run = Run(tmp_path / "a", tiny_model, "stages.0.save_every=null", "stages.0.max_steps=62")
    made = trainer_args.trainer_config(run.job, run.backend.recipe, tmp_path, {}, {}, packed=False)
    assert (made.gradient_accumulation_steps, made.steps_per_generation, made.num_iterations) == (2, 4, 1)
    assert made.generation_batch_size == 2 * 2 * 4
    assert made.save_steps == 6, "a tenth of the steps, in whole generations"


@pytest.mark.parametrize("option", ["steps_per_generation", "num_iterations", "generation_batch_size"])
def test_trls_names_are_refused(option: str) -> None:
    with pytest.raises(UserError, match=r"set stages\.0\.updates_per_generation instead"):
        trainer_args.check_options(stage(trl={option: 2}), ("stages", 0))


_NEWER = ("updates_per_generation", "flat_groups", "flat_below", "replace_rounds", "select", "validation", "vary")


def test_old_stages_keep_their_fingerprints() -> None:
    one = stage()
    assert fingerprinted_settings(one) == one.model_dump(
        exclude={"data", "rewards", "environment", *_NEWER, *NOT_IN_FINGERPRINT}
    )
    assert fingerprinted_settings(stage(updates_per_generation=2))["updates_per_generation"] == 2


def test_rows_are_shuffled_over_the_updates(tmp_path: Path) -> None:
    """Sorted by length, the first update would learn from the long completions and the last from the short ones."""
    common = {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, "gradient_accumulation_steps": 2}
    assert not grpo._order_matters(GRPOConfig(**common, steps_per_generation=2))
    assert grpo._order_matters(GRPOConfig(**common, steps_per_generation=4))
