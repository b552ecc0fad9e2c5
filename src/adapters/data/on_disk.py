"""Sequences that do not grow in memory: a few items in a list, many in a temporary file of this process.

The file has no name where the system allows that: it is gone with the process, however that ends. It is made in the
folder that TMPDIR names. An item costs eight bytes of memory, for the place where it ends in the file.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import IO, Any, Final, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

HELD: Final = 10_000
"""Items up to which a sequence is held in memory."""
_BUFFER: Final = 1 << 20
"""Bytes that are written at once."""
_BLOCK: Final = 256
"""Items that are read at once."""

Item = TypeVar("Item")


class Store(Generic[Item]):
    """Items in the order in which they are added; `take` chooses from them.

    What cannot be pickled stays in memory, with all other items. Threads and forked processes may read at once.
    """

    def __init__(self) -> None:
        self._held: list[Item] | None = []
        self._most: float = HELD
        self._file: IO[bytes] | None = None
        self._ends = array("q", [0])
        self._written = 0
        self._unwritten = bytearray()

    def __len__(self) -> int:
        """Number of items."""
        return len(self._ends) - 1 if self._held is None else len(self._held)

    def append(self, item: Item) -> None:
        """Add an item."""
        if self._held is None:
            try:
                self._write(item)
            except OSError:  # the disk is full
                raise
            except Exception:  # anybody's objects may refuse to be pickled, with any error
                self._hold([*self.read(np.arange(len(self))), item])
            return
        self._held.append(item)
        if len(self._held) > self._most:
            self._move(self._held)

    def _move(self, items: list[Item]) -> None:
        """Move the items to disk."""
        try:
            pickle.loads(pickle.dumps(items[0]))  # noqa: S301 - its own bytes
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is open as long as the store is
            for item in items:
                self._write(item)
        except OSError:
            raise
        except Exception:
            self._hold(items)
        else:
            self._held = None

    def _hold(self, items: list[Item]) -> None:
        """Keep all items in memory from now on."""
        self._held, self._most, self._file = items, float("inf"), None
        self._ends, self._unwritten = array("q", [0]), bytearray()

    def _write(self, item: Item) -> None:
        self._unwritten += pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        self._ends.append(self._written + len(self._unwritten))
        if len(self._unwritten) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._file is not None and self._unwritten:
            with memoryview(self._unwritten) as rest:
                done = 0
                while done < len(rest):
                    done += os.pwrite(self._file.fileno(), rest[done:], self._written + done)
            self._written += len(self._unwritten)
            self._unwritten = bytearray()

    def item(self, n: int) -> Item:
        """The n-th item."""
        return self._held[n] if self._held is not None else self._decode(*self._ends[n : n + 2])

    def read(self, indices: NDArray[np.int64]) -> Iterator[Item]:
        """The items of these numbers, in this order."""
        for first in range(0, len(indices), _BLOCK):
            block = indices[first : first + _BLOCK]
            if self._held is not None:
                yield from (self._held[n] for n in block)
            else:
                yield from self._read(block)

    def _read(self, block: NDArray[np.int64]) -> Iterator[Item]:
        ends = np.frombuffer(self._ends, dtype=np.int64)
        starts, stops = ends[block], ends[block + 1]
        del ends  # the array cannot grow as long as it is looked into
        low, high = int(starts.min()), int(stops.max())
        if high - low > 2 * int((stops - starts).sum()):  # far apart: one by one
            yield from (self._decode(a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True))
            return
        data, last = memoryview(self._bytes(low, high)), -1
        for a, b in zip((starts - low).tolist(), (stops - low).tolist(), strict=True):
            if a != last:  # else it is repeated
                item, last = pickle.loads(data[a:b]), a  # noqa: S301 - this process wrote it
            yield item

    def _decode(self, start: int, stop: int) -> Item:
        item: Item = pickle.loads(self._bytes(start, stop))  # noqa: S301 - this process wrote it
        return item

    def _bytes(self, start: int, stop: int) -> bytes:
        """Bytes of the file. It is read by place, as others share its position, and not mapped into memory."""
        if stop > self._written:
            self._flush()
        assert self._file is not None  # noqa: S101 - nothing is read of a store that is held
        parts, number = [], self._file.fileno()
        while start < stop and (part := os.pread(number, stop - start, start)):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def settle(self) -> list[Item] | None:
        """All items, if they are in memory; else all are on disk from now on, and threads may read them."""
        self._flush()
        return self._held


class Taken(Sequence[Item]):
    """Chosen items of a store. They are decoded anew at every access: what holds them, holds them in memory."""

    def __init__(self, store: Store[Item], indices: NDArray[np.int64]) -> None:
        self.store, self.indices = store, indices

    def __len__(self) -> int:
        """Number of items."""
        return len(self.indices)

    def __iter__(self) -> Iterator[Item]:
        """The items, read in blocks."""
        return self.store.read(self.indices)

    def __reversed__(self) -> Iterator[Item]:
        """The items from the last one, read in blocks."""
        return self.store.read(self.indices[::-1])

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | Sequence[Item]:
        """An item, or a part."""
        if isinstance(at, slice):
            return Taken(self.store, self.indices[at])
        return self.store.item(int(self.indices[at]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets a list."""
        return list, (list(self),)


class Joined(Sequence[Item]):
    """Sequences one behind the other, to be read from the start."""

    def __init__(self, parts: Sequence[Sequence[Item]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        """Number of items."""
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Item]:
        """The items."""
        return chain.from_iterable(self.parts)

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> list[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | list[Item]:
        """An item, or a part."""
        places = range(len(self))[at]
        if isinstance(places, range):
            return list(islice(self, places.start, places.stop, places.step))
        return next(islice(self, places, None))


def take(items: Store[Item] | Sequence[Item], indices: NDArray[np.int64]) -> Sequence[Item]:
    """The items of these numbers, in this order: a list of what is in memory."""
    if isinstance(items, Taken):
        return Taken(items.store, items.indices[indices])
    if isinstance(items, Store):
        held = items.settle()
        if held is None:
            return Taken(items, indices)
        items = held
    return [items[n] for n in indices.tolist()]


def collect(items: Iterable[Item]) -> Sequence[Item]:
    """The items as a sequence."""
    store = Store[Item]()
    for item in items:
        store.append(item)
    return take(store, np.arange(len(store)))


def settled(items: Sequence[Item]) -> Sequence[Item]:
    """The items as they do not change: a tuple of what is in memory."""
    return items if isinstance(items, Taken) else tuple(items)
