"""Glyph errors: ligatures, accents, look-alikes, full width, encodings."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise.edits import Edit, Span
from adapters.data_aug.noise.family import WORD, Change, FormedFamily, NoiseFamily, SwapFamily

_TABLES = read_data("noise/tables.json")
_LIGATURES: dict[str, str] = _TABLES["ligatures"]
_SPACING_ACCENTS: dict[str, str] = _TABLES["spacing_accents"]
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}


@cache
def _decomposed(letter: str) -> tuple[str, str]:
    """A letter as its base and its combining mark, "" if it has none."""
    characters = unicodedata.normalize("NFD", letter)
    return (characters[0], characters[1]) if len(characters) == 2 else (letter, "")


@dataclass(frozen=True)
class Ligatures(FormedFamily):
    """Broken ligatures: ff, fi, fl, ffi, ffl."""

    forms: tuple[str, ...] = ("char", "dropped", "split", "replaced")
    NAME = "ligatures"
    SITES = re.compile("ffi|ffl|ff|fi|fl")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        hit = self._hit_sites(text, rng, protected)
        if not hit:
            return []
        form, broken, gap = self._draw(rng), rng.choice(_TABLES["broken_ligatures"]), rng.choice((" ", ""))
        edits = []
        for start, end in hit:
            letters = text[start:end]
            after = {"char": _LIGATURES[letters], "dropped": gap, "replaced": broken}.get(form)
            if after is None:
                starts_word = start == 0 or not text[start - 1].isalpha()
                after = f"{letters} " if starts_word else f" {letters} "
            edits.append(Edit(start, end, after, "ligatures"))
        return edits


@dataclass(frozen=True)
class Accents(FormedFamily):
    """Accents combining ("nfd"), "before", "after", "apart" from letters, or "lost"."""

    rate: float = 0.6
    forms: tuple[str, ...] = ("nfd", "before", "after", "apart", "lost")
    NAME = "accents"
    SITES = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        return [] if text.isascii() else super().__call__(text, rng, protected)

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change | None:
        letter, mark = _decomposed(text[start])
        accent = _SPACING_ACCENTS.get(mark)
        if form == "nfd" and mark:
            return start, end, letter + mark
        if not accent:
            return None
        after = {"before": accent + letter, "after": letter + accent, "apart": f" {accent} {letter}"}
        return start, end, after.get(form, letter)


@dataclass(frozen=True)
class LookAlikes(SwapFamily):
    """Cyrillic and Greek letters that look Latin."""

    rate: float = 0.01
    NAME = "lookalikes"
    TABLE = _TABLES["look_alikes"]


@dataclass(frozen=True)
class FullWidth(NoiseFamily):
    """Words in full-width characters, as East Asian typesetting leaves them."""

    rate: float = 0.03
    NAME = "fullwidth"
    SITES = WORD

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, text[start:end].translate(_FULL_WIDTH)


@dataclass(frozen=True)
class Mojibake(NoiseFamily):
    """UTF-8 text that was read as Windows-1252 ("\u00c3\u00a9" for "\u00e9")."""

    rate: float = 0.8
    NAME = "mojibake"
    SITES = re.compile(r"[^\x00-\x7f]+")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, text[start:end].encode("utf-8", "replace").decode("cp1252", "replace")
