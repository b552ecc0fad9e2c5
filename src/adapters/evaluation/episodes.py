"""Test sets that are played: an answer is the record of an episode, scored by whether it succeeded and its reward."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

from adapters.backends.jobs import Evaluation
from adapters.evaluation.metrics import main_mode
from adapters.plugins.environments import Episode, NamedEnvironment, read_record, seed_of
from adapters.plugins.rewards import NamedReward
from adapters.types import Aligned, Counts, Example, Message, ModeCounts, Progress, Sample, Sampler, Task, counts_of


class EpisodeSampler:
    """A sampler that plays the rows of `examples`, all episodes in step, each turn answered greedily.

    A row's seed is its own in every run, so that all models meet the same episodes.
    """

    def __init__(self, sampler: Sampler, examples: Sequence[Example], named: NamedEnvironment) -> None:
        self.sampler, self.examples, self.named = sampler, examples, named

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """The records of the episodes; `tokens`, `truncated` and `looped` are those of all turns of each."""
        sampler: Any = getattr(self.sampler, "for_turns", lambda: self.sampler)()
        size = min(len(self.examples), getattr(sampler, "at_once", sys.maxsize))
        starts, most = range(0, len(self.examples), size), self.named.max_turns
        ask = partial(sampler, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=lambda *_: None)
        out: list[Sample] = []
        for n, start in enumerate(starts):
            for turn in self._play(ask, self.examples[start : start + size], out):
                progress(n * most + turn, len(starts) * most, {})
        progress(len(starts) * most, len(starts) * most, {})
        return out

    def _play(
        self,
        ask: Callable[[Sequence[Sequence[Message]]], Sequence[Sample]],
        examples: Sequence[Example],
        out: list[Sample],
    ) -> Iterator[int]:
        """Play episodes, and add their records to `out`. Yields each turn's number."""
        episodes = [Episode(self.named, example, seed_of(0, example.id)) for example in examples]
        tokens = [0] * len(episodes)
        truncated, looped = [False] * len(episodes), [False] * len(episodes)
        for turn in range(self.named.max_turns):
            going = [n for n, episode in enumerate(episodes) if episode.ended is None]
            if not going:
                break
            for n, answer in zip(going, ask([episodes[n].messages for n in going]), strict=True):
                tokens[n], truncated[n] = tokens[n] + answer.tokens, truncated[n] or answer.truncated
                looped[n] = looped[n] or answer.looped
                episodes[n].take(answer.text)
            yield turn + 1
        of_rows = zip(episodes, tokens, truncated, looped, strict=True)
        out += [Sample(episode.record, count, cut, looped=loop) for episode, count, cut, loop in of_rows]


@dataclass(frozen=True)
class EpisodeTask:
    """What counts the records of episodes, in the place of the recipe's task.

    P, R and F1 are all the share of episodes that succeeded. `mode` is the main one of the recipe's task, in which
    reports and cards show all test sets.
    """

    mode: str
    text_field: str = ""
    field_meanings: ClassVar[dict[str, str]] = {"success": "the episode reached its goal"}

    def counts(self, gold: object, completion: str) -> ModeCounts:
        """Success as 1 of 1 or 0 of 1."""
        record = read_record(completion)
        return {self.mode: {"success": Counts(1, 1, int(record is not None and record["success"]))}}

    def is_well_formed(self, completion: str) -> bool:
        """Whether it is the record of an episode."""
        return read_record(completion) is not None

    def align(self, gold: object, completion: str) -> list[Aligned]:
        """Whether the goal was reached."""
        won = bool((read_record(completion) or {}).get("success"))
        return [Aligned("success", "reached", "reached" if won else "not reached", won)]


def scoring(evaluation: Evaluation, task: Task, rewards: Sequence[NamedReward]) -> tuple[Task, Sequence[NamedReward]]:
    """The task and the rewards that score a test set: of one that is played, those of its episodes."""
    if evaluation.environment is None:
        return task, rewards
    mode = main_mode(counts_of(task, evaluation.examples[0], ""))
    return cast(Task, EpisodeTask(mode)), (evaluation.environment.reward,)
