"""A reward plug-in as TRL's reward function: one name each, no NaN to the trainer, every rollout on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.rewarding import NamedReward, grade
from adapters.types import Example


class TrlReward:
    """Callable with TRL's signature around a `Reward`. Picklable.

    The gold is looked up by the `row` column, so whatever shape it has reaches the reward untouched.
    """

    def __init__(self, reward: NamedReward, examples: Sequence[Example], rollouts: Path) -> None:
        self.reward, self.examples, self.rollouts = reward, examples, rollouts
        self.__name__ = reward.name  # TRL logs under this; two instances of one class must not share it

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        row: Sequence[int],
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Scores of a batch; None where the reward does not apply."""
        scores: list[float | None] = []
        parts: dict[str, list[float]] = {}
        before = None
        with self.rollouts.open("a", encoding="utf-8") as file:
            for completion, n in zip(completions, row, strict=True):
                text = completion if isinstance(completion, str) else completion[-1]["content"]
                scored = grade(self.reward, text, self.examples[n])
                scores.append(scored.score)
                for name, value in scored.parts.items():
                    if math.isfinite(value):
                        parts.setdefault(name, []).append(value)
                step = getattr(trainer_state, "global_step", None)
                example = self.examples[n]
                entry = {"step": step, "id": example.id, "reward": self.reward.name, "score": scored.score}
                entry |= {"parts": dict(scored.parts), "completion": text}
                if n != before:  # once a group: a report shows them, and noise has made the text this run's own
                    shown = example.meta.get("text") or (example.prompt[-1]["content"] if example.prompt else "")
                    entry |= {"text": shown, "gold": example.gold}
                before = n
                file.write(json.dumps(entry, default=str) + "\n")
        if log_metric is not None:
            for name, values in parts.items():
                log_metric(f"parts/{self.reward.name}/{name}", sum(values) / len(values))
        return scores
