"""A reward plug-in as TRL's reward function: one name each, no NaN to the trainer, every rollout on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.plugins.rewards import Grader, NamedReward
from adapters.types import Example


class TrlReward:
    """Callable with TRL's signature around a `Reward`. Picklable.

    The gold is looked up by the `row` column, so whatever shape it has reaches the reward untouched.
    """

    def __init__(self, reward: NamedReward, examples: Sequence[Example], rollouts: Path) -> None:
        self.grader, self.examples, self.rollouts = Grader(reward), examples, rollouts
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
        name = self.grader.named.name
        scores: list[float | None] = []
        parts: dict[str, list[float]] = {}
        step = getattr(trainer_state, "global_step", None)
        failures = self.grader.failures
        before = None
        with self.rollouts.open("a", encoding="utf-8") as file:
            for completion, n in zip(completions, row, strict=True):
                text = completion if isinstance(completion, str) else completion[-1]["content"]
                scored = self.grader(text, self.examples[n])
                scores.append(scored.score)
                finite = {part: value for part, value in scored.parts.items() if math.isfinite(value)}
                for part, value in finite.items():
                    parts.setdefault(part, []).append(value)
                example = self.examples[n]
                entry = {"step": step, "id": example.id, "reward": name, "score": scored.score}
                if self.grader.last_error:
                    entry["error"] = self.grader.last_error
                entry |= {"parts": finite, "completion": text}
                if n != before:  # once a group: a report shows them, and noise has made the text this run's own
                    shown = example.meta.get("text") or (example.prompt[-1]["content"] if example.prompt else "")
                    entry |= {"text": shown, "gold": example.gold}
                before = n
                file.write(json.dumps(entry, default=str) + "\n")
        if log_metric is not None:
            for part, values in parts.items():
                log_metric(f"parts/{name}/{part}", sum(values) / len(values))
            if self.grader.named.faults.on_error != "raise":
                log_metric(f"errors/{name}", (self.grader.failures - failures) / len(scores))
        return scores
