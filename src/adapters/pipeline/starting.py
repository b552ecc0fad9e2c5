"""`start:` of a recipe: the adapter of another run that the first stage goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from adapters.backends import adapter_folder
from adapters.backends.hub_cache import snapshot
from adapters.backends.jobs import Backend
from adapters.errors import UserError
from adapters.files import read_json
from adapters.pipeline.run_folder import RunFolder, as_dict, finished_adapter_in
from adapters.recipe.load import run_folder
from adapters.recipe.recipe import NOT_OFFERED, Lora, Recipe

AT: Final = ("start",)
UNKNOWN: Final[Mapping[str, Any]] = {"source": "unknown data"}
"""The data of a stage of which nothing is known."""
_NOT_PLAIN: Final = ("use_dora", "modules_to_save", "lora_bias", "target_parameters", "trainable_token_indices")
"""Keys of PEFT's config, where they are set, that recipes do not offer."""


def adapter(recipe: Recipe, backend: Backend) -> Path | None:
    """The folder of the adapter that the recipe starts from; None for a new one. Raises UserError."""
    if recipe.start is None:
        return None
    try:
        folder = finished_adapter_in(Path(recipe.start).expanduser())
    except UserError as error:
        raise UserError(str(error), at=AT) from None
    if problems := adapter_folder.problems(folder):
        raise UserError(f"{problems[0]}.", at=AT)
    own = run_folder(recipe)
    if folder.resolve().is_relative_to(own.resolve()):
        raise UserError(f"{recipe.start} is in this run's own folder, {own}; give the run another name.", at=AT)
    _check_kind(folder, recipe)
    _check_base(folder, recipe, backend)
    if other := other_lora(folder, recipe.lora, "dropout"):
        raise UserError(
            f"the first stage goes on with the adapter in {folder} as it is, and `lora` must say what that has: "
            f"{', '.join(other)}.",
            at=AT,
        )
    if (check := getattr(backend, "check_start", None)) is not None:
        try:
            check(folder)
        except UserError as error:
            raise UserError(str(error), at=error.at or AT) from None
    return folder


def fingerprint(folder: Path | None) -> str:
    """What stands in the first stage's fingerprint for the stage before it."""
    return "" if folder is None else f"start {adapter_folder.content_hash(folder)}"


def history(folder: Path | None) -> list[dict[str, Any]]:
    """The stages that trained an adapter, the first one first: run, stage, kind, data.

    What a stage's teachers were trained on belongs to its data. `run` is None for an adapter without its run, whose own
    manifest is all there is; where that says nothing, the data are `UNKNOWN`.
    """
    if folder is None:
        return []
    if run := RunFolder.of_stage(folder):
        stages = [(s.name, s.kind, s.manifest) for s in run.stages_up_to_named()]
    else:
        manifest = adapter_folder.manifest(folder) or {}
        stages = [(folder.name, str(as_dict(manifest.get("stage")).get("kind", "")), manifest)]
    first = stages[0][2]
    earlier: list[dict[str, Any]] = list(first.get("history") or ())
    if first.get("start") and not earlier:
        earlier = [{"run": None, "stage": str(first["start"]), "kind": "", "data": [dict(UNKNOWN)]}]
    name = run.name if run else None
    return earlier + [
        {"run": name, "stage": stage, "kind": kind, "data": _data(manifest) if manifest else [dict(UNKNOWN)]}
        for stage, kind, manifest in stages
    ]


