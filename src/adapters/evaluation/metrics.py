"""Counts to figures: micro-averaged precision, recall and F with bootstrap intervals. One formula for every task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from adapters.types import Counts, ModeCounts

Metrics = dict[str, dict[str, dict[str, Any]]]
"""Mode -> field -> {gold, pred, matched, precision, recall, f1, f0.5, f1.5, and the interval of each: f1_ci …}."""
BETAS = {"f1": 1.0, "f0.5": 0.5, "f1.5": 1.5}
RESAMPLES = 1000
CELLS = 100_000
"""Numbers drawn at once: they fit a processor's cache, and bound the memory of a bootstrap over a million rows."""


def corpus(examples: Sequence[ModeCounts], *, intervals: bool = True, seed: int = 0) -> Metrics:
    """Micro average over examples, by matching mode and field.

    With `intervals`, `<figure>_ci` holds the 95 % percentile interval over 1,000 bootstrap resamples of the examples
    (Efron and Tibshirani 1993), drawn with `seed`.
    """
    if not examples:
        return {}
    names = [(mode, field) for mode, fields in examples[0].items() for field in fields]
    table = np.array([[n for m, f in names for n in example[m][f]] for example in examples], dtype=float)
    whole, drawn = table.sum(axis=0), resampled_sums(table, seed) if intervals else None
    out: Metrics = {mode: {} for mode in examples[0]}
    for column, (mode, field) in enumerate(names):
        part = slice(3 * column, 3 * column + 3)
        out[mode][field] = figures(Counts(*whole[part].tolist()))
        if drawn is not None:
            out[mode][field] |= _intervals(drawn[:, part])
    return out


def figures(counts: Counts) -> dict[str, Any]:
    """The figures of one pair of counts, by the names of the published tables."""
    whole = {name: int(v) if float(v).is_integer() else v for name, v in counts._asdict().items()}
    scores = {name: counts.f(beta) for name, beta in BETAS.items()}
    return {**whole, "precision": counts.precision, "recall": counts.recall, **scores}


def resampled_sums(table: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Column sums of 1,000 bootstrap resamples of a table's rows: shape (1000, columns). Memory grows with the rows."""
    n, rng = len(table), np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES, CELLS // n))
    sums = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(float) @ table)
    return np.concatenate(sums)


def mean_with_interval(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean of per-example values with its 95 % bootstrap interval."""
    table = np.asarray(values, dtype=float)[:, None]
    means = resampled_sums(table, seed)[:, 0] / len(table)
    return {"mean": float(table.mean()), "mean_ci": _percentiles(means), "n": len(table)}


def main_mode(modes: Iterable[str]) -> str:
    """The matching mode that is shown where there is room for one: balanced, else the task's first."""
    known = list(modes)
    return "balanced" if "balanced" in known else known[0]


def f1_change_intervals(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> list[list[float]]:
    """95 % interval of the difference of F1, for each field, from counts of shape (examples, fields, 3) on both sides.

    The same examples are drawn for both (a paired bootstrap; Efron and Tibshirani 1993, chapter 16).
    """
    tables = np.stack([before, after], axis=1).astype(float)
    drawn = _f1(resampled_sums(tables.reshape(len(tables), -1)).reshape(-1, *tables.shape[1:]))
    return _percentiles((drawn[:, 1] - drawn[:, 0]).T)


def _f1(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """2 matched / (gold + pred), 0 where there is nothing; the last axis holds gold, pred and matched."""
    gold, pred, matched = np.moveaxis(sums, -1, 0)
    f1: np.ndarray[Any, Any] = np.divide(2 * matched, gold + pred, out=np.zeros_like(matched), where=gold + pred > 0)
    return f1


def _intervals(sums: np.ndarray[Any, Any]) -> dict[str, list[float]]:
    gold, pred, matched = sums.T
    p = np.divide(matched, pred, out=np.zeros_like(pred), where=pred > 0)
    r = np.divide(matched, gold, out=np.zeros_like(gold), where=gold > 0)
    drawn = {"precision_ci": p, "recall_ci": r}
    for name, beta in BETAS.items():
        below = beta * beta * p + r
        drawn[f"{name}_ci"] = np.divide((1 + beta * beta) * p * r, below, out=np.zeros_like(below), where=below > 0)
    return dict(zip(drawn, _percentiles(np.stack(list(drawn.values()))), strict=True))


def _percentiles(values: np.ndarray[Any, Any]) -> list[Any]:
    """The bounds of the middle 95 % of a row of values, or of each of several rows."""
    return np.percentile(values, (2.5, 97.5), axis=-1).T.tolist()  # type: ignore[no-any-return]


def number(value: Any) -> float | None:
    """A number that can be shown, so finite and below 1e100; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e100 < value < 1e100 else None
