"""Data files as streams of rows. A row that cannot be read holds the reason."""

from __future__ import annotations

import csv
import hashlib
import json
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final

from adapters.errors import KeyPath, UserError, hint
from adapters.files import sha256
from adapters.types import Row

READERS: Final = (".jsonl", ".json", ".csv", ".parquet")
BAD_ROW: Final = "__unreadable__"
"""Column that marks an unreadable row; its value is the reason."""
BATCH: Final = 2048
"""Rows of a Parquet batch."""
LONGEST_CELL: Final = 1 << 24
"""Characters of a CSV cell. A longer one began with a quote that nobody closed."""

Wanted = Callable[[int], bool]


def read_file(path: Path, *, at: KeyPath = (), strict: bool = False) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers (lines of a .jsonl file). Raises UserError, if `strict` also for the first bad row."""
    cells = path.suffix.lower() == ".csv"
    for _, number, record in _stream(path, at=at):
        row = _decoded(record) if cells else record
        if strict and BAD_ROW in row:
            raise UserError(f"{place(path, number)}: {row[BAD_ROW]}.", at=at)
        yield number, row


def place(path: Path, number: int) -> str:
    """File and number of a row of `read_file`, for messages."""
    return f"{path}, {'line' if path.suffix.lower() == '.jsonl' else 'row'} {number}"


def read_records(
    path: Path, wanted: Wanted | None = None, columns: Iterable[str] | None = None
) -> Iterator[tuple[int, Row]]:
    """The wanted rows, numbered without gaps, CSV cells as text; of Parquet only `columns`. Raises UserError."""
    for index, _, row in _stream(path, wanted, columns):
        yield index, row


def column_names(path: Path) -> list[str]:
    """Column names; of JSON those of the first hundred records."""
    with _reading(path):
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.ParquetFile(path).schema_arrow.names)
        if path.suffix.lower() == ".csv":
            return _header(_csv_records(path))
    first = islice((row for _, row in read_records(path) if BAD_ROW not in row), 100)
    return list({name: None for row in first for name in row})


def survey(path: Path) -> tuple[int, str]:
    """Number of rows and SHA-256 of a data file. Raises UserError."""
    with _reading(path) as suffix:
        if suffix == ".parquet":
            import pyarrow.parquet as pq

            return pq.ParquetFile(path).metadata.num_rows, sha256(path)
        if suffix == ".csv":
            return max(sum(1 for _ in _csv_records(path)) - 1, 0), sha256(path)
        if suffix == ".json":
            return sum(1 for _ in _json(path, None)), sha256(path)
        digest, count = hashlib.sha256(), 0  # a corpus may be large: it is read once for both
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                count += not line.isspace()
        return count, digest.hexdigest()


def _stream(
    path: Path, wanted: Wanted | None = None, columns: Iterable[str] | None = None, *, at: KeyPath = ()
) -> Iterator[tuple[int, int, Row]]:
    """Index among the file's rows, from 1, number in messages (a .jsonl file's line), and row."""
    with _reading(path, at) as suffix:
        if suffix == ".parquet":
            yield from _parquet(path, wanted, columns)
        else:
            yield from {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[suffix](path, wanted)


@contextmanager
def _reading(path: Path, at: KeyPath = ()) -> Iterator[str]:
    """Check a data file, give its suffix, and turn errors of reading it into a UserError."""
    if not path.is_file():
        near = [p.name for p in path.parent.iterdir() if p.suffix in READERS] if path.parent.is_dir() else []
        start = " Relative paths start from data_root." if at[:1] in (("stages",), ("evaluate",)) else ""
        raise UserError(f"there is no file {path}.{hint(path.name, sorted(near)[:30])}{start}", at=at)
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(f"{path.name}: a data file ends in {', '.join(READERS)}.", at=at)
    try:
        yield suffix
    except (OSError, ValueError, RecursionError, csv.Error) as error:  # ValueError: bad UTF-8, JSON or Parquet
        raise UserError(f"{path}: cannot be read: {error}", at=at) from None


class RepeatedKeyError(ValueError):
    """An object that holds a key twice, of which a parser would keep one in silence."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise RepeatedKeyError(f"the key {_repeated([name for name, _ in pairs])!r} stands in one object twice")
    return value


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique)


