"""Words split or joined by line ends, letter spacing and lost blanks."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data_aug.noise.edits import Edit, Span, hits
from adapters.data_aug.noise.family import BLANK, WORD, Change, FormedFamily, NoiseFamily

_SYLLABLE_END = re.compile(r"(?<=[aeiou])(?=[bcdfghjklmnpqrstvwxz][aeiouhlr])|(?<=[lnrst])(?=[bcdfgmpstv])")
_HYPHENS = {"newline": "-\n", "blank": "- ", "soft": "\u00ad", "kept": "-"}
_LINE_ENDS = {"newline": "\n", "blank_newline": " \n", "paragraph": "\n\n"}
_SEPARATOR = re.compile(r"[/\s-]+")
_LETTER_DIGIT = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])")


@dataclass(frozen=True)
class Hyphenation(FormedFamily):
    """Words of six letters and more, split by a hyphen, with or without a line end."""

    rate: float = 0.06
    forms: tuple[str, ...] = ("newline", "newline", "blank", "blank", "soft", "kept")
    NAME = "hyphenation"
    SITES = re.compile(r"[^\W\d_]{6,}")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        places = [place.start() for place in _SYLLABLE_END.finditer(text, start + 2, end - 2)] or [start + 3]
        at = rng.choice(places)
        return at, at, _HYPHENS[form]


@dataclass(frozen=True)
class LineBreaks(FormedFamily):
    """Line ends kept from the page; a text has one line width."""

    rate: float = 0.8
    forms: tuple[str, ...] = ("newline", "newline", "newline", "blank_newline", "paragraph")
    NAME = "line_breaks"

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        ends = line_ends(text, rng.randint(35, 95))
        after = _LINE_ENDS[self._draw(rng)]
        return [Edit(ends[i], ends[i] + 1, after, "line_breaks") for i in hits(rng, len(ends), self.rate)]


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
class GluedWords(NoiseFamily):
    """Lost blanks."""

    rate: float = 0.03
    NAME = "glued_words"
    SITES = BLANK

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, ""


@dataclass(frozen=True)
class SplitWords(NoiseFamily):
    """A blank inside a word."""

    rate: float = 0.03
    NAME = "split_words"
    SITES = WORD

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        at = rng.randrange(start + 1, end)
        return at, at, " "


@dataclass(frozen=True)
class SpacedCapitals(NoiseFamily):
    """Letter-spaced words, "F U N D I N G"; `gaps`: share of gaps that get a blank."""

    gaps: float = 0.8
    NAME = "spaced_capitals"
    SITES = re.compile(r"\b(?:[A-Z]{3,}|Acknowledge?ments?|Funding)\b")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        hit = self._hit_sites(text, rng, protected)
        gaps = (start + 1 + gap for start, end in hit for gap in hits(rng, end - start - 1, self.gaps))
        return [Edit(gap, gap, " ", "spaced_capitals") for gap in gaps]


@dataclass(frozen=True)
class IdSpacing(NoiseFamily):
    """Blanks, lost separators and case in labelled ids, or in what looks like one."""

    rate: float = 0.3
    NAME = "id_spacing"
    SITES = re.compile(r"\b(?=[A-Z/-]*\d)[A-Z0-9]+(?:[/-][A-Z0-9]+)*\b")

    def _hit_sites(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[tuple[int, int]]:
        ids = [(span.start, span.end) for span in protected if span.kind == "id"]
        ids = ids or [site.span() for site in self.SITES.finditer(text) if site.end() - site.start() > 4]
        return [ids[index] for index in hits(rng, len(ids), self.rate)]

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change | None:
        draw = rng.random()
        separators = [site.span() for site in _SEPARATOR.finditer(text, start + 1, end - 1)]
        if not separators:
            joints = [joint.start() for joint in _LETTER_DIGIT.finditer(text, start + 1, end - 1)]
            if draw < 0.2:
                return start, end, text[start:end].swapcase()
            at = rng.choice(joints) if joints else start + (end - start) // 2
            return (at, at, " ") if start < at < end else None
        at, stop = rng.choice(separators)
        mark = text[at:stop].strip()
        if draw < 0.5:
            after = f"{mark or '-'} "  # by far the commonest: a line end after the hyphen
        elif draw < 0.65:
            after = f" {mark or '-'} "
        elif draw < 0.8:
            after = mark + "\n"
        else:
            after = "" if draw < 0.9 else " "
        return at, stop, after
