"""Data files as streams of rows. A row that cannot be read holds the reason."""

from __future__ import annotations

import hashlib
import json
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from adapters.data import csv_text, data_file
from adapters.data.data_file import DataFile
from adapters.data.json_text import DECODER, RepeatedKeyError, Values, repeated
from adapters.errors import KeyPath, UserError, hint
from adapters.files import sha256
from adapters.types import Row

if TYPE_CHECKING:
    import pyarrow as pa

BAD_ROW: Final = "__unreadable__"
"""Column that marks an unreadable row; its value is the reason."""
BATCH: Final = 2048
"""Rows of an Arrow batch."""
TEXT_COLUMNS: Final = frozenset({"id", "text", "system", "prompt", "completion", "chosen", "rejected"})
"""Columns of a table that hold text, even if it is JSON; messages are the exception."""

Wanted = Callable[[int], bool]


def read_file(
    path: Path, *, at: KeyPath = (), strict: bool = False, texts: Iterable[str] = (), wanted: Wanted | None = None
) -> Iterator[tuple[int, Row]]:
    """Rows with their numbers (lines of a .jsonl file). Raises UserError, if `strict` also for the first bad row.

    A table's column is decoded from JSON if all its cells are lists or objects. `texts` are columns that hold text.
    `wanted` chooses rows, counted from 1.
    """
    with _reading(path, at) as file:
        structured = _structured_columns(file, TEXT_COLUMNS | set(texts)) if file.kind == "table" else ()
    for _, number, record in _stream(path, wanted, at=at):
        row = _decoded(record, structured) if structured else record
        if strict and BAD_ROW in row:
            raise UserError(f"{place(path, number)}: {row[BAD_ROW]}.", at=at)
        yield number, row


def place(path: Path, number: int) -> str:
    """File and number of a row of `read_file`, for messages."""
    with _reading(path) as file:
        return f"{path}, {file.number} {number}"


def read_records(
    path: Path, wanted: Wanted | None = None, columns: Iterable[str] | None = None
) -> Iterator[tuple[int, Row]]:
    """The wanted rows, numbered without gaps, cells of tables as text; of Parquet only `columns`. Raises UserError."""
    for index, _, row in _stream(path, wanted, columns):
        yield index, row


def column_names(path: Path) -> list[str]:
    """Column names; of JSON those of the first hundred records."""
    if (schema := arrow_schema(path)) is not None:
        return list(schema.names)
    with _reading(path) as file:
        if file.kind == "table":
            return _table(file)[0]
    first = islice((row for _, row in read_records(path) if row.keys() != {BAD_ROW}), 100)
    return list({name: None for row in first for name in row if name != BAD_ROW})


def arrow_schema(path: Path) -> pa.Schema | None:
    """The column types of a file that has any: Parquet, Arrow and folders of `datasets`. Raises UserError."""
    with _reading(path) as file:
        if file.kind == "parquet":
            import pyarrow.parquet as pq

            return pq.ParquetFile(path).schema_arrow
        return saved_dataset(path).features.arrow_schema if file.kind in ("saved", "arrow") else None


def survey(path: Path) -> tuple[int, str]:
    """Number of rows and SHA-256 of a data file. Raises UserError."""
    with _reading(path) as file:
        if file.kind == "saved":
            parts = sorted(path.glob("*.arrow"))
            return len(saved_dataset(path)), hashlib.sha256("".join(map(sha256, parts)).encode()).hexdigest()
        if file.kind == "parquet":
            import pyarrow.parquet as pq

            return pq.ParquetFile(path).metadata.num_rows, sha256(path)
        if file.kind == "lines":
            digest, count = hashlib.sha256(), 0  # a corpus may be large: as it is mostly stored, it is read once
            for line in file.lines():
                digest.update(line)
                count += not line.isspace()
            plain = file.encoding == "utf-8-sig" and path.suffix.lower() not in data_file.COMPRESSED
            return count, digest.hexdigest() if plain else sha256(path)
    return sum(1 for _ in _stream(path)), sha256(path)


