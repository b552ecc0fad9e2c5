"""How well confidence tells right values from wrong ones: calibration error, ranking, and what a threshold gains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adapters.evaluation.metrics import RESAMPLES, percentiles

BINS: Final = 15
PRECISIONS: Final = (0.9, 0.95, 0.99)
"""Precisions whose thresholds are said."""
CURVE_POINTS: Final = 200

Numbers = NDArray[np.float64]
Bools = NDArray[np.bool_]
Figure = Callable[[Numbers, Bools], float | None]


def calibration_error(confidence: Numbers, right: Bools) -> float:
    """Expected calibration error: mean over 15 equal-count bins of |confidence - share right| (Naeini et al. 2015)."""
    return float(np.abs(_sums_of_bins(confidence, confidence - right)).sum() / len(confidence))


def auroc(confidence: Numbers, right: Bools) -> float | None:
    """The probability that a right value has a higher confidence than a wrong one; a tie counts half. None: one class.

    Mann and Whitney's U over the number of pairs.
    """
    positives, negatives = confidence[right], np.sort(confidence[~right])
    if not (len(positives) and len(negatives)):
        return None
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.sum() / 2 / (len(positives) * len(negatives)))


def tenth_gain(confidence: Numbers, right: Bools) -> float | None:
    """Precision without the least sure tenth of the values, minus precision. None for fewer than ten values.

    Of values that tie at the cut the expected share of right ones is dropped.
    """
    dropped = len(right) // 10
    if not dropped:
        return None
    cut = np.partition(confidence, dropped - 1)[dropped - 1]
    below, tied = confidence < cut, confidence == cut
    lost = right[below].sum() + (dropped - below.sum()) * right[tied].mean()
    return float((right.sum() - lost) / (len(right) - dropped) - right.mean())


def reliability(confidence: Numbers, right: Bools) -> list[list[float]]:
    """(mean confidence, share right, values) of each of 15 equal-count bins."""
    counts = _sums_of_bins(confidence, np.ones(len(confidence)))
    means = [_sums_of_bins(confidence, values) / counts for values in (confidence, right)]
    return [list(map(float, of_bin)) for of_bin in zip(*means, counts, strict=True)]


def thresholds(confidence: Numbers, right: Bools) -> Numbers:
    """A line for each distinct confidence, the highest first: it, precision from it on, share of right values kept."""
    order = np.argsort(-confidence, kind="stable")
    found, count = np.cumsum(right[order]), np.arange(1, len(order) + 1)
    last = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    table = np.stack([confidence[order], found / count, found / max(1, int(right.sum()))], axis=1)
    return np.asarray(table[last])


def at_precision(table: Numbers, wanted: float) -> dict[str, float] | None:
    """The lowest threshold of `thresholds` with a precision, what it gives, and the right values kept; None: never."""
    enough = np.flatnonzero(table[:, 1] >= wanted)
    if not len(enough):
        return None
    confidence, precision, kept = (float(v) for v in table[enough[-1]])
    return {"confidence": confidence, "precision": precision, "kept": kept}


def figures(
    raw: Sequence[float], confidence: Sequence[float], right: Sequence[bool], rows: Sequence[int]
) -> dict[str, Any]:
    """All figures of judged values, with 95 % intervals of 1,000 resamples of the rows that they are from.

    `raw` is the confidence before calibration.
    """
    before, after, correct = np.asarray(raw, float), np.asarray(confidence, float), np.asarray(right, bool)
    drawn = _resamples(np.asarray(rows))
    table = thresholds(after, correct)
    return {
        "n": len(correct),
        "rows": len(set(rows)),
        "precision": float(correct.mean()),
        "ece_before": _with_interval(calibration_error, before, correct, drawn),
        "ece": _with_interval(calibration_error, after, correct, drawn),
        "auroc_before": _with_interval(auroc, before, correct, drawn),
        "auroc": _with_interval(auroc, after, correct, drawn),
        "drop_tenth": _with_interval(tenth_gain, after, correct, drawn),
        "reliability": reliability(after, correct),
        "reliability_before": reliability(before, correct),
        "curve": table[np.unique(np.linspace(0, len(table) - 1, CURVE_POINTS).astype(int))].tolist(),
        "at_precision": {str(wanted): at_precision(table, wanted) for wanted in PRECISIONS},
    }


def in_words(figures: Mapping[str, Any]) -> dict[str, str]:
    """The figures for people: heading -> text."""
    kinds = {"ECE before": "ece_before", "ECE": "ece", "AUROC": "auroc", "without the least sure tenth": "drop_tenth"}
    cells = {head: _in_words(figures[kind], signed=kind == "drop_tenth") for head, kind in kinds.items()}
    at, recall = figures["at_precision"]["0.95"], figures["recall"]
    share = "never"
    if at is not None:
        of_all = "" if recall is None else f"recall {recall * at['kept']:.3f}, "
        share = f"{of_all}{at['kept']:.1%} of the right ones, from confidence {at['confidence']:.3f} on"
    return {"n": f"{figures['n']:,}", "right": f"{figures['precision']:.3f}", **cells, "at 95 % precision": share}


def doubts(figures: Mapping[str, Any]) -> list[str]:
    """Why a confidence should not be relied upon, in sentences; empty where nothing speaks against it."""
    found = []
    rank, before, after = figures["auroc"], figures["ece_before"], figures["ece"]
    if rank is not None and rank["ci"][0] <= 0.5:
        found.append(
            "it is not shown that right values are surer than wrong ones (AUROC); --min-confidence may drop any"
        )
    if before is not None and after is not None and after["value"] > before["value"]:
        found.append(f"calibrating made it worse: ECE {before['value']:.3f} before, {after['value']:.3f} after")
    return [f"{doubt}. Give more rows." for doubt in found]


def _in_words(figure: Mapping[str, Any] | None, *, signed: bool) -> str:
    if figure is None:
        return "-"
    sign = "+" if signed else ""
    low, high = figure["ci"]
    return f"{figure['value']:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})"


def _sums_of_bins(confidence: Numbers, values: NDArray[Any]) -> Numbers:
    """The sums of values by equal-count bins of their confidence; fewer than 15 values are a bin each."""
    n = len(confidence)
    starts = np.unique(np.arange(BINS) * n // BINS)
    order = np.argsort(confidence, kind="stable")
    return np.asarray(np.add.reduceat(values[order].astype(float), starts))


def _resamples(rows: NDArray[np.int64], seed: int = 0) -> list[NDArray[np.int64]]:
    """The values of 1,000 resamples of the rows, by their index."""
    _, place = np.unique(rows, return_inverse=True)
    n, rng = int(place.max()) + 1, np.random.default_rng(seed)
    times = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return [np.repeat(np.arange(len(rows)), of_row[place]) for of_row in times]


def _with_interval(
    figure: Figure, confidence: Numbers, right: Bools, drawn: Sequence[NDArray[np.int64]]
) -> dict[str, Any] | None:
    value = figure(confidence, right)
    if value is None:
        return None
    values = [v for index in drawn if (v := figure(confidence[index], right[index])) is not None]
    return {"value": value, "ci": percentiles(np.asarray(values))}
