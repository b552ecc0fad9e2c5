"""Misread characters: wrong case, OCR confusions, digits for letters."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise.edits import Edit, Span, hits
from adapters.data_aug.noise.family import WORD, Change, NoiseFamily, SwapFamily

# Letters whose capital has the shape of the small letter, so that only the size tells them apart.
_SAME_SHAPE = re.compile("[cCkKoOpPsSuUvVwWxXzZ]")

_TABLES = read_data("noise/tables.json")
_BREAKS: dict[str, list[str]] = _TABLES["breaks"]  # one glyph read as two, and below two as one
_JOINS: dict[str, str] = _TABLES["joins"]
_CONFUSIONS: dict[str, tuple[float, list[str], list[int]]] = read_data("noise/confusions.json")["confusions"]
_PEAK = 4.0  # the likeliest confusions are held to this multiple of the average


@dataclass(frozen=True)
class Case(NoiseFamily):
    """Wrong case of words, or of one letter whose capital has the same shape."""

    rate: float = 0.03
    NAME = "case"
    SITES = WORD

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        draw = rng.random()
        word = text[start:end]
        if draw < 0.5:
            letters = _SAME_SHAPE.findall(word) or [word[0]]
            at = start + word.index(letters[int(draw * 2 * len(letters))])
            return at, at + 1, text[at].swapcase()
        if draw < 0.7:
            return start, start + 1, word[0].swapcase()
        return start, end, word.upper() if draw < 0.87 else word.lower()


@dataclass(frozen=True)
class Ocr(NoiseFamily):
    """Confusions that an OCR engine makes.

    `rate`: the character error rate that English text gets on average; each character has its own share of it, drawn
    from counts on real print. `pairs`: how often a hit character breaks into two, or joins the next one into one
    (rn and m, cl and d, vv and w, li and h), where its shape allows it.
    """

    rate: float = 0.01
    pairs: float = 0.4
    NAME = "ocr"

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        edits: list[Edit] = []
        draw = rng.random
        for at in hits(rng, len(text), min(1.0, self.rate * _PEAK)):
            true = text[at]
            known = _CONFUSIONS.get(true)
            if known is None or draw() * _PEAK > known[0]:
                continue
            if true.isalpha() and draw() < self.pairs:
                pair = text[at : at + 2]
                if pair in _JOINS:
                    edits.append(Edit(at, at + 2, _JOINS[pair], "ocr"))
                    continue
                if true in _BREAKS:
                    edits.append(Edit(at, at + 1, rng.choice(_BREAKS[true]), "ocr"))
                    continue
            _, readings, cumulative = known
            read = readings[min(bisect_right(cumulative, draw() * 1000), len(readings) - 1)]
            edits.append(Edit(at, at + 1, read, "ocr"))
        return edits


@dataclass(frozen=True)
class Swaps(SwapFamily):
    """Digits and letters swapped: 0/O, 1/l/I, 5/S, 8/B, 2/Z, 6/G, 9/g."""

    rate: float = 0.02
    NAME = "swaps"
    TABLE = _TABLES["swaps"]
