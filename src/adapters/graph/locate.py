"""The sentences of a text, and which two occurrences of names a relation speaks of."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, Final

from adapters.rewards.grounding import Place

_SENTENCE_END: Final = re.compile(r"[.!?](?=\s)")


class Sentences:
    """The sentences of a text, numbered from 0.

    A sentence is a stretch up to `.`, `!` or `?` before white space, or one of the `given` places: a list of
    [start, end], or its JSON. Raises ValueError for places that the text does not have.
    """

    def __init__(self, text: str, given: Any = None) -> None:
        self.text = text
        if given not in (None, ""):
            self.places = _given(given, len(text))
        else:
            ends = [match.end() for match in _SENTENCE_END.finditer(text)]
            self.places = list(zip([0, *ends], [*ends, len(text)], strict=True))
        self._starts = [start for start, _ in self.places]

    def number(self, place: Place | None) -> int | None:
        """The sentence in which a place begins; None for a place between the given ones."""
        if place is None:
            return None
        number = bisect_right(self._starts, place[0]) - 1
        return number if number >= 0 and place[0] < self.places[number][1] else None

    def text_of(self, number: int | None) -> str | None:
        """A sentence without the white space around it."""
        return None if number is None else self.text[slice(*self.places[number])].strip()


def _given(value: Any, length: int) -> list[Place]:
    if isinstance(value, str):
        value = json.loads(value)
    pairs = [tuple(pair) for pair in value] if isinstance(value, list) else [()]
    for pair in pairs:
        whole = len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) for n in pair)
        if not whole or not 0 <= pair[0] <= pair[1] <= length:
            raise ValueError(f"{list(pair)} is no [start, end] in a text of {length} characters")
    return sorted((start, end) for start, end in pairs)


def pair(heads: Sequence[Place], tails: Sequence[Place], sentences: Sentences) -> tuple[Place | None, Place | None]:
    """The occurrences of a relation's ends: in one sentence, else anywhere; with the smallest extent; earliest head.

    The places of an end are in order and do not overlap. An end that is found alone gets its first occurrence.
    """
    if not heads or not tails:
        return (heads[0] if heads else None), (tails[0] if tails else None)
    best: tuple[tuple[bool, int, int, int], Place, Place] | None = None
    for head in heads:
        # Of the tails on one side of a head, the nearest has the smallest extent, and shares its sentence if any does.
        at = bisect_left(tails, head)
        for tail in tails[max(at - 1, 0) : at + 1]:
            number = sentences.number(head)
            apart = number is None or number != sentences.number(tail)
            extent = max(head[1], tail[1]) - min(head[0], tail[0])
            rank = (apart, extent, head[0], tail[0])
            if best is None or rank < best[0]:
                best = rank, head, tail
    return (None, None) if best is None else best[1:]
