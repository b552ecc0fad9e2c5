"""Page furniture in the text: line numbers, running heads, page numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data_aug.data_files import read_data
from adapters.data_aug.noise.edits import Edit, Span, hits, inside
from adapters.data_aug.noise.family import NoiseFamily
from adapters.data_aug.noise.layout import line_ends

_TABLES = read_data("noise/tables.json")


def _running_head(rng: random.Random) -> str:
    page, year = rng.randint(2, 900), rng.randint(1995, 2025)
    first, second = rng.choice(_TABLES["page_surnames"]), rng.choice(_TABLES["page_surnames"])
    topic, title = rng.choice(_TABLES["page_topics"]), rng.choice(_TABLES["page_titles"])
    values = {"sheet": page % 30 + 1, "sheets": page % 30 + 9, "volume": page % 60 + 1}
    pattern: str = rng.choice(_TABLES["running_heads"])
    return pattern.format(page=page, year=year, first=first, second=second, topic=topic, title=title, **values)


@dataclass(frozen=True)
class RunningHeads(NoiseFamily):
    """Running heads and page numbers; `rate`: share of lines that end a page."""

    rate: float = 0.2
    NAME = "running_heads"

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        ends = [end for end in line_ends(text, rng.randint(45, 95)) if not inside(protected, end)]
        gap = rng.choice(("\n", "\n\n", "\n\n", " "))
        hit = (ends[index] for index in hits(rng, len(ends), self.rate))
        return [Edit(end, end + 1, f"{gap}{_running_head(rng)}{gap}", "running_heads") for end in hit]


@dataclass(frozen=True)
class LineNumbers(NoiseFamily):
    """The line numbers of a manuscript; `rate`: share of lines that carry one."""

    rate: float = 1.0
    NAME = "line_numbers"

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        """Propose edits."""
        ends = line_ends(text, rng.randint(45, 95))
        first = rng.randint(1, 700)
        pattern = rng.choice(("\n{} ", "\n{} ", " {}\n", " {} "))
        edits = [Edit(0, 0, f"{first} ", "line_numbers")] if text and pattern[0] == "\n" else []
        for index in hits(rng, len(ends), self.rate):
            at = ends[index]
            if not inside(protected, at) and not inside(protected, at + 1):
                edits.append(Edit(at, at + 1, pattern.format(first + 1 + index), "line_numbers"))
        return edits
