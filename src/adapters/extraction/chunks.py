"""Texts beyond a model's limit: parts that end where sentences do and overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import regex

from adapters.data.formats.documents import ABBREVIATIONS
from adapters.extraction.engine import LEAST
from adapters.types import Message

Place = tuple[int, int]
"""First character of a part and the one after its last, in code points of the text."""
Prompt = Sequence[Message]

OVERLAP: Final = 6
"""The part of a window that is repeated in the next one: a sixth, but always the last sentence up to half of one."""
_SPARE: Final = 0.95
"""Share of the room that windows fill: the tokens of sentences need not add up to those of their text."""
_LETTERS: Final = 16
"""Characters a token, at most, of a text whose tokens are counted before it is cut."""
_TEMPLATE: Final = 256
"""Tokens that a chat template adds, at most, to a prompt whose tokens are not counted."""
_NEAR: Final = 2000
"""Characters from the middle of a long sentence, at most, to the break at which it is divided."""
_AT_ONCE: Final = 256
"""Sentences whose tokens are counted at once."""
_END: Final = regex.compile(
    rf"(?<=[.!?…]['\"”’»)\]]{{0,3}}){ABBREVIATIONS}(?<!\b\p{{Lu}}\.)\s+(?=['\"“‘«(\[]*[\p{{Lu}}\p{{Lt}}\p{{Lo}}\p{{N}}])"
    r"|(?<=[。！？｡؟।॥۔])['\"”’»」』）)]*\s*|\n[ \t]*\n\s*"
)
_BREAKS: Final = (regex.compile(r"\n\s*"), regex.compile(r"\s+"))
_CLUSTER: Final = regex.compile(r"\X")


class Sizes(NamedTuple):
    """How an engine counts. `context`: tokens of a prompt with its answer, at most; None: not known."""

    texts: Callable[[Sequence[str]], list[int]]
    prompt: Callable[[Prompt], int]
    context: int | None = None


@dataclass(frozen=True)
class Cutter:
    """Cuts texts for an engine. Texts that fit, and all texts of an engine without a known limit, stay whole.

    `window` is the limit in tokens of a text; None: what the context leaves beside the prompt and the answer, whose
    limit is `answer`. Pass n, from 1, has windows of an n-th of that.
    """

    load: Callable[[], Sizes]
    answer: int
    window: int | None = None
    passes: int = 1

    @cached_property
    def sizes(self) -> Sizes:
        """How the engine counts."""
        return self.load()

    def places(self, text: str, ask: Callable[[str], Prompt]) -> list[list[Place]]:
        """The parts of a text for each pass, each in its order; a place that an earlier pass has is left out.

        `ask` makes the prompt of a part.
        """
        whole = [(0, len(text))]
        limit = self._limit(text, ask)
        if limit is None:
            return [whole]
        passes, seen = [], set[Place]()
        for n in range(1, self.passes + 1):
            places = list(cut(text, max(limit // n, LEAST), self.sizes.texts)) or whole
            passes.append([place for place in places if place not in seen])
            seen |= {*places}
        return passes

    def _limit(self, text: str, ask: Callable[[str], Prompt]) -> int | None:
        """The tokens of a window; None where the text is asked about as a whole."""
        context = self.sizes.context
        short = self.window is None or _most_tokens(text) <= self.window // self.passes
        if context is None:
            return None if short else self.window
        if short and self.whole(ask(text)):
            return None
        room = context - self.sizes.prompt(ask(".")) - min(self.answer, context // 4)
        limit = min(self.window or room, int(_SPARE * room))
        return limit if limit >= LEAST else None

    def whole(self, prompt: Prompt) -> bool:
        """Whether a prompt fits into the context. Its tokens are counted only where they may be too many."""
        if self.sizes.context is None:
            return True
        most = self.sizes.context - LEAST
        contents = [turn["content"] or "" for turn in prompt]
        if sum(map(_most_tokens, contents)) + _TEMPLATE <= most:
            return True
        return sum(map(len, contents)) <= _LETTERS * most and self.sizes.prompt(prompt) <= most


def _most_tokens(text: str) -> int:
    """Tokens of a text, at most: a tokenizer of bytes has no token without one."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def cut(text: str, size: int, tokens: Callable[[Sequence[str]], list[int]]) -> Iterator[Place]:
    """Windows of at most `size` tokens without blank edges; the whole text where it has no more.

    A window is made of whole sentences; one of more than half a window is divided at line breaks, else at white space,
    and between characters where half a window is a single word.
    """
    pieces = list(_pieces(text, size, tokens))
    totals = [0, *accumulate(count for _, count in pieces)]
    if totals[-1] <= size:
        yield 0, len(text)
        return
    first, last = 0, 0
    while last < len(pieces):
        last = first + 1
        while last < len(pieces) and totals[last + 1] - totals[first] <= size:
            last += 1
        start, end = pieces[first][0][0], pieces[last - 1][0][1]
        part = text[start:end]
        if part.strip():
            yield start + len(part) - len(part.lstrip()), start + len(part.rstrip())
        first = _again(totals, first, last, size)


