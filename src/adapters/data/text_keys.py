"""Sets of texts as sets of their hashes: eight bytes a text.

Two of ten million texts have one hash with a probability of 3e-6 (n^2 / 2^65).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Set
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


def text_hash(text: str) -> int:
    """The hash of a text, of 64 bits."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class TextKeys(Set[int]):
    """A set of hashes of texts."""

    def __init__(self, hashes: Iterable[int] | Hashes = ()) -> None:
        given = hashes if isinstance(hashes, np.ndarray) else np.fromiter(hashes, dtype=np.uint64)
        self.hashes: Hashes = np.unique(given)

    def __len__(self) -> int:
        """Number of different hashes."""
        return len(self.hashes)

    def __iter__(self) -> Iterator[int]:
        """The hashes in order."""
        return iter(self.hashes.tolist())

    def __contains__(self, key: object) -> bool:
        """Whether a hash is among them."""
        if not isinstance(key, int):
            return False
        place = np.searchsorted(self.hashes, np.uint64(key))
        return bool(place < len(self.hashes) and self.hashes[place] == key)

    def among(self, texts: Iterable[str]) -> NDArray[np.bool_]:
        """Which of the texts are in the set."""
        return np.isin(np.fromiter(map(text_hash, texts), dtype=np.uint64), self.hashes)

    def __and__(self, other: Any) -> TextKeys:
        """The hashes of both."""
        return TextKeys(np.intersect1d(self.hashes, TextKeys.of(other).hashes, assume_unique=True))

    @staticmethod
    def of(keys: Iterable[int]) -> TextKeys:
        """The set of given hashes."""
        return keys if isinstance(keys, TextKeys) else TextKeys(keys)

    @staticmethod
    def union(sets: Iterable[Iterable[int]]) -> TextKeys:
        """The hashes of all sets."""
        return reduce(lambda one, other: TextKeys(np.union1d(one.hashes, TextKeys.of(other).hashes)), sets, TextKeys())
