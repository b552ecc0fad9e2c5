"""A reproducible sample of the texts of a corpus, each distinct text once.

Texts are ordered by a hash, so a larger share contains the smaller one, and the corpus may come in any order.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from adapters.data.json_text import label_text
from adapters.data.rows import BAD_ROW, column_names, read_records
from adapters.errors import UserError
from adapters.types import Row

T = TypeVar("T")
LEAST_POOL = 1000
"""Texts, at least, that a proxy labels before a balanced sample is drawn."""


class Text(NamedTuple):
    """A text of a corpus: its row number, from 1, and the row's id."""

    row: int
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """The drawn texts in hash order, and the numbers of rows, of distinct texts, and of rows without text."""

    texts: list[Text]
    rows: int
    distinct: int
    without_text: int


@dataclass(frozen=True, slots=True)
class Balanced(Generic[T]):
    """A sample by the answers of a proxy. `filled` stands in for what one side lacks."""

    true: list[T]
    false: list[T]
    filled: list[T]

    @property
    def chosen(self) -> list[T]:
        """All of it."""
        return [*self.true, *self.false, *self.filled]


def order(text: str, seed: int) -> str:
    """The place of a text in the order of a seed, in hexadecimal."""
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def size(distinct: int, share: float | None, n: int | None) -> int:
    """How many texts are drawn: `n`, or the share of the distinct ones, rounded up. Raises UserError."""
    if n is not None:
        return min(n, distinct)
    if share is None or not 0 < share <= 1:
        raise UserError(f"--share {share}: a share is above 0 and at most 1.")
    return math.ceil(Fraction(str(share)) * distinct)


def draw(corpus: Path, column: str, *, seed: int = 0, share: float | None = None, n: int | None = None) -> Sample:
    """The first texts of a corpus in hash order. Memory holds the sample and eight bytes a text. Raises UserError."""
    size(0, share, n)
    seen: set[bytes] = set()
    rows = texts = 0
    for _, row in read_records(corpus, columns=_columns(corpus, column)):
        rows += 1
        if (text := _text(row, column)) is not None:
            texts += 1
            seen.add(bytes.fromhex(order(text, seed)[:16]))
    wanted = size(len(seen), share, n)
    return Sample(_first(corpus, column, seed, wanted), rows, len(seen), rows - texts)


def _first(corpus: Path, column: str, seed: int, wanted: int) -> list[Text]:
    if not wanted:
        return []
    held: set[str] = set()
    heap: list[tuple[int, int, Text]] = []  # the largest hash comes first
    for number, text, id in texts_of(corpus, column):
        place = order(text, seed)
        if place in held:
            continue
        item = (-int(place, 16), -number, Text(number, id, text))
        if len(heap) < wanted:
            heapq.heappush(heap, item)
        elif item > heap[0]:
            gone = heapq.heapreplace(heap, item)
            held.discard(f"{-gone[0]:064x}")
        else:
            continue
        held.add(place)
    return [text for *_, text in sorted(heap, reverse=True)]


def texts_of(corpus: Path, column: str) -> Iterator[tuple[int, str, str]]:
    """Row numbers, texts and ids of the rows that have a text. A row without an id is named by its number."""
    for number, row in read_records(corpus, columns=_columns(corpus, column)):
        if (text := _text(row, column)) is not None:
            try:
                id = label_text(row.get("id"))
            except ValueError:
                id = None
            yield number, text, id or str(number)


def _columns(corpus: Path, column: str) -> list[str]:
    return [name for name in column_names(corpus) if name in (column, "id")]


def _text(row: Row, column: str) -> str | None:
    text = None if BAD_ROW in row else row.get(column)
    return text if isinstance(text, str) and text.strip() else None


def pool_size(n: int) -> int:
    """Texts, at most, that a proxy labels to balance a sample of n."""
    return max(4 * n, LEAST_POOL)


def balanced(pool: Sequence[T], answers: Sequence[bool], n: int) -> Balanced[T]:
    """Half of a sample predicted true, half false, from a pool in hash order.

    The heuristic is ours: the published algorithm (arXiv 2510.01427, Algorithm 1) has no text.
    """
    true = [item for item, answer in zip(pool, answers, strict=True) if answer][: (n + 1) // 2]
    false = [item for item, answer in zip(pool, answers, strict=True) if not answer][: n // 2]
    taken = {id(item) for item in (*true, *false)}
    rest = [item for item in pool if id(item) not in taken]
    return Balanced(true, false, rest[: max(n - len(true) - len(false), 0)])
