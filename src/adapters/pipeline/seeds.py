"""Runs of one recipe that differ in their seed: mean, spread, and what each stage changed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, Field, ValidationError

from adapters.errors import UserError
from adapters.evaluation import comparison
from adapters.evaluation.metrics import main_mode, number
from adapters.files import read_json, write_json
from adapters.pipeline.run_folder import EvaluatedModel, RunFolder, pairs

FILE: Final = "seeds.json"
"""In each run's folder: the figures of all its seeds, for the report and the card."""


class Line(BaseModel):
    """One model's F1 in the main matching mode, or its mean reward, over the seeds."""

    set: str
    field: str
    model: str
    mean: float
    sd: float
    """Sample standard deviation."""
    values: list[float]


class Moved(BaseModel):
    """What a model changed against the one that it is compared with (`run_folder.pairs`): means over the seeds."""

    set: str
    field: str
    before_model: str
    model: str
    before: float
    after: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the change, over examples and seeds."""


class Summary(BaseModel):
    """The figures of all seeds."""

    seeds: list[int] = []
    runs: list[str] = []
    lines: list[Line] = Field(default_factory=list)
    changes: list[Moved] = Field(default_factory=list)


def parse(words: Iterable[str]) -> list[int]:
    """The seeds of `1 2 3` or `1,2,3`. Raises UserError for anything else."""
    given = [part for word in words for part in word.split(",") if part]
    if not all(part.isdecimal() for part in given):
        fault = "seeds are whole numbers behind the recipe, such as adapters run recipe.yaml --seeds 1 2 3."
        raise UserError(f"--seeds {' '.join(given)}: {fault}")
    seeds = [int(part) for part in given]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise UserError("--seeds needs at least two different seeds, such as --seeds 1 2 3.")
    return seeds


def summarise(folders: Mapping[int, Path]) -> Summary:
    """The figures of all seeds (seed -> run folder), also written into each run's folder."""
    runs = [RunFolder.open(folder) for folder in folders.values()]
    summary = Summary(seeds=list(folders), runs=[folder.name for folder in folders.values()])
    for name in runs[0].sets:
        by_model = [{m.model: m for m in run.sets.get(name, ()) if not m.stale} for run in runs]
        groups = {
            label: [models[label] for models in by_model] for label in by_model[0] if all(label in m for m in by_model)
        }
        for group in groups.values():
            summary.lines += _lines(name, group)
        for before, after in pairs([group[0] for group in groups.values()]):
            summary.changes += _changes(name, groups[before.model], groups[after.model])
    for folder in folders.values():
        write_json(folder / FILE, summary.model_dump())
    return summary


def stored(run: RunFolder) -> Summary:
    """The summary of a run's seeds; empty when it was run with one."""
    try:
        return Summary.model_validate(read_json(run.path / FILE))
    except ValidationError:
        return Summary()


def _lines(name: str, group: Sequence[EvaluatedModel]) -> Iterator[Line]:
    for field in _figures(group[0]):
        values = [value for model in group if (value := number(_figures(model).get(field))) is not None]
        if len(values) == len(group):
            mean, sd = statistics.mean(values), statistics.stdev(values)
            yield Line(set=name, field=field, model=group[0].model, mean=mean, sd=sd, values=values)


def _figures(model: EvaluatedModel) -> dict[str, Any]:
    fields = model.figures["metrics"][main_mode(model.figures["metrics"])]
    rewards = model.figures.get("rewards") or {}
    f1 = {field: figures.get("f1") for field, figures in fields.items() if number(figures.get("gold"))}
    return f1 | {f"reward {reward}": figures.get("mean") for reward, figures in rewards.items()}


def _changes(name: str, before: Sequence[EvaluatedModel], after: Sequence[EvaluatedModel]) -> Iterator[Moved]:
    mode = main_mode(before[0].figures["metrics"])
    old, new = ([model.samples for model in group] for group in (before, after))
    for change in comparison.changes_over_seeds(old, new, mode):
        yield Moved(set=name, before_model=before[0].model, model=after[0].model, **change._asdict())
