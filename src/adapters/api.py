"""The verbs `run`, `check` and `extract` in Python. Nothing here does what the commands do not do.

Importing this imports no torch. Mistakes raise `adapters.errors.UserError`, whose text is the command's message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar

from pydantic import ConfigDict, Field, ValidationError, validate_call

from adapters.errors import UserError, hint, visible
from adapters.extraction.extractor import Extractor
from adapters.pipeline.check import Checked
from adapters.pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from adapters.recipe.load import RecipeFile

Given = ParamSpec("Given")
Result = TypeVar("Result")


def checked(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Refuse arguments of other types and ranges than a function names, with a UserError."""
    call = validate_call(config=ConfigDict(arbitrary_types_allowed=True, strict=True))(function)
    names = list(signature(function).parameters)

    @wraps(function)
    def told(*args: Given.args, **options: Given.kwargs) -> Result:
        try:
            result: Result = call(*args, **options)
        except ValidationError as error:
            if error.title != function.__name__:
                raise
            first = error.errors(include_url=False)[0]
            at, said = first["loc"][0], first["msg"][:1].lower() + first["msg"][1:]
            name = names[at] if isinstance(at, int) and at < len(names) else at
            given = "" if "argument" in first["type"] else f", not {visible(repr(first['input']))[:80]}"
            raise UserError(f"{function.__name__}: {name}: {said}{given}.") from None
        return result

    return told


@dataclass(frozen=True)
class Run(RunFolder):
    """A run folder: its stages, and what was measured."""

    def __repr__(self) -> str:
        """Where it is, and its stages."""
        return f"Run({str(self.path)!r}, stages={[stage.name for stage in self.stages]})"

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Test set -> model (base, 1-sft …) -> matching mode -> field -> figures."""
        return {name: {m.model: m.figures["metrics"] for m in models} for name, models in self.sets.items()}

    def samples(self, test_set: str, model: str | None = None) -> list[dict[str, Any]]:
        """Every row of a test set with a model's answer; without `model` the last stage's. Raises UserError."""
        found = _known("test set", self.sets, test_set)
        own = [m.model for m in found if not m.beside]
        answered = _known(f"model of {test_set}", {m.model: m for m in found}, model or own[-1])
        return [dict(row) for row in answered.samples]

    def report(self, out: str | Path | None = None) -> Path:
        """Write the run's HTML page, and return its path."""
        from adapters.report import write_report

        return write_report(self.path, Path(out) if out else None)

    def load(self, **options: Any) -> Extractor:
        """The adapter of the last finished stage; see `load`."""
        return load(self.path, **options)


def _known(what: str, values: Mapping[str, Result], name: str) -> Result:
    if name not in values:
        raise UserError(f"there is no {what} {visible(name)}.{hint(name, list(values))}")
    return values[name]


@checked
def run(
    recipe: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    fresh: bool = False,
    fork: bool = False,
    trust_remote_code: bool = False,
) -> Run:
    """Run a recipe, as `adapters run` does, and return its run. Run again, it continues where it stopped.

    `settings` are overrides: `{"stages.0.max_steps": 40}`. Raises UserError and Refused, and KeyboardInterrupt when it
    is interrupted.
    """
    from adapters.cli.errors import State
    from adapters.cli.options import consent
    from adapters.cli.run import plan_recipe, train
    from adapters.console import bars_as_before, console
    from adapters.recipe.load import load_recipe

    if fresh and fork:
        raise UserError("fresh starts over and fork keeps stages; give one of them.")
    consent(trust_remote_code)
    file, screen = load_recipe(Path(recipe), _overrides(settings)), console(stderr=True)
    try:
        with _located(file), bars_as_before():
            plan, backend = plan_recipe(file, screen, False)
            train(plan, backend, screen, State(), fresh=fresh, fork=fork, all_tables=False)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{file.recipe.name} was stopped; run again, it continues where it stopped.") from None
    opened = RunFolder.open(plan.folder)
    return Run(opened.path, opened.recipe)


