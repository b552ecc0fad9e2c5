"""The parity table: what the hosted trainer refuses and how it differs from local."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from adapters.backends.tinker.stage import ATTENTION, MLP
from adapters.errors import KeyPath, UserError
from adapters.recipe.recipe import Recipe
from adapters.types import Difference

SERVICE_ALPHA = 32
"""LoRA alpha of the public service; it is not a parameter of its API."""


def check_recipe(recipe: Recipe) -> None:
    """Raise UserError for settings that the service does not have; names the nearest."""
    lora, model = recipe.lora, recipe.model
    if lora.rank & (lora.rank - 1):
        low = 1 << (lora.rank.bit_length() - 1)
        raise UserError(
            f"the service takes ranks that are powers of two; {low} and {2 * low} are nearest to {lora.rank}.",
            at=("lora", "rank"),
        )
    if "alpha" in lora.model_fields_set and lora.alpha != SERVICE_ALPHA:
        raise UserError(
            f"the service trains with its own alpha of {SERVICE_ALPHA}; write {SERVICE_ALPHA} or leave it out (and "
            f"scale the learning rate: alpha {lora.alpha:g} makes every update {lora.alpha / SERVICE_ALPHA:g} times as "
            "large).",
            at=("lora", "alpha"),
        )
    if lora.dropout:
        raise UserError("the service has no LoRA dropout; 0 works.", at=("lora", "dropout"))
    if lora.rslora:
        raise UserError("the service scales by alpha / rank; rslora: false works.", at=("lora", "rslora"))
    for key in ("rank_pattern", "alpha_pattern", "exclude_modules"):
        if getattr(lora, key):
            raise UserError("the service adapts every module with one rank and alpha; leave it out.", at=("lora", key))
    if lora.target_modules != "all-linear" and set(lora.target_modules) not in (ATTENTION, MLP, ATTENTION | MLP):
        raise UserError(
            "the service adapts all attention layers, all MLP layers, or both; all-linear, "
            f"[{', '.join(sorted(ATTENTION))}] and [{', '.join(sorted(MLP))}] work.",
            at=("lora", "target_modules"),
        )
    for name in ("dtype", "precision", "attention"):
        if getattr(model, name) != "auto":
            raise UserError("the service chooses this for its own devices; auto works.", at=("model", name))
    if model.quantize is not None:
        raise UserError("the service trains on the weights it serves; leave this out.", at=("model", "quantize"))
    if recipe.report_to:
        raise UserError("the hosted trainer writes log.jsonl in the stage's folder; leave this out.", at=("report_to",))
    for n, stage in enumerate(recipe.stages):
        _check_stage(stage, ("stages", n))


def _check_stage(stage: Any, at: KeyPath) -> None:
    if stage.trl:
        first = next(iter(stage.trl))
        nearest = {"loss_type": "loss", "epsilon": "clip_range", "epsilon_high": "clip_range"}.get(first)
        advice = f"The nearest is tinker.{nearest}." if nearest else "Remove the section; other keys work on both."
        raise UserError(
            f"TRL's options do not reach the service, and are not ignored. {advice}", at=(*at, "trl", first)
        )
    if getattr(stage, "updates_per_generation", 1) > 1:
        raise UserError(
            "the hosted trainer samples anew for each step; leave this out.", at=(*at, "updates_per_generation")
        )
    if stage.gradient_checkpointing is not None:
        raise UserError("the service chooses this itself; leave it out.", at=(*at, "gradient_checkpointing"))
    if stage.kind == "distill":
        raise UserError("the hosted trainer does not distill; use trainer: local.", at=at)
    if stage.select is not None:
        raise UserError("the hosted trainer keeps the last state; leave this out.", at=(*at, "select"))
    if getattr(stage, "vllm", "auto") not in ("auto", "off"):
        raise UserError("the service samples with what it has; leave it out.", at=(*at, "vllm"))


def differences(recipe: Recipe) -> list[Difference]:
    """The parity table of a recipe, including the aspects in which the trainers agree."""
    stages = [row for n, s in enumerate(recipe.stages) for row in _stage(recipe, s, f"{n + 1}-{s.kind}")]
    return [*_lora(recipe), *stages]


def _lora(recipe: Recipe) -> Iterator[Difference]:
    lora = recipe.lora
    yield Difference("LoRA alpha", f"{lora.alpha:g}", f"{SERVICE_ALPHA} (the service's)", lora.alpha == SERVICE_ALPHA)
    targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    hosted = "attention and MLP layers, no LM head" if targets == "all-linear" else targets
    yield Difference("LoRA targets", targets, hosted, True)
    yield Difference("prompts, targets, order of rows", "model.thinking, the template, the seed", "the same code", True)
    yield Difference("optimizer", "AdamW 0.9 0.999 1e-8, clip 1", "the same constants", True)
    yield Difference("initial A matrices", "the recipe's seed", "the service's generator", False)
    revision = recipe.model.revision or "the Hub's newest"
    yield Difference("base weights", revision, "the revision the service serves", False)
    yield Difference("precision", recipe.model.precision, "the service's", False)


def _stage(recipe: Recipe, stage: Any, name: str) -> Iterator[Difference]:
    if stage.kind == "sft":
        yield Difference(f"{name} loss", "mean NLL per target token of a step", "the same, by weights", True)
    if stage.kind == "dpo":
        yield Difference(f"{name} loss", "sigmoid", "the same, computed here", True)
    if stage.kind in ("dpo", "grpo"):
        yield Difference(f"{name} reference", stage.reference, f"{stage.reference}, stored on the service", True)
    if stage.kind != "grpo":
        return
    scaled = {"group": "by the group's deviation", "batch": "by the batch's deviation", "none": "not scaled"}
    yield Difference(f"{name} advantages", scaled[stage.scale_rewards], "the same, computed here", True)
    if stage.flat_groups != "keep":
        yield Difference(f"{name} flat groups", stage.flat_groups, "the same, done here", True)
    yield Difference(f"{name} normalisation", "answer tokens of a step (dapo)", "the same, by advantages", True)
    bounds = recipe.tinker.bounds
    loss = recipe.tinker.loss + (f", ratio in [{bounds[0]:g}, {bounds[1]:g}]" if bounds else ", not clipped")
    # One optimizer step per sampling: its only ratio is 1 up to arithmetic, and nothing is clipped.
    yield Difference(f"{name} loss", "clipped ratio in [0.8, 1.2], 1 when on-policy", f"{loss}; on-policy", True)
    if stage.beta:
        local, here = "k3 in the loss, ratio-corrected", "k1 in the advantages; the same gradient on-policy"
        yield Difference(f"{name} KL", f"{stage.beta:g} x {local}", f"{stage.beta:g} x {here}", True)
    if stage.temperature != 1:
        treatment = "taken as they are" if bounds else "reweighted"
        hosted = f"trained and compared at 1; answers drawn at the temperature are {treatment}"
        aspect = f"{name} temperature {stage.temperature:g}"
        yield Difference(aspect, "policy and reference are tempered", hosted, False)


def notes(recipe: Recipe) -> list[str]:
    """The differences in one line, and stages whose KL costs extra tokens."""
    different = [f"{d.what}: {d.hosted} (local: {d.local})" for d in differences(recipe) if not d.same]
    return [f"hosted differs from local in {'; '.join(different)}"] + [
        f"stages.{n}: at temperature {stage.temperature:g} the service's own log-probabilities are tempered, "
        "the reference's are not; for the KL each answer's are computed again at 1, which costs tokens"
        for n, stage in enumerate(recipe.stages)
        if stage.kind == "grpo" and stage.temperature != 1 and stage.beta
    ]
