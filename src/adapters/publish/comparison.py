"""Two adapters on the same test rows: F1, its difference, and how sure that difference is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from adapters.evaluation import metrics
from adapters.publish.finished_run import Finished, read_samples


def compare(mine: Finished, other: Finished, mode: str | None) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    """Test set -> a row a field ({field, n, other, mine, delta, ci}), and why a set cannot be compared.

    The interval is that of `metrics.f1_changes`.
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
            tables[name] = _rows(some)
        else:
            notes.append(f"{name}: it holds nothing to find, and neither run found anything")
    return tables, notes


def _rows(counts: dict[str, list[list[list[float]]]]) -> list[dict[str, Any]]:
    theirs, ours = (np.array([sides[n] for sides in counts.values()], dtype=float).swapaxes(0, 1) for n in (0, 1))
    return [
        {
            "field": field,
            "n": len(ours),
            "other": change.before,
            "mine": change.after,
            "delta": change.after - change.before,
            "ci": change.interval,
        }
        for field, change in zip(counts, metrics.f1_changes(theirs, ours), strict=True)
    ]


def _samples(run: Finished, name: str) -> list[dict[str, Any]]:
    path = Path(run.folder) / "eval" / run.stages[-1].name / name / "samples.jsonl"
    return read_samples(path) if path.is_file() else []
