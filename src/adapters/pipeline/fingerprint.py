"""The hash of everything that decides a stage's weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from adapters.backends import adapter_folder
from adapters.plugins.registry import offered
from adapters.recipe.load import RecipeFile
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import NOT_IN_FINGERPRINT, Dpo, Grpo, Stage

_ROWS: Final = "\0rows\0"
"""Stands for the rows, where they go; no setting is such a text."""


def stage_fingerprint(file: RecipeFile, n: int, plugins: Sequence[Any], rows: str, previous: str) -> str:
    """Hash of everything that decides the stage's weights."""
    recipe, stage = file.recipe, file.recipe.stages[n]
    hosted = [recipe.trainer, recipe.tinker.base, recipe.tinker.loss, recipe.tinker.bounds]
    return digest(
        {
            "stage": fingerprinted_settings(stage),
            "plugins": plugins,
            "reference": adapter_folder.weights_hash(Path(stage.reference)) if isinstance(stage, Dpo | Grpo) else None,
            "model": model_settings(recipe),
            "lora": _lora_settings(recipe),
            "seed": recipe.seed,
            "trainer": hosted if recipe.trainer == "tinker" else recipe.trainer,
            "rows": rows,
            "previous": previous,
        }
    )


def fingerprinted_settings(stage: Stage) -> dict[str, Any]:
    """The settings that change the weights, without rows and rewards."""
    # What a teacher is called does not count; its weights and their scale do (`distilling.identity`).
    settings = stage.model_dump(exclude={"data", "rewards", "environment", "teachers", *NOT_IN_FINGERPRINT})
    if stage.noise is not None and stage.noise.teacher == "same":
        del settings["noise"]["teacher"]  # as it was before there were teachers
    if stage.noise is not None and (offer := offered("noise", stage.noise.use)) is not None:
        settings["noise"]["use"] = offer.name  # as it was before another package used the name
    if samples := settings.get("samples"):
        del samples["path"]  # what the samples are counts (`stored_samples.identity`)
        if samples["pick"] == "best":
            del samples["pick"]  # as it was before there was a choice
    if select := settings.get("select"):
        del select["on"]  # it has one value
    # What stages did that are older than these keys.
    older = {"updates_per_generation": 1, "flat_groups": "keep", "flat_below": 0.0, "replace_rounds": 2}
    older |= {"select": None, "validation": None, "samples": None, "vary": 0.0}
    return {key: value for key, value in settings.items() if key not in older or value != older[key]}


def model_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings of the model that change results by more than rounding."""
    # Speed-ups change results by rounding at most; pad_token is left out where it is not set, as before there was one.
    return recipe.model.model_dump(exclude={"speedups"} | ({"pad_token"} if recipe.model.pad_token is None else set()))


def _lora_settings(recipe: Recipe) -> dict[str, Any]:
    # The order of patterns counts. A key that a recipe leaves out is left out here, as before there was one.
    patterns = {key: list(getattr(recipe.lora, key).items()) for key in ("rank_pattern", "alpha_pattern")}
    newer = patterns | {"exclude_modules": recipe.lora.exclude_modules}
    return recipe.lora.model_dump(exclude=set(newer)) | {key: value for key, value in newer.items() if value}


def digest(value: Any) -> str:
    """Hash of a value as JSON."""
    return hashlib.sha256(_json(value)).hexdigest()


def digest_of_rows(value: Mapping[str, Any], rows: Iterable[Any]) -> str:
    """The `digest` of a value with `rows` as a list under that key, of which one is held at a time."""
    before, _, after = _json({**value, "rows": _ROWS}).partition(_json(_ROWS))
    whole, separator = hashlib.sha256(before + b"["), b""
    for row in rows:
        whole.update(separator + _json(row))
        separator = b", "
    whole.update(b"]" + after)
    return whole.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode("utf-8", "replace")