def _stream(
    path: Path, wanted: Wanted | None = None, columns: Iterable[str] | None = None, *, at: KeyPath = ()
) -> Iterator[tuple[int, int, Row]]:
    """Index among the file's rows, from 1, number in messages (a .jsonl file's line), and row."""
    with _reading(path, at) as file:
        if file.kind in ("parquet", "arrow", "saved"):
            yield from _arrow(file, wanted, columns)
        elif file.kind == "lines":
            yield from _json_lines(file, wanted)
        else:
            rows = _json_values(file) if file.kind == "values" else _table(file)[1]
            yield from ((n, n, row) for n, row in enumerate(rows, 1) if wanted is None or wanted(n))


@contextmanager
def _reading(path: Path, at: KeyPath = ()) -> Iterator[DataFile]:
    """Check a data file, say what it is, and turn errors of reading it into a UserError."""
    if path.is_dir():
        _check_folder(path, at)
    elif not path.is_file():
        near = [p.name for p in path.parent.iterdir() if data_file.is_data_file(p)] if path.parent.is_dir() else []
        start = " Relative paths start from data_root." if at[:1] in (("stages",), ("evaluate",)) else ""
        raise UserError(f"there is no file {path}.{hint(path.name, sorted(near)[:30])}{start}", at=at)
    elif not data_file.is_data_file(path):
        raise UserError(f"{path.name}: a data file ends in {', '.join(data_file.SUFFIXES)}, or these with .gz.", at=at)
    try:
        yield data_file.examine(path)
    except data_file.FAULTS as error:
        raise UserError(f"{path}: cannot be read: {error}", at=at) from None


def _check_folder(path: Path, at: KeyPath) -> None:
    if not data_file.is_saved_dataset(path):
        source = "; a folder of data files is a source `hub: FOLDER`" if at else ""
        raise UserError(f"{path} is a folder that save_to_disk of datasets did not write{source}.", at=at)
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if (p / "state.json").is_file())
        raise UserError(f"{path} holds the splits {', '.join(splits)}; give one of them: {path / splits[0]}.", at=at)


def saved_dataset(path: Path) -> Any:
    """A folder of `save_to_disk`, or one Arrow file, as a dataset."""
    import datasets

    return datasets.Dataset.from_file(str(path)) if path.is_file() else datasets.load_from_disk(str(path))


def _json_lines(file: DataFile, wanted: Wanted | None) -> Iterator[tuple[int, int, Row]]:
    index = 0
    for number, line in enumerate(file.lines(), 1):
        if line.isspace():
            continue
        index += 1
        if wanted is None or wanted(index):
            yield index, number, _line(line)


def parsed(line: bytes) -> Any:
    """The value of a line of JSON. Raises ValueError with the reason."""
    try:
        return DECODER.decode(line.removeprefix(BOM_UTF8).decode())
    except UnicodeDecodeError:
        raise ValueError(csv_text.NOT_UTF8) from None
    except RepeatedKeyError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {error}") from None


def _line(line: bytes) -> Row:
    try:
        return _record(parsed(line))
    except ValueError as error:
        return {BAD_ROW: str(error)}


def _json_values(file: DataFile) -> Iterator[Row]:
    with file.text() as text:
        layout = Values(text)
        values = iter(layout)
        first = list(islice(values, 0 if layout.is_list else 2))
        if len(first) == 1 and isinstance(first[0], dict) and (lists := _lists_of_objects(first[0])):
            where = f"it is one object with the records under {lists[0]!r}" if len(lists) == 1 else "it is one object"
            raise ValueError(f"{where}, not a list of records; write the list alone to a file")
        yield from map(_record, first)
        yield from map(_record, values)


def _lists_of_objects(value: dict[str, Any]) -> list[str]:
    return [name for name, inner in value.items() if isinstance(inner, list) and inner and isinstance(inner[0], dict)]


def _record(value: Any) -> Row:
    return value if isinstance(value, dict) else {BAD_ROW: f"a record is an object, not {type(value).__name__}"}