def _data(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The data of a stage, and of its teachers."""
    teachers = as_dict(manifest.get("teachers")).values()
    return [*manifest.get("data", []), *(entry for teacher in teachers for entry in teacher.get("data", ()))]


def other_lora(folder: Path, lora: Lora, *more: str) -> list[str]:
    """How an adapter's LoRA settings differ from a recipe's; `more` are further keys of the recipe."""
    config = read_json(folder / adapter_folder.CONFIG)
    ours: dict[str, Any] = {"r": lora.rank, "lora_alpha": lora.alpha, "use_rslora": lora.rslora}
    ours |= {f"lora_{key}": getattr(lora, key) for key in more}
    theirs = {k: config.get(k, v) for k, v in ours.items()}
    for key in ("rank_pattern", "alpha_pattern"):
        ours[key], theirs[key] = getattr(lora, key), config.get(key) or {}
    return [f"{k} {theirs[k]} (here {v})" for k, v in ours.items() if theirs[k] != v]


def _check_kind(folder: Path, recipe: Recipe) -> None:
    config = read_json(folder / adapter_folder.CONFIG)
    wanted, kind = _kind(recipe), config.get("peft_type")
    if kind != wanted:
        raise UserError(
            f"the adapter in {folder} is of the type {kind}; trainer: {recipe.trainer} needs {wanted}.", at=AT
        )
    tags = config.get("task_type") == "TOKEN_CLS"
    if recipe.trainer != "echo" and tags != recipe.tags_words:
        what = ("an encoder", "a causal model") if tags else ("a causal model", "an encoder")
        raise UserError(f"the adapter in {folder} is of {what[0]}, and this recipe trains {what[1]}.", at=AT)
    if odd := [key for key in _NOT_PLAIN if config.get(key) and not (tags and key == "modules_to_save")]:
        raise UserError(f"the adapter in {folder} has {odd[0]}, which recipes do not: {NOT_OFFERED[odd[0]]}.", at=AT)
    if config.get("bias", "none") != "none":
        raise UserError(
            f"the adapter in {folder} has trained biases, which recipes do not: {NOT_OFFERED['bias']}.", at=AT
        )


def _kind(recipe: Recipe) -> str:
    return "ECHO" if recipe.trainer == "echo" else "LORA"


def not_plain(folder: Path, recipe: Recipe) -> str | None:
    """What makes an adapter something else than a plain one: a key of its config, or its type; None for plain LoRA."""
    config = read_json(folder / adapter_folder.CONFIG)
    if config.get("peft_type") != _kind(recipe):
        return str(config.get("peft_type"))
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        return str(config["task_type"])
    if str(config.get("init_lora_weights")).lower().startswith(("pissa", "olora", "corda", "loftq")):
        return "init_lora_weights"  # these change the base's own weights, which the student shares
    biased = "bias" if config.get("bias", "none") != "none" else None
    return next((key for key in _NOT_PLAIN if config.get(key)), biased)


def other_base(folder: Path, recipe: Recipe, backend: Backend) -> str | None:
    """The base that an adapter was trained on, where it is another than the recipe's; None where it may be the same."""
    config, model = read_json(folder / adapter_folder.CONFIG), _model(adapter_folder.manifest(folder) or {})
    theirs = {str(n) for n in (config.get("base_model_name_or_path"), model.get("base"), model.get("hub_id")) if n}
    theirs |= {cached[0] for name in theirs if (cached := snapshot(name))}
    ours = {recipe.model.base, *getattr(backend, "base_names", ())}
    return " or ".join(sorted(theirs)) if theirs and not theirs & ours else None


def other_revision(folder: Path, recipe: Recipe) -> str | None:
    """The revision of the base that an adapter was trained on, where it is known to be another than the recipe's."""
    theirs, ours = _model(adapter_folder.manifest(folder) or {}).get("revision"), recipe.model.revision
    return str(theirs) if theirs and ours and theirs != ours else None


def _check_base(folder: Path, recipe: Recipe, backend: Backend) -> None:
    if theirs := other_base(folder, recipe, backend):
        raise UserError(
            f"the adapter in {folder} was trained on {theirs}, and this recipe's base is {recipe.model.base}; the "
            "base must be the same.",
            at=AT,
        )
    if theirs := other_revision(folder, recipe):
        raise UserError(
            f"the adapter in {folder} was trained on revision {theirs} of the base, and model.revision is "
            f"{recipe.model.revision}; the base must be the same.",
            at=AT,
        )


def _model(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    model = manifest.get("model")
    return model if isinstance(model, dict) else {}
