"""Counts to figures: micro-averaged precision, recall and F with bootstrap intervals. One formula for every task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adapters.types import Counts, ModeCounts

BETAS = {"f1": 1.0, "f0.5": 0.5, "f1.5": 1.5}
RESAMPLES = 1000


def corpus(
    examples: Sequence[ModeCounts], *, intervals: bool = True, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """Micro average over examples: mode -> field -> {gold, pred, matched, precision, recall, f1, f0.5, f1.5}.

    With `intervals`, `<figure>_ci` holds the 95 % percentile interval over 1,000 bootstrap resamples of the examples
    (Efron and Tibshirani 1993), drawn with `seed`.
    """
    if not examples:
        return {}
    draws = resamples(len(examples), seed) if intervals else None
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for mode, fields in examples[0].items():
        out[mode] = {}
        for name in fields:
            table = np.array([example[mode][name] for example in examples], dtype=float)
            out[mode][name] = figures(Counts(*table.sum(axis=0).tolist()))
            if draws is not None:
                out[mode][name] |= _intervals(draws @ table)
    return out


def figures(counts: Counts) -> dict[str, Any]:
    """The figures of one pair of counts, by the names of the published tables."""
    whole = {name: int(v) if float(v).is_integer() else v for name, v in counts._asdict().items()}
    scores = {name: counts.f(beta) for name, beta in BETAS.items()}
    return {**whole, "precision": counts.precision, "recall": counts.recall, **scores}


def resamples(n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """How often each of n examples is drawn in each bootstrap resample: shape (1000, n), float."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def mean_with_interval(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """Mean of per-example values with its 95 % bootstrap interval."""
    table = np.asarray(values, dtype=float)
    means = resamples(len(table), seed) @ table / len(table)
    return {"mean": float(table.mean()), "mean_ci": _percentiles(means), "n": len(table)}


def _intervals(sums: np.ndarray[Any, Any]) -> dict[str, list[float]]:
    gold, pred, matched = sums.T
    p = np.divide(matched, pred, out=np.zeros_like(pred), where=pred > 0)
    r = np.divide(matched, gold, out=np.zeros_like(gold), where=gold > 0)
    out = {"precision_ci": _percentiles(p), "recall_ci": _percentiles(r)}
    for name, beta in BETAS.items():
        below = beta * beta * p + r
        f = np.divide((1 + beta * beta) * p * r, below, out=np.zeros_like(below), where=below > 0)
        out[f"{name}_ci"] = _percentiles(f)
    return out


def _percentiles(values: np.ndarray[Any, Any]) -> list[float]:
    return [float(v) for v in np.percentile(values, (2.5, 97.5))]


def flat(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One dict a row, for tables and data frames."""
    return [{"mode": m, "field": f, **v} for m, fields in metrics.items() for f, v in fields.items()]