def _jsonl(path: Path, wanted: Wanted | None) -> Iterator[tuple[int, int, Row]]:
    index = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            index += 1
            if wanted is None or wanted(index):
                yield index, number, _line(line)


def _line(line: bytes) -> Row:
    try:
        return _record(_DECODER.decode(line.removeprefix(BOM_UTF8).decode()))
    except UnicodeDecodeError:
        return {BAD_ROW: "not valid UTF-8"}
    except RepeatedKeyError as error:
        return {BAD_ROW: str(error)}
    except (ValueError, RecursionError) as error:
        return {BAD_ROW: f"not valid JSON: {error}"}


def _json(path: Path, wanted: Wanted | None) -> Iterator[tuple[int, int, Row]]:
    value = _DECODER.decode(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, list):
        raise ValueError("a .json data file holds one list of records")
    yield from ((n, n, _record(row)) for n, row in enumerate(value, 1) if wanted is None or wanted(n))


def _record(value: Any) -> Row:
    return value if isinstance(value, dict) else {BAD_ROW: f"a record is an object, not {type(value).__name__}"}


def _csv(path: Path, wanted: Wanted | None) -> Iterator[tuple[int, int, Row]]:
    records = _csv_records(path)
    header = _header(records)
    for n, (line, cells) in enumerate(records, 1):
        if wanted is not None and not wanted(n):
            continue
        if isinstance(cells, str):
            yield n, n, {BAD_ROW: cells}
        elif len(cells) != len(header):
            count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
            yield n, n, {BAD_ROW: f"line {line}: {count}, but the header has {len(header)}"}
        else:
            yield n, n, dict(zip(header, cells, strict=True))


def _csv_records(path: Path) -> Iterator[tuple[int, list[str] | str]]:
    """Cells of each CSV record, or why they cannot be told apart, with the record's first line.

    An unclosed quote would swallow the records after it, so that only its own line is given up.
    """
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        again: deque[str] = deque()
        taken: list[str] = []

        def lines() -> Iterator[str]:
            while line := again.popleft() if again else next(file, ""):
                taken.append(line)
                yield line

        number, reader = 1, csv.reader(lines(), strict=True)
        while True:
            taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield number, f"line {number}: a quote is not closed, or stands undoubled inside a quoted cell"
                again.extendleft(reversed(taken[1:]))
                number, reader = number + 1, csv.reader(lines(), strict=True)
                continue
            if cells:
                yield number, cells
            number += len(taken)


def _header(records: Iterator[tuple[int, list[str] | str]]) -> list[str]:
    _, names = next(records, (0, []))
    if isinstance(names, str):
        raise ValueError(names)
    _check_columns(names)
    return names


def _check_columns(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"it has two columns {_repeated(names)!r}")


def _repeated(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _decoded(row: Row) -> Row:
    out = dict(row)
    for key, value in row.items() if BAD_ROW not in row else ():
        if value[:1] in ("[", "{"):
            try:
                out[key] = _DECODER.decode(value)
            except RepeatedKeyError as error:
                return {BAD_ROW: f"{key}: {error}"}
            except (ValueError, RecursionError):
                continue
    return out


def _parquet(path: Path, wanted: Wanted | None, columns: Iterable[str] | None) -> Iterator[tuple[int, int, Row]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    _check_columns(file.schema_arrow.names)
    first = 1
    for batch in file.iter_batches(BATCH, columns=None if columns is None else list(columns)):
        numbers = [n for n in range(first, first + batch.num_rows) if wanted is None or wanted(n)]
        chosen = batch if len(numbers) == batch.num_rows else batch.take([n - first for n in numbers])
        first += batch.num_rows
        yield from zip(numbers, numbers, chosen.to_pylist(), strict=True)