def _again(totals: Sequence[int], first: int, last: int, size: int) -> int:
    """The piece that the next window begins with."""
    again = last - 1 if totals[last] - totals[last - 1] <= size // 2 else last
    while again > first + 1 and totals[last] - totals[again - 1] <= size // OVERLAP:
        again -= 1
    # The next window must reach further than this one.
    while again < last < len(totals) - 1 and totals[last + 1] - totals[again] > size:
        again += 1
    return max(again, first + 1)


def _pieces(text: str, size: int, tokens: Callable[[Sequence[str]], list[int]]) -> Iterator[tuple[Place, int]]:
    """The sentences of a text with their tokens, together the whole text."""
    ends = sorted({0, *(found.end() for found in _END.finditer(text)), len(text)})
    for place, count in _counted(text, pairwise(ends), tokens, _LETTERS * size):
        if count is not None and count <= size // 2:
            yield place, count
        else:
            yield from _divided(text, place, max(size // OVERLAP, 1), size // 2, tokens)


def _divided(
    text: str, place: Place, most: int, word: int, tokens: Callable[[Sequence[str]], list[int]]
) -> Iterator[tuple[Place, int]]:
    """A long sentence in parts of at most `most` tokens, or of one word of at most `word`, or of one character."""
    waiting = [place]
    while waiting:
        [(place, count)] = _counted(text, [waiting.pop()], tokens, _LETTERS * most)
        middle = place[1] if count is not None and count <= most else _middle(text, *place)
        if middle is None:
            middle = place[1] if count is not None and count <= word else _between(text, *place)
        if middle < place[1]:
            waiting += [(middle, place[1]), (place[0], middle)]
        else:
            yield place, tokens([text[slice(*place)]])[0] if count is None else count


def _counted(
    text: str, places: Iterable[Place], tokens: Callable[[Sequence[str]], list[int]], longest: int
) -> Iterator[tuple[Place, int | None]]:
    """Places with their tokens; None for those of more than `longest` characters, which nobody counts."""
    block = list[Place]()
    for place in places:
        block.append(place)
        if len(block) == _AT_ONCE:
            yield from _of_block(text, block, tokens, longest)
            block = []
    yield from _of_block(text, block, tokens, longest)


def _of_block(
    text: str, block: Sequence[Place], tokens: Callable[[Sequence[str]], list[int]], longest: int
) -> Iterator[tuple[Place, int | None]]:
    short = [text[start:end] for start, end in block if end - start <= longest]
    counts = iter(tokens(short) if short else ())
    yield from ((place, next(counts) if place[1] - place[0] <= longest else None) for place in block)


def _middle(text: str, start: int, end: int) -> int | None:
    """A place to divide a sentence at: behind a line break or white space, near the middle. None in a single word."""
    middle, near = (start + end) // 2, min((end - start) // 4, _NEAR)
    for pattern, first, last in (*((p, middle - near, middle + near) for p in _BREAKS), (_BREAKS[-1], start, end)):
        breaks = (found.end() for found in pattern.finditer(text, first, last) if start < found.end() < end)
        nearest: int | None = min(breaks, key=lambda place: abs(place - middle), default=None)
        if nearest is not None:
            return nearest
    return None


def _between(text: str, start: int, end: int) -> int:
    """A place near the middle that cuts no character."""
    middle = (start + end) // 2
    # Whole characters: a few before the middle begin a cluster.
    clusters = _CLUSTER.finditer(text, max(start, middle - 64), end)
    return next((found.end() for found in clusters if found.end() >= middle), end)
