"""Columns of rows that nobody reads."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, ValuesView
from typing import Any, Final

SPOKEN: Final = ("system", "tools", "tool_calls", "history", "messages", "images", "instruction", "input")
"""Columns that data sets of conversations keep parts of the prompt in."""


class Noted(dict[str, Any]):
    """A row that notes which of its keys are read, one by one or all together."""

    def __init__(self, row: Any) -> None:
        super().__init__(row)
        self.read: set[str] = set()

    @property
    def unread(self) -> set[str]:
        """The keys with a value that nobody has read."""
        return {key for key in dict.keys(self) - self.read if dict.get(self, key) is not None}

    def __getitem__(self, key: str) -> Any:
        """The value of a key that is read."""
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key that is read, or the default."""
        self.read.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        """All keys, to be read."""
        self.read.update(super().keys())
        return super().__iter__()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """All keys and values, which are read."""
        self.read.update(super().keys())
        return super().items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """All values, which are read."""
        self.read.update(super().keys())
        return super().values()
