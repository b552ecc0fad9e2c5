"""Words taken apart and put together by line ends, letter spacing and lost blanks."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from adapters.data_aug.noise.characters import WORD
from adapters.data_aug.noise.edits import Edit, Span, check, hits

_LONG_WORD = re.compile(r"[^\W\d_]{6,}")
_SYLLABLE_END = re.compile(r"(?<=[aeiou])(?=[bcdfghjklmnpqrstvwxz][aeiouhlr])|(?<=[lnrst])(?=[bcdfgmpstv])")
_HYPHENS = {"newline": "-\n", "blank": "- ", "soft": "\u00ad", "kept": "-"}
_CAPITALS = re.compile(r"\b(?:[A-Z]{3,}|Acknowledge?ments?|Funding)\b")
_ID_LIKE = re.compile(r"\b(?=[A-Z/-]*\d)[A-Z0-9]+(?:[/-][A-Z0-9]+)*\b")
_SEPARATOR = re.compile(r"[/\s-]+")
_LETTER_DIGIT = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")


@dataclass(frozen=True)
class Hyphenation:
    r"""Words hyphenated at a line end. `rate`: share of words of six letters and more. One form a text.

    Forms: "newline" (`discus-\nsions`), "blank" (`discus- sions`), "soft" (a soft hyphen), "kept" (`discus-sions`).
    """

    rate: float = 0.06
    forms: tuple[str, ...] = ("newline", "newline", "blank", "blank", "soft", "kept")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = tuple(_HYPHENS)

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        words = [word.span() for word in _LONG_WORD.finditer(text)]
        hyphen = _HYPHENS[rng.choice(self.forms)]
        edits = []
        for index in hits(rng, len(words), self.rate):
            start, end = words[index]
            places = [place.start() for place in _SYLLABLE_END.finditer(text, start + 2, end - 2)] or [start + 3]
            at = rng.choice(places)
            edits.append(Edit(at, at, hyphen, "hyphenation"))
        return edits


@dataclass(frozen=True)
class LineBreaks:
    """Line ends kept as they stood on the page: one width is drawn for a text. `rate`: share of the lines kept."""

    rate: float = 0.8
    forms: tuple[str, ...] = ("newline", "newline", "newline", "blank_newline", "paragraph")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = ("newline", "blank_newline", "paragraph")

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        width = rng.randint(35, 95)
        end = {"newline": "\n", "blank_newline": " \n", "paragraph": "\n\n"}[rng.choice(self.forms)]
        breaks = line_ends(text, width)
        return [Edit(breaks[i], breaks[i] + 1, end, "line_breaks") for i in hits(rng, len(breaks), self.rate)]


def line_ends(text: str, width: int) -> list[int]:
    """The blanks at which a text wraps to lines of at most `width` characters."""
    ends: list[int] = []
    start = 0
    while len(text) - start > width:
        at = text.rfind(" ", start + 1, start + width + 1)
        if at < 0:
            at = text.find(" ", start + width)
            if at < 0:
                break
        ends.append(at)
        start = at + 1
    return ends


@dataclass(frozen=True)
class GluedWords:
    """Lost blanks. `rate`: share of blanks lost."""

    rate: float = 0.03
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [at for at, character in enumerate(text) if character == " "]
        return [Edit(sites[i], sites[i] + 1, "", "glued_words") for i in hits(rng, len(sites), self.rate)]


@dataclass(frozen=True)
class SplitWords:
    """A blank inside a word. `rate`: share of words hit."""

    rate: float = 0.03
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        words = [word.span() for word in WORD.finditer(text)]
        edits = []
        for index in hits(rng, len(words), self.rate):
            at = rng.randrange(words[index][0] + 1, words[index][1])
            edits.append(Edit(at, at, " ", "split_words"))
        return edits


@dataclass(frozen=True)
class SpacedCapitals:
    """Letter-spaced capitals and headings: "A C K N O W L E D G M E N T S". `rate`: share of such words hit.

    `gaps`: share of the gaps between the letters of a hit word that turn into blanks.
    """

    rate: float = 0.5
    gaps: float = 0.8
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        words = [word.span() for word in _CAPITALS.finditer(text)]
        edits = []
        for index in hits(rng, len(words), self.rate):
            start, end = words[index]
            edits += [
                Edit(start + 1 + gap, start + 1 + gap, " ", "spaced_capitals")
                for gap in hits(rng, end - start - 1, self.gaps)
            ]
        return edits


@dataclass(frozen=True)
class IdSpacing:
    """Blanks, lost separators and lower case inside identifiers. `rate`: share of identifiers hit.

    Works on spans of kind "id", or on whatever looks like one in a text without such spans.
    """

    rate: float = 0.3
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        ids = [(span.start, span.end) for span in protected if span.kind == "id"]
        ids = ids or [like.span() for like in _ID_LIKE.finditer(text) if like.end() - like.start() > 4]
        edits: list[Edit] = []
        for index in hits(rng, len(ids), self.rate):
            edits += self._edits(text, *ids[index], rng)
        return edits

    @staticmethod
    def _edits(text: str, start: int, end: int, rng: random.Random) -> list[Edit]:
        draw = rng.random()
        separators = [site.span() for site in _SEPARATOR.finditer(text, start + 1, end - 1)]
        if not separators:
            joints = [joint.start() for joint in _LETTER_DIGIT.finditer(text, start + 1, end - 1)]
            if draw < 0.2:
                return [Edit(start, end, text[start:end].swapcase(), "id_spacing")]
            at = rng.choice(joints) if joints else start + (end - start) // 2
            return [Edit(at, at, " ", "id_spacing")] if start < at < end else []
        at, stop = rng.choice(separators)
        mark = text[at:stop]
        if draw < 0.5:
            after = f"{mark.strip() or '-'} "  # by far the commonest: a line end after the hyphen
        elif draw < 0.65:
            after = f" {mark.strip() or '-'} "
        elif draw < 0.8:
            after = mark.strip() + "\n"
        else:
            after = "" if draw < 0.9 else " "
        return [Edit(at, stop, after, "id_spacing")]
