"""What several answers to a prompt are worth: the best of them, the likeliest, and what they vary by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from adapters.backends.groups import is_flat
from adapters.evaluation.metrics import main_mode, mean_with_interval
from adapters.types import Counts, Example, Scored, Task, counts_of


class Scores(NamedTuple):
    """Rewards of the answers to one prompt, and of the sample that `pick: likelihood` would take."""

    samples: Sequence[float]
    greedy: float | None = None
    likeliest: float | None = None


def figures(groups: Sequence[Scores]) -> dict[str, dict[str, Any]]:
    """Name -> mean over the prompts, its 95 % bootstrap interval, number of prompts.

    `best of k and greedy - greedy` is what a perfect choice would gain, and so the most that learning from these
    samples can be expected to gain; its interval is a paired one.
    """
    if not groups:
        return {}
    k = max(len(group.samples) for group in groups)
    best = f"best of {k}"
    means: dict[str, Callable[[Scores], float]] = {"one sample": lambda g: sum(g.samples) / len(g.samples)}
    with_greedy = all(g.greedy is not None for g in groups)
    if with_greedy:
        means["greedy"] = lambda g: g.greedy or 0.0
    if all(g.likeliest is not None for g in groups):
        means["likeliest sample"] = lambda g: g.likeliest or 0.0
    means[best] = lambda g: max(g.samples)
    if with_greedy:
        means[f"{best} and greedy"] = lambda g: max(*g.samples, g.greedy or 0.0)
        means[f"{best} and greedy - greedy"] = lambda g: max(max(g.samples) - (g.greedy or 0.0), 0.0)
    means["groups without variance"] = lambda g: float(is_flat(g.samples, 0.0))
    return {name: mean_with_interval([mean(group) for group in groups]) for name, mean in means.items()}


@dataclass(frozen=True)
class TaskF1:
    """A reward for tasks without one: F1 of one answer by the task's own counts, in its main mode.

    Where there is nothing to find, an answer that claims nothing earns 1. The parts are the fields' F1.
    """

    task: Task

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score a completion."""
        counts = counts_of(self.task, example, completion)
        form = getattr(self.task, "form_fields", ())
        fields = {name: c for name, c in counts[main_mode(counts)].items() if name not in form}
        return Scored(_f1(sum(fields.values(), Counts(0, 0, 0))), {name: _f1(c) for name, c in fields.items()})


def _f1(counts: Counts) -> float:
    return counts.f() if counts.gold or counts.pred else 1.0
