"""Which keys of a source's rows are read, so that a column that nothing reads is not lost without a word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from adapters.types import Row


class KeysRead:
    """Which keys of a source's rows were asked for, and in how many rows each has a value."""

    def __init__(self, read: Iterable[str] = ()) -> None:
        self.read, self.rows = set(read), Counter[str]()

    def of(self, row: Row) -> Row:
        """The row, which from now on notes the keys that are asked for."""
        self.rows.update([key for key, value in row.items() if value is not None])
        return _NotingRow(row, self.read)

    def unread(self) -> dict[str, int]:
        """Rows by key, of the keys that nobody asked for."""
        return {key: n for key, n in self.rows.items() if key not in self.read}


class _NotingRow(dict[str, Any]):
    """A copy of a row. Whoever goes through it, or copies it, may read all of it."""

    def __init__(self, row: Row, read: set[str]) -> None:
        super().__init__(row)
        self.read = read

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self.read.update(super().keys())
        return super().__iter__()

    def keys(self) -> Any:
        self.read.update(super().keys())
        return super().keys()

    def items(self) -> Any:
        self.read.update(super().keys())
        return super().items()

    def values(self) -> Any:
        self.read.update(super().keys())
        return super().values()
