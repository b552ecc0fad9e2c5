"""The card's comparison of two adapters on their common test sets."""

from __future__ import annotations

from adapters.evaluation import comparison
from adapters.evaluation.comparison import Change
from adapters.publish.finished_run import Finished


def compare(mine: Finished, other: Finished, mode: str | None) -> tuple[dict[str, list[Change]], list[str]]:
    """Changes from `other` to `mine` by test set, and why others are not compared."""
    tables: dict[str, list[Change]] = {}
    notes: list[str] = []
    for name, after in mine.evaluated.items():
        before = other.evaluated.get(name)
        if before is None:
            notes.append(f"{name}: {other.recipe.name} was not evaluated on it")
        elif mode is None or not all(mode in model.figures["metrics"] for model in (before, after)):
            notes.append(f"{name}: the two runs do not count alike")
        else:
            samples = before.checked_samples(), after.checked_samples()
            changes = comparison.changes(before.figures, after.figures, mode, samples)
            if not changes:
                notes.append(f"{name}: it holds nothing to find")
            elif any(change.interval is None for change in changes):
                notes.append(f"{name}: the two runs do not hold the same rows under this name")
            else:
                tables[name] = changes
    return tables, notes
