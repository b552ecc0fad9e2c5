"""The report's HTML page, rendered by a template that escapes everything."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup, escape

from adapters.backends.jobs import PICKED
from adapters.errors import UserError
from adapters.evaluation.alignment import STORED
from adapters.evaluation.metrics import number
from adapters.files import replacing
from adapters.pipeline.run_folder import GIVEN, EvaluatedModel, RunFolder
from adapters.plugins.registry import names, resolve
from adapters.recipe.fields import PluginSpec
from adapters.report import charts, curves, pipeline, results, rollouts, samples
from adapters.report.reward_weights import reward_weights
from adapters.report.text import cut, seen, side_by_side

NAME = "report.html"


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write a run's page to `out` or its report.html. Raises UserError if it cannot."""
    run = RunFolder.open(folder)
    path, text = out or run.path / NAME, render(run)
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Give another file with -o FILE.") from None
    return path


@cache
def _environment() -> Environment:
    loader = PackageLoader("adapters.report", ".")
    env = Environment(
        loader=loader, autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    as_json = partial(json.dumps, ensure_ascii=False, indent=2, default=str)
    env.filters |= {"seen": seen, "cut": cut, "short": charts.short, "plain": pipeline.plain, "json": as_json}
    return env


def render(run: RunFolder) -> str:
    """The page's HTML."""
    env = _environment()
    task, weights = _task(run), reward_weights(run.stages)
    script = env.get_template("page.js").render()
    return env.get_template("page.html.j2").render(
        run=run,
        script=Markup(script),  # noqa: S704 - our own file
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=Markup(env.get_template("page.css").render()),  # noqa: S704 - our own file
        time=datetime.now(UTC),
        steps=pipeline.steps(run),
        sets=[_set(run, name, models, task, weights) for name, models in [*run.sets.items(), *run.other_sets.items()]],
        curves=[(s, curves.panels(s.log)) for s in run.stages],
        chart=charts.line_chart,
        rollouts=[(s, rollouts.prompts(s.folder, weights)) for s in run.stages if s.folder],
        stages=_ledger(run, "stages"),
        tests=_ledger(run, "tests"),
        versions=_versions(run),
        number=number,
        aligned=task is not None or _stored(run),
        side_by_side=side_by_side,
        marked=marked,
        figures=results.FIGURES,
    )


def _set(
    run: RunFolder, name: str, models: Sequence[EvaluatedModel], task: Any, weights: Mapping[str, float]
) -> dict[str, Any]:
    lost, gained = samples.most_changed(models, task, weights)
    notes = {GIVEN: ", given with adapters eval --data", PICKED: ", answers picked from several"}
    note = next((text for part, text in notes.items() if part in name), ", not in the recipe")
    return {
        "name": name,
        "note": "" if name in run.sets else note,
        "models": models,
        "rewards": list(dict.fromkeys(str(r) for m in models for r in m.figures.get("rewards") or {})),
        "modes": [(m, results.rows(models, m), results.changes(models, m)) for m in results.modes(models)],
        "interval": results.interval,
        "worst": samples.worst(models, task, weights),
        "lost": lost,
        "gained": gained,
        "moved": samples.moved(models, weights),
    }


def _task(run: RunFolder) -> Any:
    """The run's task, for samples of older versions, if it is this project's: the page imports no other code."""
    try:
        spec = PluginSpec.model_validate(run.recipe.get("task"))
        ours = names("tasks").get(spec.use, "").startswith("adapters.")
        return resolve("tasks", spec) if ours else None
    except Exception:
        return None  # settings of a run that may come from anywhere


def _stored(run: RunFolder) -> bool:
    evaluated = [model for models in [*run.sets.values(), *run.other_sets.values()] for model in models]
    return all(STORED in sample for model in evaluated for sample in model.samples[:1])


def _ledger(run: RunFolder, section: str) -> dict[str, Mapping[str, Any]]:
    return {k: v for k, v in pipeline.as_dict(run.ledger.get(section)).items() if isinstance(v, dict)}


def _versions(run: RunFolder) -> dict[str, list[str | None]]:
    by_stage = [s.manifest.get("versions") or {} for s in run.stages]
    names = dict.fromkeys(str(name) for versions in by_stage for name in versions)
    return {name: [versions.get(name) for versions in by_stage] for name in names}


def marked(card: samples.Card) -> Markup:
    """The sample's text; values that the last model found, missed or added marked."""
    text = cut(card.text)
    spans: list[tuple[int, int, str]] = []
    for value, kind in sorted(_values(card), key=lambda v: -len(v[0])):
        at = text.find(value)
        while at >= 0:
            end = at + len(value)
            if all(end <= a or at >= b for a, b, _ in spans):
                spans.append((at, end, kind))
            at = text.find(value, end)
    out, done = [], 0
    for a, b, kind in sorted(spans):
        out += [escape(seen(text[done:a])), Markup('<mark class="{}">{}</mark>').format(kind, seen(text[a:b]))]
        done = b
    return Markup("").join([*out, escape(seen(text[done:]))])


def _values(card: samples.Card) -> set[tuple[str, str]]:
    out = {}
    for line in card.lines:
        last = line.preds[-1]
        if line.gold is not None:
            out[line.gold] = "hit" if last and last.matched else "miss"
        elif last and last.pred is not None:
            out.setdefault(last.pred, "extra")
    return {(value, kind) for value, kind in out.items() if len(value) > 1}
