"""Markdown as document converters write it: escapes, emphasis, the pipes of a table."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from adapters.data_aug.noise.edits import Edit, Span, check, hits
from adapters.data_aug.noise.markup import PLAIN_WORD, phrases, surround

_SPECIAL = re.compile(r"[*_#\[\]()<>&|~+-]")
_EMPHASIS = {"star": "*|*", "strong": "**|**", "underscore": "_|_"}
_CELL_END = re.compile(r"(?<=[,.;:)]) ")


@dataclass(frozen=True)
class MarkdownEscapes:
    r"""Backslashes before characters that mean something in Markdown: `\_`, `\[`. `rate`: share of them hit."""

    rate: float = 0.5
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        sites = [site.start() for site in _SPECIAL.finditer(text)]
        return [
            Edit(sites[index], sites[index] + 1, f"\\{text[sites[index]]}", "markdown_escapes")
            for index in hits(rng, len(sites), self.rate)
        ]


@dataclass(frozen=True)
class Emphasis:
    """Stars and underscores. `rate`: share of words where emphasis starts; `stray`: share of words before a lone `*`.

    Only lone stars may stand inside a name: scoring does not see them.
    """

    rate: float = 0.03
    stray: float = 0.02
    forms: tuple[str, ...] = ("star", "strong", "underscore")
    chance: float = 1.0
    FORMS: ClassVar[tuple[str, ...]] = tuple(_EMPHASIS)

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        pattern = _EMPHASIS[rng.choice(self.forms)]
        edits: list[Edit] = []
        for start, end in phrases(text, rng, protected, self.rate):
            edits += surround(start, end, pattern, "emphasis")
        if self.stray:
            words = [word.end() for word in PLAIN_WORD.finditer(text)]
            edits += [Edit(words[i], words[i], "*", "emphasis") for i in hits(rng, len(words), self.stray)]
        return edits


@dataclass(frozen=True)
class Pipes:
    """Table pipes around the text and between its clauses, or a list bullet before it.

    `rate`: share of the blanks after punctuation that become a cell border; `bullet`: chance of a bullet instead.
    """

    rate: float = 0.2
    bullet: float = 0.2
    chance: float = 1.0

    def __post_init__(self) -> None:
        check(self)

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        if not text:
            return []
        if rng.random() < self.bullet:
            return [Edit(0, 0, rng.choice(("\u2022 ", "* ", "- ", "> ")), "pipes")]
        sites = [site.start() for site in _CELL_END.finditer(text)]
        edits = [Edit(sites[i], sites[i] + 1, " | ", "pipes") for i in hits(rng, len(sites), self.rate)]
        left = rng.choice(("| ", "| ", "|", "| | "))
        return [Edit(0, 0, left, "pipes"), *edits, Edit(len(text), len(text), " |", "pipes")]
