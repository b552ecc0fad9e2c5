"""Unicode forms of punctuation and blanks, and superscript note marks."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise.edits import Edit, Span, hits
from adapters.data_aug.noise.family import BLANK, Change, FormedFamily, NoiseFamily

_NOTE_MARKS: dict[str, list[str]] = read_data("noise/tables.json")["note_marks"]


@dataclass(frozen=True)
class Dashes(NoiseFamily):
    """Hyphens as Unicode dashes, soft hyphens or minus signs; one for a text."""

    rate: float = 0.6
    NAME = "dashes"
    SITES = re.compile("[-\u2013\u2014]")

    def _draw(self, rng: random.Random) -> str:
        return rng.choice("\u2010\u2011\u2012\u2013\u2013\u2014\u2212\u00ad")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, form


@dataclass(frozen=True)
class Quotes(FormedFamily):
    """Quotation marks: "curly", "low" (German), "doubled" (''), "straight"."""

    rate: float = 0.8
    forms: tuple[str, ...] = ("curly", "curly", "low", "doubled", "straight")
    NAME = "quotes"
    SITES = re.compile("[\"'\u2018\u2019\u201c\u201d]")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        opens = start == 0 or not (text[start - 1].isalnum() or text[start - 1] in ".,)")
        single = text[start] in "'\u2018\u2019"
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
        return start, end, after


@dataclass(frozen=True)
class Blanks(NoiseFamily):
    """Blanks of another width: no-break, thin, ideographic, doubled, tab."""

    rate: float = 0.08
    NAME = "blanks"
    SITES = BLANK
    CHOICES = ("\u00a0", "\u2009", "\u202f", "\u2003", "\u3000", "  ", "   ", "\t")


@dataclass(frozen=True)
class Invisible(NoiseFamily):
    """Zero-width characters, soft hyphens and byte-order marks between letters."""

    rate: float = 0.01
    NAME = "invisible"
    CHOICES = ("\u200b", "\u200b", "\u200c", "\u2060", "\ufeff", "\u00ad")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        hit = hits(rng, len(text), self.rate)
        return [Edit(at, at, rng.choice(self.CHOICES), "invisible") for at in hit if text[at].isalnum()]


@dataclass(frozen=True)
class Superscripts(FormedFamily):
    """Note marks after a word: superscript digits, daggers, bracketed numbers."""

    rate: float = 0.03
    forms: tuple[str, ...] = ("digits", "symbols", "brackets")
    NAME = "superscripts"
    SITES = re.compile(r"\w(?=[ ,.;)]|$)")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return end, end, rng.choice(_NOTE_MARKS[form])
