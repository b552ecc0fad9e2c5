"""Punctuation and blanks in their many Unicode forms, and note marks set as superscripts."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from adapters.data_aug.noise.edits import Edit, Span, check, hits

_DASH = re.compile("[-\u2013\u2014]")
_DASHES = "\u2010\u2011\u2012\u2013\u2013\u2014\u2212\u00ad"
_QUOTE = re.compile("[\"'\u2018\u2019\u201c\u201d]")
_BLANKS = ("\u00a0", "\u2009", "\u202f", "\u2003", "\u3000", "  ", "   ", "\t")
_INVISIBLE = ("\u200b", "\u200b", "\u200c", "\u2060", "\ufeff", "\u00ad")
_WORD_END = re.compile(r"\w(?=[ ,.;)]|$)")
_MARKS = {
    "digits": ("\u00b9", "\u00b2", "\u00b3", "\u00b9\u00b2", "\u2074", "\u2075", "\u2076"),
    "symbols": ("\u2020", "\u2021", "\u00a7", "\u00b6", "*", "\u2217"),
    "brackets": ("[1]", "[12]", "[3,4]", " [7]"),
}


@dataclass(frozen=True)
class Dashes:
    """Hyphens as Unicode dashes, soft hyphens or minus signs. `rate`: share of dashes hit; one sort a text."""

    rate: float = 0.6
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [site.start() for site in _DASH.finditer(text)]
        dash = rng.choice(_DASHES)
        return [Edit(sites[i], sites[i] + 1, dash, "dashes") for i in hits(rng, len(sites), self.rate)]


@dataclass(frozen=True)
class Quotes:
    """Quotation marks in another style: "curly", "low" (German), "doubled" (two apostrophes), "straight"."""

    rate: float = 0.8
    forms: tuple[str, ...] = ("curly", "curly", "low", "doubled", "straight")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = ("curly", "low", "doubled", "straight")

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [site.start() for site in _QUOTE.finditer(text)]
        form = rng.choice(self.forms)
        edits = []
        for index in hits(rng, len(sites), self.rate):
            at = sites[index]
            opens = at == 0 or not (text[at - 1].isalnum() or text[at - 1] in ".,)")
            single = text[at] in "'\u2018\u2019"
            if form == "straight":
                after = "'" if single else '"'
            elif single:
                after = "\u2018" if opens else "\u2019"
            elif form == "doubled":
                after = "``" if opens else "''"
            elif form == "low" and opens:
                after = "\u201e"
            else:
                after = "\u201c" if opens or form == "low" else "\u201d"
            edits.append(Edit(at, at + 1, after, "quotes"))
        return edits


@dataclass(frozen=True)
class Blanks:
    """Blanks of another width: no-break, thin, ideographic, doubled, tab. `rate`: share of blanks hit."""

    rate: float = 0.08
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [at for at, character in enumerate(text) if character == " "]
        return [
            Edit(sites[index], sites[index] + 1, rng.choice(_BLANKS), "blanks")
            for index in hits(rng, len(sites), self.rate)
        ]


@dataclass(frozen=True)
class Invisible:
    """Zero-width characters, soft hyphens and byte-order marks between letters. `rate`: share of characters hit."""

    rate: float = 0.01
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        return [
            Edit(at, at, rng.choice(_INVISIBLE), "invisible")
            for at in hits(rng, len(text), self.rate)
            if text[at].isalnum()
        ]


@dataclass(frozen=True)
class Superscripts:
    """Note marks after a word: superscript digits, daggers, bracketed numbers. `rate`: share of word ends hit."""

    rate: float = 0.03
    forms: tuple[str, ...] = ("digits", "symbols", "brackets")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = tuple(_MARKS)

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        ends = [site.end() for site in _WORD_END.finditer(text)]
        marks = _MARKS[rng.choice(self.forms)]
        return [
            Edit(ends[index], ends[index], rng.choice(marks), "superscripts")
            for index in hits(rng, len(ends), self.rate)
        ]
