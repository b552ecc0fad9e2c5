"""Exact and near duplicates of texts by MinHash (Broder 1997) with banding.

Near duplicates are folded texts (see `examples.fold`) whose sets of 5-grams (of UTF-8 bytes) have an estimated Jaccard
similarity of at least 0.8. The estimate is the share of equal values among 100 minima (standard error 0.04 at 0.8).
Candidates share one of 20 bands of 5 values; a pair at 0.8 is missed with probability 0.0004. Within a band each text
is compared with eight neighbours only, so that a thousand variants of one text do not cost a million comparisons. The
share of rows with a duplicate is still right; pairs are not counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.data import on_disk
from adapters.data.on_disk import take
from adapters.data.text_keys import TextKeys, text_hash

SHINGLE = 5
HASHES, BANDS = 100, 20
THRESHOLD = 0.8
NEIGHBOURS = 8
_CHUNK = 4_000_000
_PAIRS = 50_000

Sketch = NDArray[np.uint32]


def sketch(texts: Sequence[str]) -> Sketch:
    """MinHash signatures of folded texts, shape (texts, 100). About 10,000 texts a second."""
    out = _table(len(texts))
    rng = np.random.default_rng(1)
    factors = rng.integers(1, 2**63, HASHES, dtype=np.uint64) | np.uint64(1)
    offsets = rng.integers(0, 2**63, HASHES, dtype=np.uint64)
    start = 0
    for block in _blocks(texts):
        out[start : start + len(block)] = _minima(block, factors, offsets)
        start += len(block)
    return out


def _table(rows: int) -> Sketch:
    """Room for signatures: in a file where they are many, which the system keeps in memory as long as there is room."""
    if rows <= on_disk.HELD:
        return np.empty((rows, HASHES), dtype=np.uint32)
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, dtype=np.uint32, mode="w+", shape=(rows, HASHES))


def _blocks(texts: Sequence[str]) -> Iterator[list[bytes]]:
    """The texts in UTF-8, in blocks of about _CHUNK bytes."""
    block, size = list[bytes](), 0
    for text in texts:
        encoded = text.encode()
        block.append(encoded)
        size += len(encoded) + SHINGLE
        if size >= _CHUNK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _minima(texts: Sequence[bytes], factors: NDArray[np.uint64], offsets: NDArray[np.uint64]) -> Sketch:
    # Padding gives every text, the empty one too, at least one shingle, and keeps shingles from spanning two texts.
    padded = [text.ljust(SHINGLE, b"\0") for text in texts]
    sizes = np.array([len(text) for text in padded])
    letters = np.frombuffer(b"".join(padded), dtype=np.uint8).astype(np.uint64)
    codes = np.zeros(len(letters) - SHINGLE + 1, dtype=np.uint64)
    for n in range(SHINGLE):
        codes = codes * np.uint64(257) + letters[n : n + len(codes)]
    ends = np.cumsum(sizes)
    inside = np.ones(len(codes), dtype=bool)
    for n in range(1, SHINGLE):
        inside[(ends - n)[ends - n < len(codes)]] = False
    codes = codes[inside]
    starts = np.concatenate([[0], np.cumsum(sizes - SHINGLE + 1)[:-1]])
    out = np.empty((len(texts), HASHES), dtype=np.uint32)
    for n in range(HASHES):
        # Multiply-shift hashing: the upper half of an odd multiple (Dietzfelbinger et al. 1997).
        mixed = ((codes * factors[n] + offsets[n]) >> np.uint64(32)).astype(np.uint32)
        out[:, n] = np.minimum.reduceat(mixed, starts)
    return out


def repeats(signatures: Sketch) -> NDArray[np.bool_]:
    """Which texts are near duplicates of an earlier one."""
    near = np.zeros(len(signatures), dtype=bool)
    for keys in _bands(signatures):
        order = np.argsort(keys, kind="stable")
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            earlier, later = order[:-step], order[step:]
            same = keys[earlier] == keys[later]
            if not same.any():
                break
            a, b = earlier[same], later[same]
            near[b[_similar(signatures, a, signatures, b)]] = True
    return near


def matches(signatures: Sketch, others: Sketch) -> NDArray[np.bool_]:
    """Which texts have a near duplicate among other texts."""
    near = np.zeros(len(signatures), dtype=bool)
    if not len(others):
        return near
    for mine, theirs in zip(_bands(signatures), _bands(others), strict=True):
        order = np.argsort(theirs, kind="stable")
        ordered = theirs[order]
        low, high = np.searchsorted(ordered, mine, "left"), np.searchsorted(ordered, mine, "right")
        for step in range(NEIGHBOURS):
            here = np.nonzero((low + step < high) & ~near)[0]
            if not len(here):
                break
            near[here[_similar(signatures, here, others, order[low[here] + step])]] = True
    return near


def _similar(one: Sketch, a: NDArray[np.int64], other: Sketch, b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the pairs are alike: rows `a` of one, and `b` of the other."""
    out = np.zeros(len(a), dtype=bool)
    for start in range(0, len(a), _PAIRS):
        part = slice(start, start + _PAIRS)
        out[part] = (one[a[part]] == other[b[part]]).mean(axis=1) >= THRESHOLD
    return out


def _bands(signatures: Sketch) -> Iterator[NDArray[np.uint64]]:
    width = HASHES // BANDS
    for band in range(BANDS):
        key = np.zeros(len(signatures), dtype=np.uint64)
        for column in range(band * width, (band + 1) * width):
            key = (key ^ signatures[:, column]) * np.uint64(0x100000001B3)  # FNV-1a
        yield key


def inside(texts: Sequence[str]) -> dict[str, Any]:
    """Shares of (folded) texts that repeat an earlier one: `exact`, and `near`, which includes it."""
    _, first = np.unique(np.fromiter(map(text_hash, texts), dtype=np.uint64), return_index=True)
    unique = take(texts, np.sort(first))
    exact = len(texts) - len(unique)
    near = exact + int(repeats(sketch(unique)).sum())
    return {"exact": exact / (len(texts) or 1), "near": near / (len(texts) or 1)}


def across(texts: Sequence[str], others: Sequence[str], known: Sketch | None = None) -> dict[str, int]:
    """Numbers of (folded) texts that `others` (signatures `known`) hold too: `exact`, and `near`, exact included."""
    known_texts = TextKeys(np.fromiter(map(text_hash, others), dtype=np.uint64))
    rest = take(texts, np.flatnonzero(~known_texts.among(texts)))
    exact = len(texts) - len(rest)
    if not rest or not others:
        return {"exact": exact, "near": exact}
    signatures = sketch(others) if known is None else known
    return {"exact": exact, "near": exact + int(matches(sketch(rest), signatures).sum())}
