"""Micro-averaged precision, recall and F with bootstrap intervals, for every task."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from typing import Any

import numpy as np

from adapters.types import Counts, ModeCounts

Metrics = dict[str, dict[str, dict[str, Any]]]
"""Mode -> field -> {gold, pred, matched, precision, recall, f1, f1_ci …}."""
BETAS = {"f1": 1.0, "f0.5": 0.5, "f1.5": 1.5}
RESAMPLES = 1000
CELLS = 100_000
"""Numbers drawn at once: they fit a processor's cache."""


class CountTable:
    """Counts of examples as numbers in rows, 24 bytes for each mode and field; `summed`: all in one row."""

    def __init__(self, examples: Iterable[ModeCounts] = (), *, summed: bool = False) -> None:
        self.fields: dict[str, list[str]] = {}
        """Mode -> fields, of the first example."""
        self._cells, self._examples, self._summed = array("d"), 0, summed
        for counts in examples:
            self.add(counts)

    def add(self, counts: ModeCounts) -> None:
        """Add an example."""
        if not self.fields:
            self.fields = {mode: list(fields) for mode, fields in counts.items()}
        cells = [cell for mode, fields in self.fields.items() for field in fields for cell in counts[mode][field]]
        if self._summed and self._examples:
            self._cells = array("d", map(add, self._cells, cells))
            return
        self._examples += 1
        self._cells.extend(cells)

    def rows(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Shape (examples, 3 x modes x fields)."""
        columns = 3 * sum(map(len, self.fields.values()))
        return np.frombuffer(self._cells, dtype=float).reshape(self._examples, columns)


def corpus(examples: Iterable[ModeCounts], *, intervals: bool = True, seed: int = 0) -> Metrics:
    """Micro average over examples, by matching mode and field.

    `<figure>_ci` is the 95 % interval of 1,000 bootstrap resamples of the examples (Efron and Tibshirani 1993); None
    for a figure that is None.
    """
    table = CountTable(examples)
    return of_table(table.fields, table.rows(), intervals=intervals, seed=seed)


def of_table(
    fields: Mapping[str, Sequence[str]], table: np.ndarray[Any, Any], *, intervals: bool = True, seed: int = 0
) -> Metrics:
    """The figures of `corpus` from the rows of a `CountTable` with these fields."""
    names = [(mode, field) for mode in fields for field in fields[mode]]
    whole, drawn = table.sum(axis=0), resampled_sums(table, seed) if intervals and names else None
    out: Metrics = {mode: {} for mode in fields}
    for column, (mode, field) in enumerate(names):
        part = slice(3 * column, 3 * column + 3)
        out[mode][field] = figures(Counts(*whole[part].tolist()))
        if drawn is not None:
            drawn_figures = _intervals(drawn[:, part])
            undefined = {f"{name}_ci" for name, value in out[mode][field].items() if value is None}
            out[mode][field] |= {name: None if name in undefined else ci for name, ci in drawn_figures.items()}
    return out


def figures(counts: Counts) -> dict[str, Any]:
    """Counts, precision, recall and F. Without gold recall is None; without gold and predictions all are."""
    whole = {name: int(v) if float(v).is_integer() else v for name, v in counts._asdict().items()}
    scores = {"precision": counts.precision, "recall": counts.recall}
    scores |= {name: counts.f(beta) for name, beta in BETAS.items()}
    undefined = () if counts.gold else ("recall",) if counts.pred else tuple(scores)
    return {**whole, **scores, **dict.fromkeys(undefined)}


def resampled_sums(table: np.ndarray[Any, Any], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Column sums of 1,000 bootstrap resamples of the rows: shape (1000, columns)."""
    n, rng = len(table), np.random.default_rng(seed)
    at_once = max(1, min(RESAMPLES, CELLS // n))
    sums = []
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        sums.append(np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(float) @ table)
    return np.concatenate(sums)


def mean_with_interval(values: Sequence[float] | np.ndarray[Any, Any], seed: int = 0) -> dict[str, Any]:
    """Mean of per-example values with its 95 % bootstrap interval."""
    table = np.asarray(values, dtype=float)[:, None]
    means = resampled_sums(table, seed)[:, 0] / len(table)
    return {"mean": float(table.mean()), "mean_ci": percentiles(means), "n": len(table)}


def main_mode(modes: Iterable[str]) -> str:
    """The mode that is shown where there is room for one: balanced, else the first."""
    known = list(modes)
    return "balanced" if "balanced" in known else known[0]


def f1_change_intervals(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> list[list[float]]:
    """95 % intervals of the change of F1, from counts of shape (examples, fields, 3).

    The same examples are drawn for both (a paired bootstrap; Efron and Tibshirani 1993, chapter 16).
    """
    return change_intervals(before[:, None], after[:, None], f1_of_sums)


def change_intervals(
    before: np.ndarray[Any, Any],
    after: np.ndarray[Any, Any],
    figure: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]],
) -> list[list[float]]:
    """95 % intervals of the mean change over seeds, from tables of shape (examples, seeds, fields, columns).

    `figure` takes sums over the examples (…, fields, columns) and gives the figure of each field. Examples and seeds
    are drawn, the same for both models (a two-way bootstrap; Owen 2007, The pigeonhole bootstrap). What the seeds add
    is widened by sqrt(n / (n - 1)), because draws of few seeds vary too little.
    """
    tables = np.stack([before, after], axis=1).astype(float)
    seeds = before.shape[1]
    drawn = figure(resampled_sums(tables.reshape(len(tables), -1)).reshape(-1, *tables.shape[1:]))
    shares = np.random.default_rng(1).multinomial(seeds, [1 / seeds] * seeds, size=len(drawn)) / seeds
    moved = drawn[:, 1] - drawn[:, 0]
    mean, of_seeds = moved.mean(axis=1), (moved * shares[..., None]).sum(axis=1)
    return percentiles((mean + math.sqrt(seeds / max(1, seeds - 1)) * (of_seeds - mean)).T)


def f1_of_sums(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """F1 of summed counts, whose last axis is gold, predicted and matched: 2 matched / (gold + predicted)."""
    gold, pred, matched = np.moveaxis(sums, -1, 0)
    return ratio(2 * matched, gold + pred)


def _intervals(sums: np.ndarray[Any, Any]) -> dict[str, list[float]]:
    gold, pred, matched = sums.T
    p, r = ratio(matched, pred), ratio(matched, gold)
    drawn = {"precision_ci": p, "recall_ci": r}
    for name, beta in BETAS.items():
        drawn[f"{name}_ci"] = ratio((1 + beta * beta) * p * r, beta * beta * p + r)
    return dict(zip(drawn, percentiles(np.stack(list(drawn.values()))), strict=True))


def ratio(above: np.ndarray[Any, Any], below: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The quotient, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)  # type: ignore[no-any-return]


def percentiles(values: np.ndarray[Any, Any]) -> list[Any]:
    """The bounds of the middle 95 %, along the last axis."""
    return np.percentile(values, (2.5, 97.5), axis=-1).T.tolist()  # type: ignore[no-any-return]


def text(value: float | None, digits: int = 3) -> str:
    """A figure for people; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def nothing_to_find(rows: int, agree: int, claim: int, unreadable: int) -> str:
    """What there is to say of a test set without gold, instead of figures."""
    return (
        f"nothing to find in {rows:,} rows; "
        f"{agree:,} answers say so, {claim:,} claim something, {unreadable:,} are unreadable"
    )


def number(value: Any) -> float | None:
    """The value if it is a finite number below 1e100, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -1e100 < value < 1e100 else None
