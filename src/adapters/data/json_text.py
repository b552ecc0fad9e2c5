"""JSON in data files: strict about repeated keys, and about labels that were not written as text."""

from __future__ import annotations

import ast
import datetime
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any, Final, TextIO


class RepeatedKeyError(ValueError):
    """An object that holds a key twice, of which a parser would keep one in silence."""


class Exponential(float):
    """A number that was written with an exponent: as text it may have been spelled in several ways."""


def repeated(names: list[str]) -> str:
    """The first name that is given twice."""
    return next(name for name in names if names.count(name) > 1)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise RepeatedKeyError(f"the key {repeated([name for name, _ in pairs])!r} stands in one object twice")
    return value


def _float(literal: str) -> float:
    return Exponential(literal) if "e" in literal or "E" in literal else float(literal)


DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_float)
CHUNK: Final = 1 << 16
"""Characters that are read at once of a file without lines."""
_SPACE: Final = re.compile(r"[ \t\n\r]*")
_REPR: Final = re.compile(r"\s*[\[({]+\s*'|.*\barray\(", re.DOTALL)


def from_text(name: str, text: str) -> Any:
    """The value of a column's JSON text. Raises ValueError, which says what the text is instead."""
    try:
        return DECODER.decode(text)
    except RepeatedKeyError as error:
        raise ValueError(f"{name}: {error}") from None
    except (ValueError, RecursionError) as error:
        if _is_repr(text):
            raise ValueError(
                f"{name} is Python's repr (single quotes, None), not JSON; write the column with json.dumps"
            ) from None
        raise ValueError(f"{name} is text, but not JSON: {error}") from None


def _is_repr(text: str) -> bool:
    if _REPR.match(text):
        return True
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return isinstance(ast.literal_eval(text[:100_000].strip()), list | tuple | dict)
    return False


def label_text(value: Any) -> str | None:
    """A label as the text that it was, None for a missing one (null, NaN). Raises ValueError.

    Whole numbers that a table holds as floats are whole numbers again: 1613002.0 is "1613002".
    """
    if value is None or isinstance(value, str):
        return value
    if type(value).__module__ == "numpy":
        value = value.item()
    if isinstance(value, float):
        if value != value:
            return None
        if value.is_integer() and abs(value) < 2**53 and not isinstance(value, Exponential):
            return str(int(value))
    elif isinstance(value, Decimal) and value.is_finite():
        return format(value, "f")
    elif isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    elif isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    raise ValueError(f"{str(value)[:40]!r} is of type {_type_name(value)}, not text; its spelling is not known")


def _type_name(value: Any) -> str:
    return "float" if isinstance(value, float) else type(value).__name__


class Values:
    """The values of an open JSON text: the items of its one list, or one value after another.

    Memory holds a chunk of the text, whatever its length and layout.
    """

    def __init__(self, file: TextIO) -> None:
        self.file, self.buffer, self.at, self.line = file, "", 0, 1
        self.is_list = self._next() == "["

    def __iter__(self) -> Iterator[Any]:
        """Values in order. Raises ValueError with the line."""
        if not self.is_list:
            while self._next():
                yield self._value()
            return
        self.at += 1
        if self._next() == "]":
            self.at += 1
        else:
            yield from self._items()
        if self._next():
            raise ValueError(f"{self._place()}: more text after the end of the list")

    def _items(self) -> Iterator[Any]:
        following = ","
        while following == ",":
            yield self._value()
            following = self._next()
            if following not in (",", "]"):
                raise ValueError(f"{self._place()}: not valid JSON: a record of the list is not followed by , or ]")
            self.at += 1
            self._next()

    def _value(self) -> Any:
        while True:
            try:
                value, end = DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                cut_off = error.pos > len(self.buffer) - 100 or "Unterminated" in error.msg
                if not (cut_off and self._more()):
                    raise ValueError(f"{self._place()}: not valid JSON: {error.msg}") from None
            except RepeatedKeyError as error:
                raise ValueError(f"{self._place()}: {error}") from None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{self._place()}: not valid JSON: {error}") from None
            else:
                start = self.at
                if end < len(self.buffer):
                    self.at = end
                    return value
                if not self._more():  # a number at the end of the chunk might go on in the next
                    self.at = end - start
                    return value

    def _next(self) -> str:
        """The next character that is no white space, or "" at the end."""
        while True:
            space = _SPACE.match(self.buffer, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        self.line += self.buffer.count("\n", 0, self.at)
        rest = self.buffer[self.at :]
        chunk = self.file.read(max(CHUNK, len(rest)))
        self.buffer, self.at = rest + chunk, 0
        return bool(chunk)

    def _place(self) -> str:
        return f"line {self.line + self.buffer.count(chr(10), 0, self.at)}"
