"""Glyph errors: ligatures, accents, look-alikes, full width, encodings."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from adapters.data_aug.noise.edits import Edit, Span
from adapters.data_aug.noise.family import WORD, Change, FormedFamily, NoiseFamily, SwapFamily

_CODEPOINTS = {"ff": "\ufb00", "fi": "\ufb01", "fl": "\ufb02", "ffi": "\ufb03", "ffl": "\ufb04"}
_BROKEN = ("\ufffd", "\ufffd", "(cid:2)", "(cid:123)", "\x02", "\u00fe", "\u00ae", "?")

_SPACING = {
    "\u0300": "`", "\u0301": "\u00b4", "\u0302": "\u02c6", "\u0303": "\u02dc", "\u0304": "\u00af",
    "\u0306": "\u02d8", "\u0308": "\u00a8", "\u030a": "\u02da", "\u030b": "\u02dd", "\u030c": "\u02c7",
    "\u0327": "\u00b8", "\u0328": "\u02db",
}  # fmt: skip

_LOOK_ALIKES = {
    "a": "\u0430", "c": "\u0441", "e": "\u0435", "i": "\u0456", "o": "\u043e\u03bf", "p": "\u0440", "s": "\u0455",
    "v": "\u03bd", "x": "\u0445", "y": "\u0443", "A": "\u0410\u0391", "B": "\u0412\u0392", "C": "\u0421",
    "E": "\u0415\u0395", "H": "\u041d\u0397", "I": "\u0406\u0399", "K": "\u041a\u039a", "M": "\u041c\u039c",
    "N": "\u039d", "O": "\u041e\u039f", "P": "\u0420\u03a1", "S": "\u0405", "T": "\u0422\u03a4",
    "X": "\u0425\u03a7", "Y": "\u03a5", "Z": "\u0396",
}  # fmt: skip

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
        form, broken, gap = self._draw(rng), rng.choice(_BROKEN), rng.choice((" ", ""))
        edits = []
        for start, end in hit:
            letters = text[start:end]
            after = {"char": _CODEPOINTS[letters], "dropped": gap, "replaced": broken}.get(form)
            if after is None:
                starts_word = start == 0 or not text[start - 1].isalpha()
                after = f"{letters} " if starts_word else f" {letters} "
            edits.append(Edit(start, end, after, "ligatures"))
        return edits


@dataclass(frozen=True)
class Accents(FormedFamily):
    """Accents taken off their letters.

    Forms: "nfd" (combining mark), "before" and "after" (a spacing accent beside the letter, "W\u00a8urzburg"),
    "apart" (the accent between blanks), "lost".
    """

    rate: float = 0.6
    forms: tuple[str, ...] = ("nfd", "before", "after", "apart", "lost")
    NAME = "accents"
    SITES = re.compile("[\u00c0-\u024f\u1e00-\u1eff]")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        return [] if text.isascii() else super().__call__(text, rng, protected)

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change | None:
        letter, mark = _decomposed(text[start])
        accent = _SPACING.get(mark)
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
    TABLE = _LOOK_ALIKES


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
