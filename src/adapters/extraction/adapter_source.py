"""What is run over the corpus: a run folder, one of its stages, a published bundle, or any PEFT adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.backends import adapter_folder
from adapters.errors import UserError
from adapters.files import read_json, sha256
from adapters.plugins.registry import resolve
from adapters.recipe.fields import PluginSpec
from adapters.recipe.recipe import Model
from adapters.types import Extracting


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter with what its training decided about prompts: the task and the thinking switch."""

    adapter: Path
    model: Model
    plug: PluginSpec
    task: Extracting
    weights: str
    """Hash of the adapter's weights."""

    @property
    def echo(self) -> bool:
        """Whether the adapter is of the backend without a model, which tests use."""
        return read_json(self.adapter / adapter_folder.CONFIG).get("peft_type") == "ECHO"


def find(
    given: str,
    *,
    task: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> Source:
    """Find the adapter that a person named: a folder, or the Hub id of a published one.

    The task and the thinking switch are read from the first of: the recipe of the run that the folder lies in, the
    bundle's `recipe.yaml`, the adapter's own `manifest.json`. `task`, `base` and the task's `params` replace what they
    say. Raises UserError.
    """
    folder = _adapter_folder(_local(given, revision))
    if problems := adapter_folder.problems(folder):
        raise UserError(f"{problems[0]}.")
    told, home = _stored_settings(folder)
    if task is not None:
        told["task"] = task
    if "task" not in told:
        raise UserError(
            f"{folder} does not say which task it was trained for: it holds neither recipe.yaml nor a manifest.json "
            "with a task. Name it with --task, such as --task funding."
        )
    try:
        plug = PluginSpec.model_validate(told["task"])
        plug = PluginSpec.model_validate({"use": plug.use, **plug.params, **(params or {})})
        model = Model.model_validate({**told["model"], "base": _base(folder, told["model"].get("base"), base)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{folder}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}.") from None
    found = resolve("tasks", plug, folder=home)
    if not isinstance(found, Extracting):
        raise UserError(
            f"the task {plug.use!r} does not extract from texts, so it cannot run over a corpus (it has no methods "
            "request and record). For its figures on rows with labels there is `adapters eval`."
        )
    weights = adapter_folder.weights_hash(folder) or sha256(folder / adapter_folder.WEIGHTS)
    return Source(folder, model, plug, found, weights)


def _local(given: str, revision: str | None) -> Path:
    folder = Path(given).expanduser()
    if folder.is_dir():
        return folder
    if given.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        raise UserError(f"{given} is neither a folder nor the Hub id of an adapter, such as me/funding-extraction.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(given, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"there is no folder {given}, and the Hub does not give it either: {first}") from None


def _adapter_folder(folder: Path) -> Path:
    if (folder / adapter_folder.CONFIG).is_file():
        return folder
    finished = sorted(folder.glob("*-*/manifest.json"), key=lambda p: _leading_number(p.parent.name))
    if finished:
        return finished[-1].parent
    if (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} holds no finished stage yet.")
    raise UserError(f"{folder} is neither a run folder nor an adapter: it holds no {adapter_folder.CONFIG}.")


def _leading_number(name: str) -> int:
    number = name.partition("-")[0]
    return int(number) if number.isdigit() else -1


def _stored_settings(folder: Path) -> tuple[dict[str, Any], Path]:
    """What is known of the training, `task` and `model` as in a recipe, and where `./task.py` starts from."""
    run = folder.parent
    if (run / "recipe.json").is_file() and (run / "recipe.yaml").is_file():
        origin = read_json(run / "origin.json").get("folder")
        return _parts(read_json(run / "recipe.json")), Path(origin) if origin else run
    if (folder / "recipe.yaml").is_file():
        return _parts(_yaml(folder / "recipe.yaml")), folder
    held = adapter_folder.manifest(folder) or {}
    model = held.get("model") or {}
    kept = {k: v for k, v in {"base": model.get("base"), "thinking": held.get("thinking")}.items() if v is not None}
    return {"model": kept} | ({"task": held["task"]} if held.get("task") else {}), folder


def _parts(tree: dict[str, Any]) -> dict[str, Any]:
    model = tree.get("model")
    return {"model": model if isinstance(model, dict) else {}} | {k: tree[k] for k in ("task",) if k in tree}


def _base(folder: Path, trained_on: Any, given: str | None) -> str:
    named = read_json(folder / adapter_folder.CONFIG).get("base_model_name_or_path")
    # A bundle from elsewhere may name a folder of the machine it was trained on; its config names the Hub id.
    here = isinstance(trained_on, str) and (not trained_on.startswith((".", "/", "~")) or Path(trained_on).is_dir())
    base = given or (trained_on if here else named)
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / adapter_folder.CONFIG} does not name the base model; give it with --base.")
    return base


def _yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {next(iter(str(error).splitlines()), '')}") from None
    return value if isinstance(value, dict) else {}
