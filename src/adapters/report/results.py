"""Result tables of the report: figures by field, and changes between stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adapters.evaluation import comparison
from adapters.evaluation.comparison import Change
from adapters.evaluation.metrics import main_mode, number
from adapters.pipeline.run_folder import EvaluatedModel, pairs

FIGURES = ("precision", "recall", "f1", "f0.5", "f1.5")


class Row(NamedTuple):
    """One model's figures of one field in one mode."""

    field: str
    model: str
    counts: tuple[float | None, float | None, float | None]
    """Gold, predicted, matched."""
    figures: Mapping[str, tuple[float, float, float] | None]
    """Name -> (value, low, high)."""


def modes(models: Sequence[EvaluatedModel]) -> list[str]:
    """Matching modes, the main one first."""
    names = dict.fromkeys(str(mode) for m in models for mode in m.figures["metrics"])
    return sorted(names, key=lambda mode: mode != main_mode(names))


def rows(models: Sequence[EvaluatedModel], mode: str) -> list[Row]:
    """A row for each field (with gold or predicted values) and model."""
    by_model = {m.model: m.figures["metrics"].get(mode, {}) for m in models}
    out = []
    for field in dict.fromkeys(field for fields in by_model.values() for field in fields):
        group = {model: fields.get(field) or {} for model, fields in by_model.items()}
        if any(number(f.get("gold")) or number(f.get("pred")) for f in group.values()):
            for model, f in group.items():
                counts = number(f.get("gold")), number(f.get("pred")), number(f.get("matched"))
                out.append(Row(field, model, counts, {name: interval(f, name) for name in FIGURES}))
    return out


def interval(figures: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    """A figure with the ends of its interval, if any; None when it is absent."""
    value, ends = number(figures.get(name)), figures.get(f"{name}_ci")
    if value is None:
        return None
    low, high = (number(e) for e in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return value, value if low is None else low, value if high is None else high


def changes(models: Sequence[EvaluatedModel], mode: str) -> list[tuple[str, str, Change]]:
    """The changes between the `pairs` of models that answered the same rows."""
    return [
        (before.model, after.model, change)
        for before, after in pairs(models)
        for change in comparison.changes(before.figures, after.figures, mode, (before.samples, after.samples))
        if change.interval is not None
    ]


def reward_changes(models: Sequence[EvaluatedModel]) -> list[tuple[str, str, Change]]:
    """The same of the mean rewards."""
    return [
        (before.model, after.model, change)
        for before, after in pairs(models)
        for change in comparison.reward_changes(before.samples, after.samples)
    ]
