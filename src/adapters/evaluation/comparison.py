"""Comparison of two models on a test set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adapters.backends.jobs import PICKED
from adapters.evaluation import metrics
from adapters.evaluation.metrics import main_mode, number

Samples = Sequence[Mapping[str, Any]]
"""A model's rows of `samples.jsonl`."""


class Change(NamedTuple):
    """F1 of one field under two models."""

    field: str
    before: float
    after: float
    interval: list[float] | None = None
    """95 % paired bootstrap interval of `delta`, if both answered the same rows."""

    @property
    def delta(self) -> float:
        """After - before."""
        return self.after - self.before

    @property
    def clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], mode: str, samples: tuple[Samples, Samples] | None = None
) -> list[Change]:
    """Changes of the fields with gold in one mode; with `samples`, their intervals."""
    fields: list[tuple[str, float, float]] = []
    for field, figures in (before["metrics"].get(mode) or {}).items():
        other = (after["metrics"].get(mode) or {}).get(field) or {}
        f1 = number(figures.get("f1")), number(other.get("f1"))
        if number(figures.get("gold")) and f1[0] is not None and f1[1] is not None:
            fields.append((field, f1[0], f1[1]))
    tables = [_counts(rows, mode, [field for field, *_ in fields]) for rows in samples or ()]
    if not fields or samples is None or not _same_rows(*samples) or any(t is None for t in tables):
        return [Change(*field) for field in fields]
    intervals = metrics.f1_change_intervals(*(t for t in tables if t is not None))
    return [Change(*field, interval) for field, interval in zip(fields, intervals, strict=True)]


def changes_over_seeds(before: Sequence[Samples], after: Sequence[Samples], mode: str) -> list[Change]:
    """Changes of F1 (fields with gold) and of rewards, means over seeds; intervals are over examples and seeds.

    `before` and `after`: a model's samples of each seed. Empty unless all answered the same rows.
    """
    first = before[0]
    if not first or not all(_same_rows(first, samples) for samples in (*before, *after)):
        return []
    return [*_f1_changes(before, after, mode), *_reward_changes(before, after)]


def reward_changes(before: Samples, after: Samples) -> list[Change]:
    """Changes of the mean rewards with their intervals; empty unless both answered the same rows."""
    return list(_reward_changes([before], [after])) if before and _same_rows(before, after) else []


def _f1_changes(before: Sequence[Samples], after: Sequence[Samples], mode: str) -> Iterator[Change]:
    first = before[0]
    fields = first[0].get("counts", {}).get(mode, {})
    for field in fields:
        tables = [_counts(samples, mode, [field]) for samples in (*before, *after)]
        known = [table for table in tables if table is not None]
        if len(known) == len(tables) and known[0][..., 0].any():
            yield _change(field, known[: len(before)], known[len(before) :], metrics.f1_of_sums)


def _reward_changes(before: Sequence[Samples], after: Sequence[Samples]) -> Iterator[Change]:
    """Of the rows that every model has a reward for."""
    for name in dict.fromkeys(name for s in before[0] for name in s.get("rewards") or {}):
        values = np.stack([_rewards(samples, name) for samples in (*before, *after)])
        graded = values[:, np.isfinite(values).all(axis=0)]
        if graded.size:
            shares = list(graded[..., None, None] / graded.shape[1])  # whose sum is the mean
            yield _change(f"reward {name}", shares[: len(before)], shares[len(before) :], _only)


def _change(name: str, before: Sequence[Any], after: Sequence[Any], figure: Callable[[Any], Any]) -> Change:
    """Of tables (rows, 1, columns) of each seed."""
    old, new = np.stack(before, axis=1), np.stack(after, axis=1)
    means = [float(figure(table.sum(axis=0)).mean()) for table in (old, new)]
    return Change(name, means[0], means[1], metrics.change_intervals(old, new, figure)[0])


def _rewards(samples: Samples, name: str) -> np.ndarray[Any, Any]:
    """The rewards of the rows, means over prompt variants; NaN where there is none."""
    values = np.array([(s.get("rewards") or {}).get(name) for s in samples], dtype=float)
    return np.asarray(values.reshape(_variants(samples), -1).mean(axis=0))


def _variants(samples: Samples) -> int:
    """How often each row was asked for: all rows of one prompt variant come before those of the next."""
    return 1 + max(int(s.get("variant", 0)) for s in samples)


def _only(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return sums[..., 0]


def _same_rows(one: Samples, other: Samples) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(
        a.get("id") == b.get("id") and a.get("gold") == b.get("gold") for a, b in pairs
    )


def _counts(samples: Samples, mode: str, fields: Sequence[str]) -> np.ndarray[Any, Any] | None:
    """Counts (rows, fields, 3), means over prompt variants; None where any is missing."""
    try:
        each = (count for s in samples for field in fields for count in s["counts"][mode][field])
        table = np.fromiter(each, dtype=float)
        variants = _variants(samples)
        return np.asarray(table.reshape(variants, len(samples) // variants, len(fields), 3).mean(axis=0))
    except (KeyError, TypeError, ValueError):
        return None


def deltas(sets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The last model beside the first, by test set and field, in the main mode.

    `sets` are of report.json, base first. When each has one field, the last line is their plain average.
    """
    lines: list[dict[str, Any]] = []
    for name, models in sets.items():
        if len(models) < 2 or PICKED in name:
            continue
        (first, base), *_, (last, tuned) = models.items()
        mode = main_mode(base["metrics"])
        errors = [m.get("parse_errors") for m in (base, tuned)]
        for change in changes(base, tuned, mode):
            line = {"set": name, "field": change.field, "mode": mode, "n": base["n"], "from": first, "to": last}
            scores = {"base": change.before, "tuned": change.after, "delta": change.delta}
            lines.append(line | scores | {"parse_errors": errors})
    if len(lines) > 1 and len({line["set"] for line in lines}) == len(lines):
        means = {key: sum(line[key] for line in lines) / len(lines) for key in ("base", "tuned", "delta")}
        n = sum(line["n"] for line in lines)
        lines.append(lines[0] | means | {"set": "average", "field": "", "n": n, "parse_errors": [None, None]})
    return lines
