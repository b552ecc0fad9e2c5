"""One answer out of several to the same prompt, without gold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any, Literal

from adapters.backends.jobs import Evaluation
from adapters.backends.json_stop import first_value
from adapters.evaluation.best_of import TaskF1
from adapters.types import Drawn, Example, Extracting, Message, Progress, Sample, Sampler, Task

Pick = Literal["likelihood", "vote"]


def can_vote(task: Any) -> bool:
    """Whether a task can compare two answers: it makes gold of one, or records."""
    return hasattr(task, "as_gold") or isinstance(task, Extracting)


def pick(task: Any, answers: Sequence[Drawn], how: Pick) -> int:
    """The index of the picked answer; of equals the first.

    `likelihood`: the highest mean log-probability a token, among whole answers that can be read if there are any: a
    model that repeats itself is all but certain of each token. `vote`: the answer that agrees most with the others, by
    the mean F1 of the task's own counts with each of them as gold (minimum Bayes risk decoding; Kumar and Byrne 2004).
    A vote on single values would tear apart what belongs together, such as an award and its funder.
    """
    if how == "likelihood":
        readable = [is_usable(task, a) and (not can_vote(task) or as_gold(task, a.text) is not None) for a in answers]
        known = [float("-inf") if a.logprob is None else a.logprob for a in answers]
        return max(range(len(answers)), key=lambda n: (readable[n], known[n]))
    task = ungrounded(task)
    votes, score = Counter(a.text for a in answers), TaskF1(task)
    golds = {text: gold for text in votes if (gold := as_gold(task, text)) is not None}
    agreement = {
        text: sum(
            (votes[other] - (other == text)) * (score(text, Example("", "", (), gold=gold[0])).score or 0.0)
            for other, gold in golds.items()
        )
        for text in golds
    }
    texts = [a.text for a in answers]
    return texts.index(max(agreement, key=lambda text: (agreement[text], -texts.index(text)))) if agreement else 0


def is_usable(task: Task, answer: Sample | Drawn) -> bool:
    """Whether an answer is whole, and well-formed to the task."""
    return not answer.truncated and task.is_well_formed(answer.text)


def ungrounded(task: Any) -> Any:
    """The task without `grounded`: answers are compared with each other, not with the text."""
    grounded = getattr(task, "grounded", False) and is_dataclass(task) and not isinstance(task, type)
    return replace(task, grounded=False) if grounded else task


def as_gold(task: Any, text: str) -> tuple[Any] | None:
    """An answer in the form of gold; None where it cannot be read."""
    try:
        if hasattr(task, "as_gold"):
            return (task.as_gold(text),)
        return (task.record(getattr(task, "decode", first_value)(text)),)
    except ValueError:
        return None


class PickingSampler:
    """A sampler that answers each prompt several times, the first time greedily, and picks one answer.

    `tokens` counts those of all answers.
    """

    def __init__(self, sampler: Sampler, evaluation: Evaluation, task: Task) -> None:
        self.sampler, self.task, self.picking, self.tokens = sampler, task, evaluation.picking, 0

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """The picked completions in the order of the prompts."""
        assert self.picking is not None  # noqa: S101 - such an evaluation is not answered by this sampler
        k, how, temperature = self.picking
        several: Any = getattr(self.sampler, "several")  # noqa: B009 - the plan has checked that there is one
        groups = several(
            prompts, k, temperature=temperature, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
        )
        self.tokens = sum(answer.tokens for group in groups for answer in group)
        picked = [group[pick(self.task, group, how)] for group in groups]
        return [Sample(a.text, a.tokens, a.truncated, looped=a.looped) for a in picked]
