"""Rewards of a GRPO step: completions scored under the fault policy, logged, and summed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.files import append_jsonl
from adapters.plugins.rewards import Grader, NamedReward, RewardError
from adapters.types import Example, Scored


class RewardCaller:
    """Scores batches for a trainer with one reward, and appends them to a JSONL file `log`. Picklable."""

    def __init__(self, reward: NamedReward, log: Path | None = None) -> None:
        self.grader, self.log = Grader(reward), log
        self._parts: dict[str, list[float]] = defaultdict(list)
        self._errors: list[bool] = []

    @property
    def name(self) -> str:
        """The name its figures are logged by."""
        return self.grader.named.name

    def score(
        self, completions: Sequence[Any], examples: Sequence[Example], step: int | None = None
    ) -> list[float | None]:
        """Scores of texts or chats, None where the reward does not apply. Raises RewardError to stop the run."""
        scores: list[float | None] = []
        entries = []
        previous = None
        try:
            for completion, example in zip(completions, examples, strict=True):
                text = completion if isinstance(completion, str) else completion[-1]["content"]
                try:
                    scored = self.grader(text, example)
                except RewardError:
                    entries.append(self._entry(step, text, example, Scored(None), with_row=True))
                    raise
                scores.append(scored.score)
                for part, value in scored.parts.items():
                    self._parts[part].append(value)
                self._errors.append(self.grader.last_error is not None)
                # The row once a group: noise may have made a text that stands in no file.
                entries.append(self._entry(step, text, example, scored, with_row=example is not previous))
                previous = example
        finally:
            if self.log is not None:
                append_jsonl(self.log, entries)
        return scores

    def take_figures(self) -> dict[str, float]:
        """Mean of every part, and the share of failed calls, since the last call."""
        figures = {f"parts/{self.name}/{part}": sum(values) / len(values) for part, values in self._parts.items()}
        if self._errors and self.grader.named.faults.on_error != "raise":
            figures[f"errors/{self.name}"] = sum(self._errors) / len(self._errors)
        self._parts.clear()
        self._errors.clear()
        return figures

    def _entry(
        self, step: int | None, text: str, example: Example, scored: Scored, *, with_row: bool
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"step": step, "id": example.id, "reward": self.name, "score": scored.score}
        if self.grader.last_error:
            entry["error"] = self.grader.last_error
        entry |= {"parts": scored.parts, "completion": text}
        if with_row:
            prompt = example.prompt[-1]["content"] if example.prompt else ""
            entry |= {"text": example.meta.get("text") or prompt, "gold": example.gold}
        return entry
