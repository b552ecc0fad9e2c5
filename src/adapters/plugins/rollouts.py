"""Rewards of a GRPO step: every completion scored under the fault policy, logged, and summed up in figures."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.plugins.rewards import Grader, NamedReward, RewardError
from adapters.types import Example, Scored


class RewardCaller:
    """Scores batches for a trainer with one reward. Picklable.

    With `log`, a JSONL file, every completion is appended to it, also the one whose failure stops the run.
    """

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
        """Scores of completions (texts or chat messages), each of its example; None where the reward does not apply.

        Raises RewardError when the fault policy stops the run.
        """
        scores: list[float | None] = []
        lines = []
        previous = None
        try:
            for completion, example in zip(completions, examples, strict=True):
                text = completion if isinstance(completion, str) else completion[-1]["content"]
                try:
                    scored = self.grader(text, example)
                except RewardError:
                    lines.append(self._line(step, text, example, Scored(None), with_row=True))
                    raise
                scores.append(scored.score)
                for part, value in scored.parts.items():
                    self._parts[part].append(value)
                self._errors.append(self.grader.last_error is not None)
                # Once a group: noise may have made a text that stands in no file.
                lines.append(self._line(step, text, example, scored, with_row=example is not previous))
                previous = example
        finally:
            if self.log is not None:
                with self.log.open("a", encoding="utf-8") as file:
                    file.writelines(lines)
        return scores

    def take_figures(self) -> dict[str, float]:
        """Mean of every part, and the share of failed calls, since the last time this was called."""
        figures = {f"parts/{self.name}/{part}": sum(values) / len(values) for part, values in self._parts.items()}
        if self._errors and self.grader.named.faults.on_error != "raise":
            figures[f"errors/{self.name}"] = sum(self._errors) / len(self._errors)
        self._parts.clear()
        self._errors.clear()
        return figures

    def _line(self, step: int | None, text: str, example: Example, scored: Scored, *, with_row: bool) -> str:
        entry: dict[str, Any] = {"step": step, "id": example.id, "reward": self.name, "score": scored.score}
        if self.grader.last_error:
            entry["error"] = self.grader.last_error
        entry |= {"parts": scored.parts, "completion": text}
        if with_row:
            prompt = example.prompt[-1]["content"] if example.prompt else ""
            entry |= {"text": example.meta.get("text") or prompt, "gold": example.gold}
        return _json_line(entry)


def _json_line(value: Any) -> str:
    """A line of JSONL. Numbers that JSON does not have (NaN, infinity) become null, other objects their text."""
    text = json.dumps(value, default=str)
    if "NaN" in text or "Infinity" in text:  # perhaps within a text
        text = json.dumps(json.loads(text, parse_constant=lambda _: None))
    return text + "\n"
