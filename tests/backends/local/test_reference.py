"""GRPO's reference at the start: a wrong one stops the run in every precision, rounding does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import chain_recipe, save_lively_model, save_tiny_model

from adapters.backends import backend
from adapters.backends.local import training
from adapters.pipeline.plan import Plan, make_plan
from adapters.recipe.load import load_recipe

BF16 = ["model.dtype=bfloat16", "model.precision=bf16", "model.speedups=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe SFT -> GRPO and the adapter of its SFT stage."""
    folder = tmp_path_factory.mktemp("reference")
    model = save_lively_model(save_tiny_model(folder / "tiny-llama"), folder / "lively")
    (folder / "chain.yaml").write_text(chain_recipe(folder, model))
    plan, made = planned(folder / "chain.yaml", "stages.0.max_steps=10")
    (folder / "sft").mkdir()
    figures = made.train(plan.jobs[0], None, folder / "sft", lambda *_: None)
    assert figures["nll_after"] < figures["nll_before"] - 0.5
    return folder / "chain.yaml", folder / "sft"


def planned(path: Path, *overrides: str) -> tuple[Plan, training.Any]:
    file = load_recipe(path, overrides)
    made = backend(file.recipe)
    return make_plan(file, made), made


def grpo(trained: tuple[Path, Path], out: Path, precision: list[str]) -> dict:
    recipe, start = trained
    plan, made = planned(recipe, *precision, "stages.1.max_steps=1")
    out.mkdir()
    return made.train(plan.jobs[1], start, out, lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [["model.precision=fp32"], BF16], ids=["fp32", "bf16"])
def test_a_wrong_reference_is_caught_and_the_right_one_is_not(
    trained: tuple[Path, Path], precision: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert abs(grpo(trained, tmp_path / "right", precision)["first_kl"]) < 1e-3
    real, verify = training.set_reference, training.verify_reference
    monkeypatch.setattr(training, "set_reference", lambda model, _: real(model, "base"))
    with pytest.raises(RuntimeError, match=r"not the starting adapter: 14 of 28 tensors differ, such as .*lora_B"):
        grpo(trained, tmp_path / "wrong", precision)
    calls = [verify, lambda model, reference: None]
    monkeypatch.setattr(training, "verify_reference", lambda *args: calls.pop()(*args))
    with pytest.raises(RuntimeError, match="not the starting adapter: 14 of 28 tensors differ"):
        grpo(trained, tmp_path / "later", precision)
    assert not calls, "the second look was taken when the training began"
    monkeypatch.setattr(training, "verify_reference", lambda model, reference: None)
    with pytest.raises(RuntimeError, match="not the starting adapter: first KL is"):
        grpo(trained, tmp_path / "unseen", precision)


def watch(kind: type, tmp_path: Path) -> Callable[[dict[str, float]], None]:
    stage = kind.model_construct(reference="start", beta=0.1)
    made = training.Watch(SimpleNamespace(stage=stage), tmp_path / "log.jsonl", lambda *_: None)
    state = SimpleNamespace(global_step=1, is_world_process_zero=True)
    return lambda figures: made.on_log(None, state, None, figures)


@pytest.mark.parametrize("noise", [0.0, 0.018, 0.05])
def test_rounding_of_16_bits_is_no_wrong_reference(noise: float, tmp_path: Path) -> None:
    import torch

    from adapters.recipe.stages import Dpo, Grpo

    torch.manual_seed(0)
    off = noise * torch.randn(8, 1024).sign()  # each token's log-probability differs by the noise, up or down
    watch(Grpo, tmp_path)({"kl": float((off.exp() - off - 1).mean())})  # as TRL estimates it: Schulman's k3
    always = torch.full((8, 1024), noise)
    watch(Grpo, tmp_path)({"kl": float((always.exp() - always - 1).mean())})
    sums = 0.1 * off.sum(1)
    watch(Dpo, tmp_path)({"rewards/chosen": float(sums.mean()), "rewards/margins": float(sums[0])})


def test_figures_beyond_rounding_stop_the_run(tmp_path: Path) -> None:
    from adapters.recipe.stages import Dpo, Grpo

    for kind, figures in ((Grpo, {"kl": 0.03}), (Grpo, {"kl": float("nan")}), (Dpo, {"rewards/chosen": 0.6})):
        with pytest.raises(RuntimeError, match="the reference is not the starting adapter: first"):
            watch(kind, tmp_path)(figures)
