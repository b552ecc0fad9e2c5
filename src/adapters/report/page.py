"""The report's HTML page, rendered by a template that escapes everything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

from adapters.backends.jobs import PICKED
from adapters.errors import UserError
from adapters.evaluation import constraining
from adapters.evaluation.alignment import STORED
from adapters.evaluation.metrics import number
from adapters.files import replacing
from adapters.pipeline.run_folder import GIVEN, EvaluatedModel, RunFolder
from adapters.pipeline.seeds import stored as stored_seeds
from adapters.plugins.registry import names, resolve
from adapters.recipe.fields import PluginSpec
from adapters.report import charts, confidence, curves, pipeline, results, rollouts, samples
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
def environment() -> Environment:
    """The templates of the pages, which escape everything."""
    loader = PackageLoader("adapters.report", ".")
    env = Environment(
        loader=loader, autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    as_json = partial(json.dumps, ensure_ascii=False, indent=2, default=str)
    env.filters |= {"seen": seen, "cut": cut, "short": charts.short, "plain": pipeline.plain, "json": as_json}
    return env


def assets(scripts: Sequence[str], styles: Sequence[str]) -> dict[str, str]:
    """The one script and the style sheet of a page, made of our own files, and the script's hash for its policy."""
    folder = resources.files("adapters.report")
    script, style = (
        "".join((folder / name).read_text(encoding="utf-8") for name in part) for part in (scripts, styles)
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_hash": digest, "style": Markup(style)}  # noqa: S704 - our own files


def render(run: RunFolder) -> str:
    """The page's HTML."""
    task, weights = own_task(run.recipe.get("task")), reward_weights(run.stages)
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            **assets(("page.js", "marks.js"), ("page.css",)),
            run=run,
            time=datetime.now(UTC),
            steps=pipeline.steps(run),
            sets=[
                _set(run, name, models, task, weights) for name, models in [*run.sets.items(), *run.other_sets.items()]
            ],
            seeds=stored_seeds(run),
            curves=[(s, curves.panels(s.log)) for s in run.stages],
            chart=charts.line_chart,
            calibrated=[one for stage in run.stages for one in confidence.calibrated(stage)],
            rollouts=[(s, rollouts.prompts(s.folder, weights)) for s in run.stages if s.folder],
            stages=_ledger(run, "stages"),
            tests=_ledger(run, "tests"),
            versions=_versions(run),
            number=number,
            aligned=task is not None or _stored(run),
            side_by_side=side_by_side,
            shown=shown_text,
            marks=marks,
            figures=results.FIGURES,
        )
    )


_CONSTRAINED = {
    f"{PICKED}schema": ", answers constrained to the schema",
    f"{PICKED}source": ", answers constrained to strings of the text",
}


def _set(
    run: RunFolder, name: str, models: Sequence[EvaluatedModel], task: Any, weights: Mapping[str, float]
) -> dict[str, Any]:
    lost, gained = samples.most_changed(models, task, weights)
    notes = {GIVEN: ", given with adapters eval --data", **_CONSTRAINED, PICKED: ", answers picked from several"}
    note = next((text for part, text in notes.items() if part in name), ", not in the recipe")
    return {
        "name": name,
        "note": "" if name in run.sets else note,
        "models": models,
        "rewards": list(dict.fromkeys(str(r) for m in models for r in m.figures.get("rewards") or {})),
        "modes": [(m, results.rows(models, m), results.changes(models, m)) for m in results.modes(models)],
        "reward_moves": results.reward_changes(models),
        "interval": results.interval,
        "worst": samples.worst(models, task, weights),
        "lost": lost,
        "gained": gained,
        "moved": samples.moved(models, weights),
        "constrained": [
            (m.model, told) for m in models if (told := constraining.sentence(m.figures.get("constraint")))
        ],
    }


def own_task(settings: Any) -> Any:
    """The task of a recipe or manifest, if it is this project's: a page imports no other code. Else None."""
    try:
        spec = PluginSpec.model_validate(settings)
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


def shown_text(card: samples.Card) -> str:
    """The sample's text as the page has it, to which the offsets of `marks` refer."""
    return seen(cut(card.text))


def marks(card: samples.Card) -> list[tuple[int, int, str]]:
    """Where values that the last model found, missed or added stand in the shown text: start, end, kind."""
    text = shown_text(card)
    return sorted(
        (found.start(), found.end(), kind)
        for value, kind in _values(card)
        for found in re.finditer(re.escape(seen(value)), text)
    )


def _values(card: samples.Card) -> set[tuple[str, str]]:
    out = {}
    for line in card.lines:
        last = line.preds[-1]
        if line.gold is not None:
            out[line.gold] = "hit" if last and last.matched else "miss"
        elif last and last.pred is not None:
            out.setdefault(last.pred, "extra")
    return {(value, kind) for value, kind in out.items() if len(value) > 1}
