"""CSV and TSV as RFC 4180 has them, with a reason for each record that cannot be told apart."""

from __future__ import annotations

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

LONGEST_CELL: Final = 1 << 24
"""Characters of a cell. A longer one began with a quote that nobody closed."""
SEPARATORS: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
SAMPLED: Final = 200
"""Records by which the separator is judged."""
UNCLOSED: Final = "a quote is not closed, or stands undoubled inside a quoted cell"
LONE: Final = "a quote stands alone; a cell that holds one is put in quotes, and its own quotes are doubled"
NOT_UTF8: Final = "not valid UTF-8"
_SURROGATE: Final = re.compile("[\udc80-\udcff]")
_SIGN: Final = re.compile(r"\w[\"']?([^\w\s\"'.()\[\]-])[\"']?\w")
"""What may separate two names of a header."""
_NAMED: Final = re.compile(r'"?sep=(.)"?[\r\n]*\Z')

Record = tuple[int, list[str] | str]
"""A record's first line, and its cells, or why there are none."""


def records(lines: Iterable[str], separator: str) -> Iterator[Record]:
    """Records of a table, the header first; blank lines are none.

    An unclosed quote would swallow the records after it, so that only its own line is given up.
    """
    csv.field_size_limit(LONGEST_CELL)
    source, again, taken = iter(lines), deque[str](), list[str]()

    def following() -> Iterator[str]:
        while line := again.popleft() if again else next(source, ""):
            taken.append(line)
            yield line

    number, width, reader = 1, 0, csv.reader(following(), delimiter=separator, strict=True)
    while True:
        taken.clear()
        try:
            cells = next(reader)
            swallowed = len(taken) > 1 and bool(width) and _swallowed(taken, cells, width, separator)
        except StopIteration:
            return
        except csv.Error:
            swallowed = True
        if swallowed:
            yield number, f"line {number}: {UNCLOSED}"
            again.extendleft(reversed(taken[1:]))
            number, reader = number + 1, csv.reader(following(), delimiter=separator, strict=True)
        elif cells and not (number == 1 and _NAMED.match(taken[0])):
            yield number, _fault(number, taken, cells, width) or cells
            width = width or len(cells)
            number += len(taken)
        else:
            number += len(taken)


def _fault(number: int, taken: Sequence[str], cells: Sequence[str], width: int) -> str:
    """Why the cells of a record cannot be trusted, or nothing."""
    place = f"line {number}" if len(taken) == 1 else f"lines {number} to {number + len(taken) - 1}"
    if any(not line.isascii() and _SURROGATE.search(line) for line in taken):
        return f"{place}: {NOT_UTF8}"
    if width and len(cells) != width:
        return f"{place}: {len(cells)} cell{'s' * (len(cells) != 1)}, but the header has {width}"
    if sum(line.count('"') for line in taken) % 2:
        return f"{place}: {LONE}"
    return ""


def _swallowed(taken: Sequence[str], cells: Sequence[str], width: int, separator: str) -> bool:
    """Whether the lines that a quoted cell goes on over are records of their own.

    They are if the record does not fit the header and all lines between do, or if one starts with an id like its own.
    """
    alone = [next(csv.reader([line], delimiter=separator), []) for line in taken[1:]]
    if len(cells) != width:
        return len(alone) > 1 and all(len(inner) == width for inner in alone[:-1])
    own = _id_shape(cells[0])
    return bool(own) and any(len(inner) == width and _id_shape(inner[0]) == own for inner in alone)


def _id_shape(cell: str) -> str:
    """An id's length and punctuation; nothing for a cell without a digit, which may be any text."""
    return re.sub(r"[^\W_]", "x", cell) if any(c.isdigit() for c in cell) else ""


def separator(text: str, usual: str, *, cut: bool = False) -> str:
    """The separator on which header and rows of a table's beginning agree. Raises ValueError where none is certain.

    `usual` is that of the file's name, which is taken when it fits, or when nothing else could be meant.
    """
    lines = list(io.StringIO(text, newline=""))
    if lines and (named := _NAMED.match(lines[0].removeprefix("\ufeff"))):
        return named[1]
    last = len(lines) // 2 if cut else len(lines)  # a record at the cut is no evidence
    header: dict[str, int] = {}
    fitting: list[str] = []
    for candidate in SEPARATORS:
        found = [cells for _, cells in _sample(lines, candidate, last)]
        widths = [len(cells) for cells in found if not isinstance(cells, str)]
        header[candidate] = len(found[0]) if found and not isinstance(found[0], str) else 0
        if header[candidate] > 1 and all(width == header[candidate] for width in widths):
            fitting.append(candidate)
    if usual in fitting:
        return usual
    if len(fitting) == 1:
        return fitting[0]
    others = fitting or [candidate for candidate in SEPARATORS if header[candidate] > 1]
    if not others and lines and (sign := _SIGN.search(lines[0])) and sign[1] not in SEPARATORS:
        raise ValueError(
            f"its header {lines[0].strip()[:60]!r} is separated by {sign[1]!r}; save it with {SEPARATORS[usual]} "
            "between the cells, and quotes around cells that hold one"
        )
    if header[usual] > 1 or not others:
        return usual
    names = " or ".join(SEPARATORS[candidate] for candidate in others)
    raise ValueError(
        f"its header is not separated by {SEPARATORS[usual]}, but it seems by {names}, on which not all rows agree; "
        f"save it with {SEPARATORS[usual]} between the cells, and quotes around cells that hold one"
    )


def _sample(lines: Sequence[str], separator: str, last: int) -> list[Record]:
    """The first records; of those that do not fit the header the cells, as they are the evidence."""
    out: list[Record] = []
    for number, cells in records(lines, separator):
        if out and number > last:
            break
        if isinstance(cells, str) and "but the header has" in cells:
            cells = []
        out.append((number, cells))
        if len(out) == SAMPLED:
            break
    return out
