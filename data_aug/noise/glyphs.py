"""Glyphs that PDF fonts and encodings lose: ligatures, accents, look-alikes, full width, broken encodings."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from adapters.data_aug.noise.characters import WORD
from adapters.data_aug.noise.edits import Edit, Span, check, hits

_LIGATURE = re.compile("ffi|ffl|ff|fi|fl")
_CODEPOINTS = {"ff": "\ufb00", "fi": "\ufb01", "fl": "\ufb02", "ffi": "\ufb03", "ffl": "\ufb04"}
_BROKEN = ("\ufffd", "\ufffd", "(cid:2)", "(cid:123)", "\x02", "\u00fe", "\u00ae", "?")

_ACCENTED = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")
_SPACING = {
    "\u0300": "`",
    "\u0301": "\u00b4",
    "\u0302": "\u02c6",
    "\u0303": "\u02dc",
    "\u0304": "\u00af",
    "\u0306": "\u02d8",
    "\u0308": "\u00a8",
    "\u030a": "\u02da",
    "\u030b": "\u02dd",
    "\u030c": "\u02c7",
    "\u0327": "\u00b8",
    "\u0328": "\u02db",
}

_LOOK_ALIKES = {
    "a": "\u0430",
    "c": "\u0441",
    "e": "\u0435",
    "i": "\u0456",
    "o": "\u043e\u03bf",
    "p": "\u0440",
    "s": "\u0455",
    "v": "\u03bd",
    "x": "\u0445",
    "y": "\u0443",
    "A": "\u0410\u0391",
    "B": "\u0412\u0392",
    "C": "\u0421",
    "E": "\u0415\u0395",
    "H": "\u041d\u0397",
    "I": "\u0406\u0399",
    "K": "\u041a\u039a",
    "M": "\u041c\u039c",
    "N": "\u039d",
    "O": "\u041e\u039f",
    "P": "\u0420\u03a1",
    "S": "\u0405",
    "T": "\u0422\u03a4",
    "X": "\u0425\u03a7",
    "Y": "\u03a5",
    "Z": "\u0396",
}

_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")


@cache
def _decomposed(letter: str) -> tuple[str, str]:
    """A letter as its base and its first combining mark; the mark is "" where it has none."""
    parts = unicodedata.normalize("NFD", letter)
    return (parts[0], parts[1]) if len(parts) == 2 else (letter, "")


@dataclass(frozen=True)
class Ligatures:
    """Broken ligatures. `rate`: share of ff, fi, fl, ffi, ffl hit. One of `forms` is drawn for a whole text."""

    rate: float = 0.5
    forms: tuple[str, ...] = ("char", "dropped", "split", "replaced")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = ("char", "dropped", "split", "replaced")

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [site.span() for site in _LIGATURE.finditer(text)]
        struck = hits(rng, len(sites), self.rate)
        if not struck:
            return []
        form = rng.choice(self.forms)
        broken = rng.choice(_BROKEN)
        gap = rng.choice((" ", ""))
        edits = []
        for index in struck:
            start, end = sites[index]
            letters = text[start:end]
            after = {"char": _CODEPOINTS[letters], "dropped": gap, "replaced": broken}.get(form)
            if after is None:
                starts_word = start == 0 or not text[start - 1].isalpha()
                after = f"{letters} " if starts_word else f" {letters} "
            edits.append(Edit(start, end, after, "ligatures"))
        return edits


@dataclass(frozen=True)
class Accents:
    """Accents taken off their letters. `rate`: share of accented letters hit. One form is drawn for a whole text.

    Forms: "nfd" (combining mark), "before" and "after" (a spacing accent beside the letter, "W\u00a8urzburg"),
    "apart" (the accent between blanks), "lost".
    """

    rate: float = 0.6
    forms: tuple[str, ...] = ("nfd", "before", "after", "apart", "lost")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = ("nfd", "before", "after", "apart", "lost")

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        if text.isascii():
            return []
        sites = [site.start() for site in _ACCENTED.finditer(text)]
        form = rng.choice(self.forms)
        edits = []
        for index in hits(rng, len(sites), self.rate):
            at = sites[index]
            letter, mark = _decomposed(text[at])
            accent = _SPACING.get(mark)
            if form == "nfd" and mark:
                edits.append(Edit(at, at + 1, letter + mark, "accents"))
            elif accent:
                after = {"before": accent + letter, "after": letter + accent, "apart": f" {accent} {letter}"}
                edits.append(Edit(at, at + 1, after.get(form, letter), "accents"))
        return edits


@dataclass(frozen=True)
class LookAlikes:
    """Cyrillic and Greek letters that look Latin. `rate`: share of the letters that have one."""

    rate: float = 0.01
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        return [
            Edit(at, at + 1, rng.choice(_LOOK_ALIKES[text[at]]), "lookalikes")
            for at in hits(rng, len(text), self.rate)
            if text[at] in _LOOK_ALIKES
        ]


@dataclass(frozen=True)
class FullWidth:
    """Words in full-width forms, as East Asian typesetting leaves them. `rate`: share of words hit."""

    rate: float = 0.03
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        words = [word.span() for word in WORD.finditer(text)]
        return [
            Edit(start, end, text[start:end].translate(_FULL_WIDTH), "fullwidth")
            for start, end in (words[index] for index in hits(rng, len(words), self.rate))
        ]


@dataclass(frozen=True)
class Mojibake:
    """UTF-8 read as Windows-1252 ("\u00c3\u00a9" for "\u00e9"). `rate`: share of the non-ASCII runs hit."""

    rate: float = 0.8
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        if text.isascii():
            return []
        runs = [run.span() for run in _NON_ASCII.finditer(text)]
        edits = []
        for index in hits(rng, len(runs), self.rate):
            start, end = runs[index]
            garbled = text[start:end].encode("utf-8", "replace").decode("cp1252", "replace")
            edits.append(Edit(start, end, garbled, "mojibake"))
        return edits
