"""The adapter that extracts: a run's, a published or any PEFT adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.backends import adapter_folder
from adapters.backends.hub_cache import snapshot
from adapters.environment import versions
from adapters.errors import UserError, first_line
from adapters.files import read_json
from adapters.pipeline.run_folder import RunFolder, adapter_in
from adapters.plugins import trust
from adapters.plugins.registry import resolve
from adapters.plugins.source_files import files_of_plugin
from adapters.recipe.fields import PluginSpec
from adapters.recipe.recipe import Model
from adapters.types import Extracting


@dataclass(frozen=True, slots=True)
class Source:
    """An adapter, with the task and the thinking switch that it was trained with."""

    adapter: Path
    model: Model
    plug: PluginSpec
    task: Any
    """A `Task`; from `find` an `Extracting` one."""
    weights: str
    """Hash of the adapter's weights."""
    origin: Path
    """Folder where the task's own files are looked for."""
    run: RunFolder | None
    """The run that the adapter is a stage of."""

    @property
    def settings(self) -> dict[str, Any]:
        """What of it decides an output."""
        task = self.plug.model_dump()
        known = {"adapter": self.weights, "base": self.model.base, "thinking": self.model.thinking, "task": task}
        return known | {"versions": versions()}

    @property
    def echo(self) -> bool:
        """Whether the adapter is of the `echo` backend, which has no model."""
        return read_json(self.adapter / adapter_folder.CONFIG).get("peft_type") == "ECHO"

    @property
    def tags_words(self) -> bool:
        """Whether the adapter is of an encoder, which answers without writing."""
        return read_json(self.adapter / adapter_folder.CONFIG).get("task_type") == "TOKEN_CLS"


def find(
    given: str,
    *,
    task: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    params: Mapping[str, Any] | None = None,
    consent: trust.Consent | None = None,
) -> Source:
    """Find an adapter whose task extracts from texts; see `find_any`. Raises UserError for any other task."""
    source = find_any(given, task=task, base=base, revision=revision, params=params, consent=consent)
    if not isinstance(source.task, Extracting):
        raise UserError(
            f"the task {source.plug.use!r} does not extract from texts, so it cannot run over a corpus (it has no "
            "methods request and record). For its figures on rows with labels there is `adapters eval`."
        )
    return source


def find_any(
    given: str,
    *,
    task: str | None = None,
    base: str | None = None,
    revision: str | None = None,
    params: Mapping[str, Any] | None = None,
    consent: trust.Consent | None = None,
) -> Source:
    """Find an adapter by its folder or Hub id. Raises UserError, and Refused for a task's code without consent.

    The task and the thinking switch are read from the first of: the recipe of the run that the folder is a stage of,
    the bundle's `recipe.yaml`, the adapter's own `manifest.json`. `task`, `base` and the task's `params` replace them.
    """
    folder = adapter_in(adapter_folder.local(given, revision))
    if problems := adapter_folder.problems(folder):
        raise UserError(f"{problems[0]}.")
    run = RunFolder.of_stage(folder)
    settings, origin = (_task_and_model(run.recipe), run.origin) if run else (_stored_settings(folder), folder)
    if task is not None:
        settings["task"] = task
    if "task" not in settings:
        raise UserError(
            f"{folder} does not say which task it was trained for: it holds neither recipe.yaml nor a manifest.json "
            "with a task. Name it with --task, such as --task funding."
        )
    try:
        plug = PluginSpec.model_validate(settings["task"])
        plug = PluginSpec.model_validate({"use": plug.use, **plug.params, **(params or {})})
        model = Model.model_validate({**settings["model"], "base": _base(folder, settings["model"].get("base"), base)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{folder}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}.") from None
    code = files_of_plugin("tasks", plug, origin, ("task",))
    trust.admit([code], run.path if run else folder, consent or trust.Consent())
    resolved = resolve("tasks", plug, folder=origin)
    return Source(folder, model, plug, resolved, adapter_folder.content_hash(folder) or "", origin, run)


def _stored_settings(folder: Path) -> dict[str, Any]:
    """Task and model of the training of an adapter outside a run."""
    if (folder / "recipe.yaml").is_file():
        return _task_and_model(_yaml(folder / "recipe.yaml"))
    manifest = adapter_folder.manifest(folder) or {}
    model = {"base": (manifest.get("model") or {}).get("base"), "thinking": manifest.get("thinking")}
    return _task_and_model({**manifest, "model": {k: v for k, v in model.items() if v is not None}})


def _task_and_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    task, model = settings.get("task"), settings.get("model")
    return {"model": model if isinstance(model, dict) else {}} | ({"task": task} if task else {})


def _base(folder: Path, trained_on: Any, given: str | None) -> str:
    named = read_json(folder / adapter_folder.CONFIG).get("base_model_name_or_path")
    # A bundle from elsewhere may name a folder of the machine it was trained on; its config names the Hub id.
    here = isinstance(trained_on, str) and (not trained_on.startswith((".", "/", "~")) or Path(trained_on).is_dir())
    base = given or (trained_on if here else named)
    if not isinstance(base, str) or not base:
        raise UserError(f"{folder / adapter_folder.CONFIG} does not name the base model; give it with --base.")
    # An adapter from elsewhere may name the cache of the machine it was trained on.
    cached = None if Path(base).expanduser().is_dir() else snapshot(base)
    return cached[0] if cached else base


def _yaml(path: Path) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        value = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None
    return value if isinstance(value, dict) else {}
