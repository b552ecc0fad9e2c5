"""Figures of the test sets: tables by matching mode and field, and what a stage changed, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from adapters.evaluation.metrics import f1_changes
from adapters.report.reading import Evaluated, number

FIGURES = ("precision", "recall", "f1", "f0.5", "f1.5")


@dataclass(frozen=True)
class Row:
    """One model's figures of one field in one mode."""

    field: str
    model: str
    counts: tuple[float | None, float | None, float | None]
    """Gold, predicted, matched."""
    figures: Mapping[str, tuple[float, float, float] | None]
    """Name -> (value, low, high)."""


@dataclass(frozen=True)
class Change:
    """Two models on the same samples: the difference of F1 with its 95 % paired bootstrap interval."""

    before: str
    after: str
    field: str
    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def modes(models: Sequence[Evaluated]) -> list[str]:
    """Matching modes, the one of the headlines first."""
    found = list(dict.fromkeys(str(mode) for m in models for mode in m.figures["metrics"]))
    return sorted(found, key=lambda mode: mode != "balanced")


def rows(models: Sequence[Evaluated], mode: str) -> list[Row]:
    """A row for each field and model, fields outside; without the fields that neither gold nor any model has."""
    fields = dict.fromkeys(field for m in models for field in m.figures["metrics"].get(mode, {}))
    out = []
    for field in fields:
        held = [(m, m.figures["metrics"].get(mode, {}).get(field) or {}) for m in models]
        if any(number(f.get("gold")) or number(f.get("pred")) for _, f in held):
            out += [_row(field, m.model, figures) for m, figures in held]
    return out


def _row(field: str, model: str, figures: Mapping[str, Any]) -> Row:
    gold, pred, matched = (number(figures.get(name)) for name in ("gold", "pred", "matched"))
    return Row(field, model, (gold, pred, matched), {name: interval(figures, name) for name in FIGURES})


def interval(figures: Mapping[str, Any], name: str) -> tuple[float, float, float] | None:
    """A figure with the ends of its interval (its own value where it has none); None when it is absent."""
    value = number(figures.get(name))
    ends = figures.get(f"{name}_ci")
    if value is None:
        return None
    low, high = (number(e) for e in ends) if isinstance(ends, list) and len(ends) == 2 else (None, None)
    return value, value if low is None else low, value if high is None else high


def changes(models: Sequence[Evaluated], mode: str) -> list[Change]:
    """Every model against the one before it, on the samples both answered. Empty with one model."""
    out = []
    for before, after in pairwise(models):
        one, two = ({s.get("id"): s for s in m.samples} for m in (before, after))
        ids = [i for i in one if i in two]
        fields = [r.field for r in rows([before, after], mode) if r.model == after.model and r.counts[0]]
        held = {}
        for field in fields if ids else ():
            sides = [t for side in (one, two) if (t := _table([side[i] for i in ids], mode, field)) is not None]
            if len(sides) == 2:
                held[field] = sides
        if held:
            found = f1_changes(*(np.stack([sides[n] for sides in held.values()], axis=1) for n in (0, 1)))
            out += [
                Change(before.model, after.model, f, c.after - c.before, *c.interval)
                for f, c in zip(held, found, strict=True)
            ]
    return out


def _table(samples: Sequence[Mapping[str, Any]], mode: str, field: str) -> np.ndarray[Any, Any] | None:
    try:
        table = np.array([s["counts"][mode][field] for s in samples], dtype=float)
    except (KeyError, TypeError, ValueError):
        return None
    return table if table.ndim == 2 and table.shape[1] == 3 else None
