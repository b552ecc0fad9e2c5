"""Spans, edits, and the map between clean and noisy text."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Path = tuple[str | int, ...]


class Span(NamedTuple):
    """A labelled range of a text. `policy` says which edits its `kind` allows."""

    start: int
    end: int
    kind: str = "name"
    path: Path = ()


class Edit(NamedTuple):
    """`text[start:end]` becomes `after`; the composer fills in `before`."""

    start: int
    end: int
    after: str
    family: str
    before: str = ""


Family = Callable[[str, random.Random, Sequence[Span]], list[Edit]]
"""Proposes edits to a text. The composer drops those that overlap, cross a span's edge or break its policy."""


@dataclass(frozen=True)
class Noised:
    """A noisy text with the edits that lead there and back.

    `passes` holds one sorted, non-overlapping tuple of edits for each family that changed something, in the order
    applied; positions refer to the text as it was before that pass.
    """

    source: str
    text: str
    passes: tuple[tuple[Edit, ...], ...] = ()
    spans: tuple[Span, ...] = field(default=(), compare=False, repr=False)
    """The labelled spans as they lie in `text`, in the order in which they were given."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """Every edit made, in the order applied."""
        return tuple(edit for edits in self.passes for edit in edits)

    @property
    def families(self) -> tuple[str, ...]:
        """The families that made an edit, each once, in order."""
        return tuple(dict.fromkeys(edit.family for edit in self.edits))

    def to_noisy(self, start: int, end: int) -> tuple[int, int]:
        """Where `source[start:end]` lies in `text`, widened to whole edits."""
        for edits in self.passes:
            start, end = forward(start, end, edits)
        return start, end

    def to_source(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` lies in `source`; undoes `to_noisy`."""
        for edits in reversed(self.passes):
            start, end = forward(start, end, inverse(edits))
        return start, end

    def replay(self) -> str:
        """The noisy text, rebuilt from the source and the edits."""
        text = self.source
        for edits in self.passes:
            text = apply(text, edits)
        return text

    def undo(self) -> str:
        """The clean text, rebuilt from the noisy text and the edits."""
        text = self.text
        for edits in reversed(self.passes):
            text = apply(text, inverse(edits))
        return text


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text after sorted, non-overlapping edits."""
    pieces: list[str] = []
    last = 0
    for start, end, after, _, _ in edits:
        pieces += (text[last:start], after)
        last = end
    return "".join(pieces) + text[last:]


def inverse(edits: Sequence[Edit]) -> list[Edit]:
    """The edits that undo `edits`, positioned in the text they produced."""
    shift = 0
    undo: list[Edit] = []
    for start, end, after, family, before in edits:
        undo.append(Edit(start + shift, start + shift + len(after), before, family, after))
        shift += len(after) - (end - start)
    return undo


def forward(start: int, end: int, edits: Sequence[Edit]) -> tuple[int, int]:
    """Where a span lies after a pass; insertions at its very edge stay outside."""
    shift_start = shift_end = 0
    new_start, new_end = start, end
    for edit in edits:
        if edit.start >= end and edit.end > start:
            break
        grown = len(edit.after) - (edit.end - edit.start)
        if edit.end <= start:
            shift_start += grown
            shift_end += grown
            continue
        if edit.start < start:
            new_start = edit.start
        if edit.end > end:
            new_end = edit.end
        shift_end += grown
    return new_start + shift_start, max(new_start + shift_start, new_end + shift_end)


def carried(spans: Sequence[Span], edits: Sequence[Edit]) -> list[Span]:
    """Spans as they lie after a pass of at least one edit."""
    first, last = edits[0].start, edits[-1].end
    grown = sum([len(after) - (end - start) for start, end, after, _, _ in edits])
    out = []
    for span in spans:
        start, end, kind, path = span
        if end <= first:
            out.append(span)
        elif start >= last:
            out.append(Span(start + grown, end + grown, kind, path))
        else:
            out.append(Span(*forward(start, end, edits), kind, path))
    return out


def hits(rng: random.Random, sites: int, rate: float) -> list[int]:
    """Draw the indices below `sites` that an event of probability `rate` hits.

    Draws the gap to the next hit, so that the cost grows with the hits and not with the sites.
    """
    if rate < 1e-9 or sites <= 0:
        return []
    if rate >= 1:
        return list(range(sites))
    draw = rng.random
    scale = 1 / math.log1p(-rate)
    log = math.log
    hit: list[int] = []
    index = int(log(1 - draw()) * scale)
    while index < sites:
        hit.append(index)
        index += 1 + int(log(1 - draw()) * scale)
    return hit


def inside(spans: Sequence[Span], position: int) -> bool:
    """Whether something inserted at `position` would land inside a span."""
    return any(span.start < position < span.end for span in spans)