@checked
def check(recipe: str | Path, settings: Mapping[str, Any] | None = None, *, trust: bool = False) -> Checked:
    """Check a recipe, as `adapters check` does: `.errors`, `.warnings` and what was measured.

    `trust` lets plug-ins from outside the recipe's folder be imported. Raises UserError, and Refused without it.
    """
    from adapters.backends import backend
    from adapters.console import bars_as_before, quiet
    from adapters.pipeline.check import check_recipe, first_faults, hardware_of
    from adapters.plugins import source_files
    from adapters.plugins.trust import Consent, admit_recipe
    from adapters.publish.hub import ask_hub
    from adapters.publish.requirements import of_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(Path(recipe), _overrides(settings))
    plugins = source_files.of_recipe(file.recipe, file.folder)
    admit_recipe(plugins, file.folder, Consent(trust))
    with quiet(None), bars_as_before():
        faults = first_faults(file, plugins)
        return faults or check_recipe(file, backend(file.recipe), plugins, hardware_of(None, None), ask_hub, of_plan)


@checked
def load(
    adapter: str | Path,
    *,
    text: str | None = None,
    engine: Literal["transformers", "vllm"] = "transformers",
    task: str | None = None,
    params: Mapping[str, Any] | None = None,
    base: str | None = None,
    revision: str | None = None,
    trust: bool = False,
    trust_remote_code: bool = False,
    batch_size: Annotated[int, Field(ge=1)] | None = None,
    max_tokens: Annotated[int, Field(ge=1)] = 2048,
    constrain: Literal["schema", "source", "off"] | None = None,
    samples: Annotated[int, Field(ge=1)] = 1,
    pick: Literal["vote", "likelihood"] = "vote",
    temperature: Annotated[float, Field(ge=0)] = 0.8,
    window: Annotated[int, Field(ge=16)] | None = None,
    passes: Annotated[int, Field(ge=1, le=4)] = 1,
    grounded: Literal["strict", "flag", "off"] = "flag",
    min_confidence: Annotated[float, Field(ge=0, le=1)] | None = None,
    normalise: bool = False,
    registry: str | Path | None = None,
    endpoint: str | None = None,
    model: str | None = None,
    api_key_env: str | None = None,
    concurrency: Annotated[int, Field(ge=1)] | None = None,
) -> Extractor:
    """An adapter that extracts: a run, a stage, a bundle, or a Hub id. Options mean what those of `extract` mean.

    `text` is the column of the texts in rows. The model is loaded when the first text is answered, and kept. Raises
    UserError; Refused for a task's code of elsewhere without `trust`.
    """
    from adapters.cli.extract import PickOptions
    from adapters.cli.options import Server, consent
    from adapters.extraction import adapter_source
    from adapters.extraction.engine import Options
    from adapters.extraction.session import Session
    from adapters.plugins.trust import Consent

    server, picks = Server(endpoint, model, api_key_env, concurrency), PickOptions(samples, pick, temperature)
    server.refuse_without_endpoint()
    consent(trust_remote_code)
    source = adapter_source.find(
        str(adapter), task=task, base=base, revision=revision, params=params, consent=Consent(trust)
    )
    options = Options(max_tokens, batch_size, constrain, **vars(server))
    session = Session.open(source, engine, options, **picks.checked())
    cutter = session.cutter(window, passes)
    columns = {
        "text": text,
        "normalise": normalise,
        "registry": Path(registry) if registry else None,
        "grounded": grounded,
        "sure": session.confidence(min_confidence, grounded=grounded != "off"),
    }
    return Extractor(session, cutter, columns)


@contextmanager
def _located(file: RecipeFile) -> Iterator[None]:
    """Name file, line and key in what is wrong with a recipe, as the commands do."""
    try:
        yield
    except UserError as error:
        raise UserError(file.locate(error)) from None


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={json.dumps(value, default=str)}" for key, value in (settings or {}).items()]
