"""A run folder as it lies on disk: finished, dead or still at work. Damaged or half-written lines are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adapters.backends import adapter_folder
from adapters.errors import UserError
from adapters.files import read_json
from adapters.recipe.load import present_keys

State = Literal["done", "in progress", "waiting"]


@dataclass(frozen=True)
class Stage:
    """One stage: what was asked for, how far it is, what it logged."""

    name: str
    kind: str
    state: State
    settings: Mapping[str, Any]
    manifest: Mapping[str, Any]
    """Empty until the stage is done."""
    folder: Path | None
    """Where its files are now; None before it starts."""
    log: tuple[Mapping[str, float], ...]
    """One entry a step, in order; of a step logged twice (after a restart) the last."""

    @property
    def hash(self) -> str | None:
        """Hash of the adapter's weights."""
        found = self.manifest.get("files", {}).get(adapter_folder.WEIGHTS)
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Evaluated:
    """A model on a test set."""

    model: str
    figures: Mapping[str, Any]
    samples: tuple[Mapping[str, Any], ...]
    stale: bool
    """Measured on other weights than the stage holds now."""


@dataclass(frozen=True)
class Run:
    """Everything a report shows."""

    folder: Path
    name: str
    recipe: Mapping[str, Any]
    recipe_text: str
    stages: tuple[Stage, ...]
    sets: Mapping[str, tuple[Evaluated, ...]]
    """Test set -> models in the order of training, the base first."""
    ledger: Mapping[str, Any]
    rejected: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def done(self) -> bool:
        """Whether every stage is trained."""
        return all(stage.state == "done" for stage in self.stages)


def read_run(folder: Path) -> Run:
    """Read what there is. Raises UserError when the folder is no run folder."""
    if not (folder / "recipe.json").is_file() and (folder.parent / "recipe.json").is_file():
        folder = folder.parent  # a stage folder stands for its run
    recipe = present_keys(read_json(folder / "recipe.json"))
    if not recipe:
        raise UserError(
            f"{folder} is no run folder: it holds no readable recipe.json. Give a folder such as runs/NAME."
        )
    wanted = recipe.get("stages")
    stages = [_stage(folder, n, settings) for n, settings in enumerate(wanted if isinstance(wanted, list) else (), 1)]
    try:
        text = (folder / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return Run(
        folder=folder,
        name=str(recipe.get("name") or folder.name),
        recipe=recipe,
        recipe_text=text,
        stages=tuple(stages),
        sets=_sets(folder, stages),
        ledger=read_json(folder / "ledger.json"),
        rejected=tuple(read_lines(folder / "rejected.jsonl")),
    )


def reward_weights(stages: Sequence[Stage]) -> dict[str, float]:
    """Weights of the rewards by the names their scores are recorded under, as `adapters.rewarding` gives them."""
    out: dict[str, float] = {}
    for stage in stages:
        names: list[str] = []
        for plug in stage.settings.get("rewards") or ():
            held = plug if isinstance(plug, dict) else {"use": plug}
            name = str(held.get("use")).rpartition(":")[2]
            names.append(name)
            weight = number(held.get("weight"))
            out[name if names.count(name) == 1 else f"{name}#{names.count(name)}"] = 1.0 if weight is None else weight
    return out


def weighted(scores: Mapping[str, Any], weights: Mapping[str, float]) -> float | None:
    """Sum of the scores by weight, over the weights' size, so within [-1, 1]; None when no reward applies."""
    known = {name: v for name, value in scores.items() if (v := number(value)) is not None}
    size = sum(abs(weights.get(name, 1.0)) for name in known)
    return sum(weights.get(name, 1.0) * v for name, v in known.items()) / size if size else None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, one at a time, without the lines that are none (a writer may be at work)."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with file:
        for line in file:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                yield value


def number(value: Any) -> float | None:
    """A number that can be shown, so finite and below 1e100; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e100 < value < 1e100 else None


def _stage(run: Path, n: int, settings: Any) -> Stage:
    settings = settings if isinstance(settings, dict) else {}
    kind = str(settings.get("kind", "stage"))
    finished = run / f"{n}-{kind}"
    manifest = adapter_folder.manifest(finished) or {}
    working = adapter_folder.work_folder(finished)
    folder = finished if manifest else working if working.is_dir() else None
    held = manifest.get("stage")
    return Stage(
        name=finished.name,
        kind=kind,
        state="done" if manifest else "in progress" if folder else "waiting",
        settings=held if isinstance(held, dict) else settings,
        manifest=manifest,
        folder=folder,
        log=_log(folder / "log.jsonl") if folder else (),
    )


def _log(path: Path) -> tuple[dict[str, float], ...]:
    steps: dict[float, dict[str, float]] = {}
    for entry in read_lines(path):
        step = number(entry.get("step"))
        if step is None or "train_runtime" in entry:  # the trainer's closing summary is no step
            continue
        figures = {str(k): v for k, value in entry.items() if (v := number(value)) is not None}
        steps[step] = {**steps.get(step, {}), **figures}
    return tuple(steps[step] for step in sorted(steps))


def _sets(run: Path, stages: list[Stage]) -> dict[str, tuple[Evaluated, ...]]:
    order = ["base", *(stage.name for stage in stages)]
    hashes = {stage.name: stage.hash for stage in stages if stage.hash}
    sets: dict[str, list[Evaluated]] = {}
    found = [(p.parent.parent.name, p.parent.name, p) for p in (run / "eval").glob("*/*/metrics.json")]
    for model, name, path in sorted(found, key=lambda f: (order.index(f[0]) if f[0] in order else len(order), f)):
        figures = read_json(path)
        if not isinstance(figures.get("metrics"), dict):
            continue
        measured = str(figures.get("key", "")).partition(":")[2].partition(":")[0]
        stale = bool(measured) and model in hashes and measured != hashes[model]
        samples = tuple(read_lines(path.with_name("samples.jsonl")))
        sets.setdefault(name, []).append(Evaluated(model, figures, samples, stale))
    return {name: tuple(models) for name, models in sets.items()}