def _table(file: DataFile) -> tuple[list[str], Iterator[Row]]:
    """Column names and rows of a CSV or TSV file. Raises ValueError for a header that cannot be read."""
    records = csv_text.records(_lines_of(file), file.separator)
    _, header = next(records, (0, []))
    if isinstance(header, str):
        raise ValueError(header)
    _check_columns(header)
    names = header
    rows = (
        {BAD_ROW: cells} if isinstance(cells, str) else dict(zip(names, cells, strict=True)) for _, cells in records
    )
    return names, rows


def _lines_of(file: DataFile) -> Iterator[str]:
    with file.text() as text:
        yield from text


def _check_columns(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"it has two columns {repeated(names)!r}")


def _structured_columns(file: DataFile, texts: frozenset[str] | set[str]) -> tuple[str, ...]:
    """The columns whose cells, where not empty, are all JSON lists or objects; of those that hold text, messages."""
    names, rows = _table(file)
    open_columns, found = set(names), set[str]()
    for row in rows:
        for name in tuple(open_columns) if BAD_ROW not in row else ():
            cell = row[name]
            if not cell or cell.isspace():
                continue
            if _is_structure(cell, messages=name in texts):
                found.add(name)
            else:
                open_columns.discard(name)
        if not open_columns:
            return ()
    return tuple(name for name in names if name in open_columns & found)


def _is_structure(cell: str, *, messages: bool) -> bool:
    if cell.lstrip()[:1] not in ("[", "{"):
        return False
    try:
        value = json.loads(cell)  # keys are checked when a row is decoded
    except (ValueError, RecursionError):
        return False
    return not messages or (isinstance(value, list) and bool(value) and all(map(_is_message, value)))


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= set(value)


def _decoded(row: Row, columns: Sequence[str]) -> Row:
    if BAD_ROW in row:
        return row
    out = dict(row)
    for name in columns:
        try:
            out[name] = DECODER.decode(row[name]) if row[name].strip() else row[name]
        except RepeatedKeyError as error:
            return {BAD_ROW: f"{name}: {error}"}
    return out


def _arrow(file: DataFile, wanted: Wanted | None, columns: Iterable[str] | None) -> Iterator[tuple[int, int, Row]]:
    first = 1
    for batch in _batches(file, None if columns is None else list(columns)):
        numbers = [n for n in range(first, first + batch.num_rows) if wanted is None or wanted(n)]
        chosen = batch if len(numbers) == batch.num_rows else batch.take([n - first for n in numbers])
        first += batch.num_rows
        yield from zip(numbers, numbers, arrow_rows(chosen), strict=True)


def _batches(file: DataFile, columns: list[str] | None) -> Iterator[Any]:
    if file.kind != "parquet":
        table = saved_dataset(file.path)
        yield from arrow_batches(table if columns is None else table.select_columns(columns))
        return
    import pyarrow.parquet as pq

    parquet = pq.ParquetFile(file.path)
    _check_columns(parquet.schema_arrow.names)
    yield from parquet.iter_batches(BATCH, columns=columns)


def arrow_batches(dataset: Any) -> Iterator[pa.Table]:
    """The rows of a dataset as they are stored: no file is decoded, no type is turned into another."""
    return dataset.with_format("arrow").iter(batch_size=BATCH)  # type: ignore[no-any-return]


def arrow_rows(batch: Any) -> list[dict[str, Any]]:
    """The rows of a batch. Arguments and parameters of tools lose nulls: Arrow gives each the keys of all others."""
    rows: list[dict[str, Any]] = batch.to_pylist()
    for column in (field.name for field in batch.schema if _has_open_objects(field.type)):
        for row in rows:
            row[column] = _without_nulls(row[column])
    return rows


_OPEN: Final = ("arguments", "parameters")


def _has_open_objects(kind: pa.DataType) -> bool:
    inner = [kind.field(n) for n in range(kind.num_fields)]
    return any((field.name in _OPEN and field.type.num_fields) or _has_open_objects(field.type) for field in inner)


def _without_nulls(value: Any, inside: bool = False) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item, inside) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: item for key, item in value.items() if not (inside and item is None)}
    return {key: _without_nulls(item, inside or key in _OPEN) for key, item in kept.items()}
