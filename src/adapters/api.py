"""The verbs `run`, `check` and `extract` in Python. Nothing here does what the commands do not do.

Importing this imports no torch. Mistakes raise `adapters.errors.UserError`, whose text is the command's message.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapters.pipeline.run_folder import RunFolder

if TYPE_CHECKING:
    from adapters.extraction.engine import Engine
    from adapters.extraction.session import Session
    from adapters.pipeline.check import Checked

Text = str | Mapping[str, Any]
"""A text, or a row with the text and what else the task's prompt needs, such as `schema` of the task ie."""


@dataclass(frozen=True)
class Run(RunFolder):
    """A run folder: its stages, and what was measured."""

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Test set -> model (base, 1-sft …) -> matching mode -> field -> figures."""
        return {name: {m.model: m.figures["metrics"] for m in models} for name, models in self.sets.items()}

    def samples(self, test_set: str, model: str | None = None) -> list[dict[str, Any]]:
        """Every row of a test set with a model's answer; of the last stage unless `model` is named."""
        models = {m.model: m for m in self.sets[test_set]}
        return [dict(row) for row in models[model or list(models)[-1]].samples]

    def report(self, out: str | Path | None = None) -> Path:
        """Write the run's HTML page, and return its path."""
        from adapters.report import write_report

        return write_report(self.path, Path(out) if out else None)

    def load(self, **options: Any) -> Extractor:
        """The adapter of the last finished stage; see `load`."""
        return load(self.path, **options)


def run(
    recipe: str | Path, settings: Mapping[str, Any] | None = None, *, fresh: bool = False, fork: bool = False
) -> Run:
    """Run a recipe, as `adapters run` does, and return its run. Run again, it continues where it stopped.

    `settings` are overrides: `{"stages.0.max_steps": 40}`. Raises UserError and Refused.
    """
    from adapters.cli.errors import State
    from adapters.cli.run import plan_recipe, train
    from adapters.console import console
    from adapters.recipe.load import load_recipe

    file, screen = load_recipe(Path(recipe), _overrides(settings)), console(stderr=True)
    plan, backend = plan_recipe(file, screen, False)
    state = State()
    state.file = file
    train(plan, backend, screen, state, fresh=fresh, fork=fork, all_tables=False)
    opened = RunFolder.open(plan.folder)
    return Run(opened.path, opened.recipe)


def check(recipe: str | Path, settings: Mapping[str, Any] | None = None, *, trust: bool = False) -> Checked:
    """Check a recipe, as `adapters check` does: `.errors`, `.warnings` and what was measured.

    `trust` lets plug-ins from outside the recipe's folder be imported. Raises UserError, and Refused without it.
    """
    from adapters.backends import backend
    from adapters.console import quiet
    from adapters.pipeline.check import check_recipe, first_faults, hardware_of
    from adapters.plugins import source_files
    from adapters.plugins.trust import Consent, admit_recipe
    from adapters.publish.hub import ask_hub
    from adapters.publish.requirements import of_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(Path(recipe), _overrides(settings))
    plugins = source_files.of_recipe(file.recipe, file.folder)
    admit_recipe(plugins, file.folder, Consent(trust))
    with quiet(None):
        faults = first_faults(file, plugins)
        return faults or check_recipe(file, backend(file.recipe), plugins, hardware_of(None, None), ask_hub, of_plan)


def load(
    adapter: str | Path,
    *,
    engine: Literal["transformers", "vllm"] = "transformers",
    task: str | None = None,
    params: Mapping[str, Any] | None = None,
    base: str | None = None,
    revision: str | None = None,
    trust: bool = False,
    batch_size: int | None = None,
    max_tokens: int = 2048,
    constrain: Literal["schema", "source", "off"] | None = None,
    samples: int = 1,
    pick: Literal["vote", "likelihood"] = "vote",
    temperature: float = 0.8,
    window: int | None = None,
    passes: int = 1,
    grounded: Literal["strict", "flag", "off"] = "flag",
    min_confidence: float | None = None,
    normalise: bool = False,
    registry: str | Path | None = None,
    endpoint: str | None = None,
    model: str | None = None,
    api_key_env: str | None = None,
    concurrency: int | None = None,
) -> Extractor:
    """An adapter that extracts: a run, a stage, a bundle, or a Hub id. Options mean what those of `extract` mean.

    The model is loaded when the first text is answered, and kept. Raises UserError; Refused for a task's code of
    elsewhere without `trust`.
    """
    from adapters.extraction import adapter_source
    from adapters.extraction.engine import Options
    from adapters.extraction.session import Session
    from adapters.plugins.trust import Consent

    source = adapter_source.find(
        str(adapter), task=task, base=base, revision=revision, params=params, consent=Consent(trust)
    )
    options = Options(max_tokens, batch_size, constrain, endpoint, model, api_key_env, concurrency)
    session = Session.open(source, engine, options, samples=samples, pick=pick, temperature=temperature)
    session.cutter(window, passes)  # refuses what cannot be
    columns = {
        "normalise": normalise,
        "registry": Path(registry) if registry else None,
        "grounded": grounded,
        "sure": session.confidence(min_confidence, grounded=grounded != "off"),
    }
    return Extractor(session, window, passes, columns)


@dataclass
class Extractor:
    """Extracts records from texts; `load` makes one. Its model stays in memory."""

    session: Session
    window: int | None
    passes: int
    columns: Mapping[str, Any]
    engine: Engine | None = field(default=None, repr=False)

    def extract(self, texts: Text | Iterable[Text]) -> list[dict[str, Any]]:
        """A line for each text, in order, with the columns that `adapters extract` writes: record, error, spans …"""
        return list(self.stream([texts] if isinstance(texts, str | Mapping) else texts))

    def stream(self, texts: Iterable[Text]) -> Iterator[dict[str, Any]]:
        """The same as they come: texts are read in blocks of 1,024."""
        from adapters.extraction.engine import WINDOW
        from adapters.extraction.files import blocks

        first = 0
        for block in blocks(texts, WINDOW):
            for line in self._block(block):
                yield {**line, "row": line["row"] + first}
            first += len(block)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str | None]]:
        """For `dataset.map(extractor, batched=True)`: adds `record`, `error` and `spans`; records and spans as JSON.

        A column of Arrow has one type, and records of different rows need not.
        """
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        lines = self.extract(rows)
        texts = {name: [_json(line.get(name)) for line in lines] for name in ("record", "spans")}
        return {**texts, "error": [line["error"] for line in lines]}

    def _block(self, texts: Sequence[Text]) -> Iterator[dict[str, Any]]:
        from adapters.extraction.extract import open_or_resume, prepare, run
        from adapters.files import read_jsonl, write_jsonl

        name = self.session.source.task.text_field
        rows = [{name: text} if isinstance(text, str) else dict(text) for text in texts]
        used = [name, "id", *getattr(self.session.source.task, "request_fields", ())]
        with tempfile.TemporaryDirectory() as folder:
            corpus, out = Path(folder, "texts.jsonl"), Path(folder, "records.jsonl")
            write_jsonl(corpus, [{key: row[key] for key in used if key in row} for row in rows])
            job = prepare(self.session.source, corpus, out, **self.columns, engine=self.session.settings)
            with open_or_resume(job, fresh=True):
                run(job, self._engine, lambda *_: None, self.session.cutter(self.window, self.passes))
            yield from read_jsonl(out)

    def _engine(self) -> Engine:
        from adapters.console import note

        if self.engine is None:
            self.engine = self.session.start(note, scored=self.columns["sure"] is not None)
        return self.engine


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _overrides(settings: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
