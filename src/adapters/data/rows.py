"""Data files as rows: what is no record is a row that says why, so that one bad line costs one row."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

from adapters.errors import KeyPath, UserError, hint
from adapters.types import Row

READERS: Final = (".jsonl", ".json", ".csv", ".parquet")
BAD_ROW: Final = "__unreadable__"
"""Column that marks a line which is no record; the reason is its value, and the row is counted as rejected."""


class RepeatedKeyError(ValueError):
    """A key stands in one object twice: whichever of its values were taken, the other would be lost in silence."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise RepeatedKeyError(f"the key {repeated!r} stands in one object twice")
    return value


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)
# How Python reads bytes that are not UTF-8, when it is told to go on.
_UNDECODED: Final = re.compile("[\udc80-\udcff]")


def read_file(path: Path, *, at: KeyPath = ()) -> list[tuple[int, Row]]:
    """Rows of a .jsonl, .json, .csv or .parquet file with their 1-based row (for .jsonl: line) numbers."""
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir() if p.suffix in READERS] if path.parent.is_dir() else []
        start = " Relative paths start from data_root." if at[:1] in (("stages",), ("evaluate",)) else ""
        raise UserError(f"there is no file {path}.{hint(path.name, sorted(near)[:30])}{start}", at=at)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(f"{path.name}: a data file ends in {', '.join(READERS)}.", at=at)
    try:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
            _check_columns(table.column_names)
            return list(enumerate(table.to_pylist(), 1))
        if suffix == ".csv":
            csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole paper
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                _check_columns(rows.fieldnames or ())
                return [(n, _cells(row)) for n, row in enumerate(rows, 1)]
        if suffix == ".json":
            value = _DECODER.decode(path.read_text(encoding="utf-8-sig"))
            if not isinstance(value, list):
                raise UserError(f"{path}: a .json data file holds one list of records.", at=at)
            return [(n, _record(row)) for n, row in enumerate(value, 1)]
        with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            return [(n, read_line(line)) for n, line in enumerate(file, 1) if line.strip()]
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # ValueError: bad UTF-8, JSON or Parquet
        raise UserError(f"{path}: cannot be read: {error}", at=at) from None


def read_line(line: str) -> Row:
    """A line of a .jsonl file, read with `surrogateescape`, as a row; a line that is no record says why."""
    if not line.isascii() and _UNDECODED.search(line):
        return {BAD_ROW: "not valid UTF-8"}
    try:
        return _record(_DECODER.decode(line))
    except RepeatedKeyError as error:
        return {BAD_ROW: str(error)}
    except (ValueError, RecursionError) as error:
        return {BAD_ROW: f"not valid JSON: {error}"}


def _record(value: Any) -> Row:
    return value if isinstance(value, dict) else {BAD_ROW: f"a record is an object, not {type(value).__name__}"}


def _check_columns(names: Any) -> None:
    if len(set(names)) < len(names):
        repeated = next(name for name in names if list(names).count(name) > 1)
        raise ValueError(f"it has two columns {repeated!r}")


def _cells(row: dict[str, Any]) -> Row:
    # Structured cells of a CSV are JSON; anything that does not parse is the text it looks like.
    if None in row:
        return {BAD_ROW: "more cells than the file has columns"}
    out = {}
    for key, value in row.items():
        out[key] = value
        if isinstance(value, str) and value[:1] in ("[", "{"):
            try:
                out[key] = _DECODER.decode(value)
            except RepeatedKeyError as error:
                return {BAD_ROW: f"{key}: {error}"}
            except (ValueError, RecursionError):
                continue
    return out
