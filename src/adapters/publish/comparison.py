"""Two adapters on the same test rows: F1, its difference, and how sure that difference is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adapters import metrics
from adapters.publish.finished import Finished, read_samples


def compare(mine: Finished, other: Finished, mode: str | None) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Test set -> a row a field ({field, n, other, mine, delta, ci}), and why a set cannot be compared.

    The interval is the 95 % percentile interval of the difference over bootstrap resamples of the rows, the same rows
    for both (a paired bootstrap; Efron and Tibshirani 1993, chapter 16).
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    for name in mine.figures:
        if name not in other.figures:
            notes.append(f"{name}: {other.recipe.name} was not evaluated on it")
            continue
        ours, theirs = (_samples(run, name) for run in (mine, other))
        if [(s["id"], s["gold"]) for s in ours] != [(s["id"], s["gold"]) for s in theirs]:
            notes.append(f"{name}: the two runs do not hold the same rows under this name")
            continue
        if not ours or mode not in ours[0]["counts"] or mode not in theirs[0]["counts"]:
            notes.append(f"{name}: the two runs do not count alike")
            continue
        fields = [f for f in ours[0]["counts"][mode] if f in theirs[0]["counts"][mode]]
        counts = {f: [[s["counts"][mode][f] for s in side] for side in (theirs, ours)] for f in fields}
        some = {f: sides for f, sides in counts.items() if any(any(row) for side in sides for row in side)}
        if some:
            tables[name] = [_row(f, sides) for f, sides in some.items()]
        else:
            notes.append(f"{name}: it holds nothing to find, and neither run found anything")
    return tables, notes


def _row(field: str, counts: list[list[list[float]]]) -> dict[str, Any]:
    tables = [np.array(side, dtype=float) for side in counts]
    whole = [float(_f1(table.sum(axis=0, keepdims=True))[0]) for table in tables]
    drawn = metrics.resampled_sums(np.hstack(tables))
    ci = [float(v) for v in np.percentile(_f1(drawn[:, 3:]) - _f1(drawn[:, :3]), (2.5, 97.5))]
    return {
        "field": field,
        "n": len(counts[0]),
        "other": whole[0],
        "mine": whole[1],
        "delta": whole[1] - whole[0],
        "ci": ci,
    }


def _f1(sums: Any) -> Any:
    """F1 = 2 matched / (gold + pred), 0 where there is nothing; rows of (gold, pred, matched)."""
    gold, pred, matched = sums.T
    return np.divide(2 * matched, gold + pred, out=np.zeros_like(gold), where=gold + pred > 0)


def _samples(run: Finished, name: str) -> list[dict[str, Any]]:
    path = Path(run.folder) / "eval" / run.stages[-1].name / name / "samples.jsonl"
    return read_samples(path) if path.is_file() else []
