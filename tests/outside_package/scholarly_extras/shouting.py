"""Statements in capitals, as some publishers print them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.data_aug.noise import Edit, Span


@dataclass(frozen=True)
class Shouting:
    """Whole words become capitals. `rate`: share of the words."""

    rate: float = 0.5

    def __call__(self, text: str, rng: random.Random, protected: Sequence[Span]) -> list[Edit]:
        edits, start = [], 0
        for word in text.split(" "):
            end = start + len(word)
            if word and word.upper() != word and rng.random() < self.rate:
                edits.append(Edit(start, end, word.upper(), "shouting"))
            start = end + 1
        return edits
