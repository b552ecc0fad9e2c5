"""Windows of a long text, and which of them each of its words is read in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

Window = tuple[int, int]
"""A range of words."""


def windows(sizes: Sequence[int], capacity: int, stride: int) -> list[Window]:
    """Ranges of words that together hold all of them; `sizes` are the words' sub-words.

    A window holds at most `capacity` sub-words and whole words only, but for a word that is longer than it. Windows
    start `capacity - stride` sub-words apart, rounded down to a word's start; never less than half a window, so that a
    long instruction does not multiply them.
    """
    starts = [0, *accumulate(sizes)]
    step = max(capacity - stride, -(-capacity // 2), 1)
    out: list[Window] = []
    first = 0
    while True:
        end = max(first + 1, bisect_right(starts, starts[first] + capacity) - 1)
        end = min(end, len(sizes))
        out.append((first, end))
        if end >= len(sizes):
            return out
        following = bisect_right(starts, starts[first] + step) - 1
        first = max(first + 1, min(following, end))


def read_in(spread: Sequence[Window], count: int) -> list[int]:
    """For each word the window in which it is farthest from both edges; of equal ones the earlier."""
    best = [(-1, 0)] * count
    for n, (first, end) in enumerate(spread):
        for word in range(first, min(end, count)):
            depth = min(word - first, end - 1 - word)
            if depth > best[word][0]:
                best[word] = (depth, n)
    return [n for _, n in best]
