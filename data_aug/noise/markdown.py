"""Markdown as document converters write it: escapes, emphasis, table pipes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data_aug.noise.edits import Edit, Span, hits
from adapters.data_aug.noise.family import Change, FormedFamily, NoiseFamily
from adapters.data_aug.noise.markup import PLAIN_WORD, phrases, surround

_EMPHASIS = {"star": "*|*", "strong": "**|**", "underscore": "_|_"}


@dataclass(frozen=True)
class MarkdownEscapes(NoiseFamily):
    r"""Backslashes before characters with a meaning in Markdown: `\_`, `\[`."""

    NAME = "markdown_escapes"
    SITES = re.compile(r"[*_#\[\]()<>&|~+-]")

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, f"\\{text[start]}"


@dataclass(frozen=True)
class Emphasis(FormedFamily):
    """Stars and underscores around words, and lone stars.

    `rate`: share of words where emphasis starts; `stray`: share of words before a lone `*`. Only lone stars may stand
    inside a name, because scorers ignore them.
    """

    rate: float = 0.03
    stray: float = 0.02
    forms: tuple[str, ...] = tuple(_EMPHASIS)
    NAME = "emphasis"

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        pattern = _EMPHASIS[self._draw(rng)]
        edits: list[Edit] = []
        for start, end in phrases(text, rng, protected, self.rate):
            edits += surround(start, end, pattern, "emphasis")
        if self.stray:
            words = list(PLAIN_WORD.finditer(text))
            ends = (words[index].end() for index in hits(rng, len(words), self.stray))
            edits += [Edit(end, end, "*", "emphasis") for end in ends]
        return edits


@dataclass(frozen=True)
class Pipes(NoiseFamily):
    """Table pipes around the text and between its clauses, or a list bullet.

    `rate`: share of the blanks after punctuation that become a cell border; `bullet`: chance of a bullet instead.
    """

    rate: float = 0.2
    bullet: float = 0.2
    NAME = "pipes"
    SITES = re.compile(r"(?<=[,.;:)]) ")

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        if not text:
            return []
        if rng.random() < self.bullet:
            return [Edit(0, 0, rng.choice(("\u2022 ", "* ", "- ", "> ")), "pipes")]
        borders = super().__call__(text, rng, protected)
        left = rng.choice(("| ", "| ", "|", "| | "))
        return [Edit(0, 0, left, "pipes"), *borders, Edit(len(text), len(text), " |", "pipes")]

    def _change(self, text: str, start: int, end: int, rng: random.Random, form: str) -> Change:
        return start, end, " | "
