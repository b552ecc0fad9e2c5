"""The figure by which a stage's states are compared on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from adapters.backends.selection import Figure, Rows
from adapters.evaluation.metrics import main_mode, percentiles, ratio, resampled_sums
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import NamedReward
from adapters.types import Counts, Example, Task, counts_of

F1, REWARD = "f1", "reward"


def fields(task: Task, example: Example) -> dict[str, Counts]:
    """The counts of a row's own answer by field, in the main matching mode, without checks of an answer's form."""
    return _labelled(task, example, example.completion or "")


def _labelled(task: Task, example: Example, text: str) -> dict[str, Counts]:
    counts = counts_of(task, example, text)
    form = getattr(task, "form_fields", ())
    return {name: c for name, c in counts[main_mode(counts)].items() if name not in form}


@dataclass(frozen=True)
class HeldOut:
    """A `Judge`: F1 over all fields or of one, as the evaluation counts it, or the mean of the weighted rewards."""

    task: Task
    examples: tuple[Example, ...]
    metric: str
    rewards: tuple[NamedReward, ...] = ()

    def rows(self, texts: Sequence[str]) -> Rows:
        """2 matched and gold + predicted values of every row; or its reward, and 1 where one applies."""
        if self.metric == REWARD:
            return self._rewards(texts)
        return [self._counted(e, text) for e, text in zip(self.examples, texts, strict=True)]

    def figure(self, rows: Rows) -> Figure:
        """The figure over all rows, with the 95 % interval of 1,000 resamples."""
        table = np.asarray(rows, dtype=float)
        return Figure(float(_quotients(table.sum(axis=0))), *percentiles(_quotients(resampled_sums(table))))

    def change(self, before: Rows, after: Rows) -> Figure:
        """After - before; the same rows are drawn for both."""
        table = np.hstack([np.asarray(before, dtype=float), np.asarray(after, dtype=float)])
        sums = np.vstack([table.sum(axis=0), resampled_sums(table)])
        changes = _quotients(sums[:, 2:]) - _quotients(sums[:, :2])
        return Figure(float(changes[0]), *percentiles(changes[1:]))

    def _counted(self, example: Example, text: str) -> list[float]:
        counts = _labelled(self.task, example, text)
        of = counts.values() if self.metric == F1 else [counts[self.metric]]
        summed = sum(of, Counts(0, 0, 0))
        return [2 * summed.matched, summed.gold + summed.pred]

    def _rewards(self, texts: Sequence[str]) -> Rows:
        scores = [grader.scores(texts, self.examples) for grader in self._graders]
        rows = []
        for of_row in zip(*scores, strict=True):
            weighted = [r.weight * s.score for r, s in zip(self.rewards, of_row, strict=True) if s.score is not None]
            rows.append([sum(weighted), float(bool(weighted))])
        return rows

    @cached_property
    def _graders(self) -> list[Grader]:
        return [Grader(reward) for reward in self.rewards]


def _quotients(sums: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return ratio(sums[..., 0], sums[..., 1])
