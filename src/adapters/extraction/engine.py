"""Requests, answers and options of extraction engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from adapters.backends.constraint import Constrain
from adapters.chat_client import EMPTY
from adapters.types import Drawn, Example, Message, TokenScores


class Request(NamedTuple):
    """A row's prompt. `text`: where its answer's strings stand, for `constrain: source`."""

    row: int
    prompt: tuple[Message, ...]
    text: str | None = None


class Answer(NamedTuple):
    """A row's text as the model wrote it, or why there is none (a short kind, a colon, a reason).

    `extra` is what else the engine says of the row: it is kept in the journal, for `ExtractionJob.gather`.
    """

    row: int
    text: str = ""
    tokens: int = 0
    truncated: bool = False
    error: str | None = None
    extra: Mapping[str, Any] | None = None
    scores: TokenScores | None = None
    """The tokens of a single answer, where `Options.scored` asks for them and the engine has them."""
    samples: tuple[str, ...] = ()
    """All answers, of which this one was picked."""


Engine = Callable[[Iterable[Request]], Iterator[Answer]]
"""Answers requests in any order, reading at most `WINDOW` rows ahead of the oldest unanswered one."""
WINDOW = 1024
LEAST = 16
"""Tokens that a context must leave for an answer."""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options."""

    max_new_tokens: int = 2048
    batch_size: int | None = None
    constrain: Constrain | None = None
    """None: `schema` where vLLM or a server does it, for single answers; else `off`."""
    endpoint: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    concurrency: int | None = None
    scored: bool = False
    """Whether answers come with the log-probabilities of their tokens, from engines that have them."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """How several answers to each prompt are drawn. `max_new_tokens` None: by the gold answers."""

    k: int
    temperature: float
    greedy: bool = True
    seed: int = 0
    max_new_tokens: int | None = None

    def seeds(self, id: str) -> list[str | None]:
        """A seed for each answer to a row, whatever rows stand beside it; None, which is first: the greedy answer."""
        return [None] * self.greedy + [f"{self.seed} {id} {n}" for n in range(1, self.k + 1)]


class Group(NamedTuple):
    """The answers to a row, in the order of its seeds, or why there are none."""

    row: int
    answers: Sequence[Drawn] = ()
    error: str | None = None


DrawEngine = Callable[[Sequence[Example], Callable[[int], bool]], Iterator[Group]]
"""Several answers to the wanted ones of all rows (by their index), in any order."""


FIRST = 8
"""Answers that are looked at before a run is believed to give any."""


class EmptyAnswersError(RuntimeError):
    """Every answer of a run is empty."""


def not_all_empty(answers: Iterable[Answer]) -> Iterator[Answer]:
    """The answers as they come, once one holds text. Raises EmptyAnswersError when the first `FIRST` hold none."""
    # Empty ones wait: a row that was answered is not asked again.
    waiting: list[Answer] = []
    answers = iter(answers)
    for answer in answers:
        if answer.text.strip():
            yield from chain(waiting, [answer], answers)
            return
        if answer.error is not None:
            yield answer
            continue
        waiting.append(answer)
        if len(waiting) == FIRST:
            break
    if waiting:
        raise EmptyAnswersError(f"the first {len(waiting)} answers are all empty. The model may end at once. {EMPTY}")
