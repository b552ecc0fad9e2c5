"""Rewards of a GRPO step: completions scored under the fault policy, logged, and summed up."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapters.files import append_jsonl
from adapters.plugins.grader import Graded, Grader
from adapters.plugins.rewards import NamedReward
from adapters.types import Example


class RewardCaller:
    """Scores batches for a trainer with one reward, and appends them to a JSONL file `log`. Picklable."""

    def __init__(self, reward: NamedReward, log: Path | None = None) -> None:
        self.grader, self.log = Grader(reward), log
        self._graded: deque[Graded] = deque()  # its single operations are safe in threads

    @property
    def name(self) -> str:
        """The name its figures are logged by."""
        return self.grader.named.name

    def score(
        self, completions: Sequence[Any], examples: Sequence[Example], step: int | None = None
    ) -> list[float | None]:
        """Scores of texts or chats, None where the reward does not apply. Raises RewardError to stop the run."""
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        batch = self.grader.grade(texts, examples)
        entries = []
        previous = None
        for n, (text, example, graded) in enumerate(zip(texts, examples, batch.graded, strict=True)):
            if graded is None:
                continue
            # The row once a group: noise may have made a text that stands in no file.
            with_row = example is not previous or n == batch.failed
            entries.append(self._entry(step, text, example, graded, with_row=with_row))
            previous = example
        if self.log is not None:
            append_jsonl(self.log, entries)
        if batch.error is not None:
            raise batch.error
        everything = [graded for graded in batch.graded if graded is not None]
        self._graded.extend(everything)
        return [graded.scored.score for graded in everything]

    def take_figures(self) -> dict[str, float]:
        """Mean of every part, and the share of failed calls, since the last call."""
        parts: dict[str, list[float]] = defaultdict(list)
        errors: list[bool] = []
        with suppress(IndexError):  # empty, or emptied by another thread
            while True:
                graded = self._graded.popleft()
                errors.append(graded.error is not None)
                for part, value in graded.scored.parts.items():
                    parts[part].append(value)
        figures = {f"parts/{self.name}/{part}": sum(values) / len(values) for part, values in parts.items()}
        if errors and self.grader.named.faults.on_error != "raise":
            figures[f"errors/{self.name}"] = sum(errors) / len(errors)
        return figures

    def _entry(
        self, step: int | None, text: str, example: Example, graded: Graded, *, with_row: bool
    ) -> dict[str, Any]:
        scored = graded.scored
        entry: dict[str, Any] = {"step": step, "id": example.id, "reward": self.name, "score": scored.score}
        if graded.error:
            entry["error"] = graded.error
        entry |= {"parts": scored.parts, "completion": text}
        if with_row:
            prompt = example.prompt[-1]["content"] if example.prompt else ""
            entry |= {"text": example.meta.get("text") or prompt, "gold": example.gold}
        return entry
