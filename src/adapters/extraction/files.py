"""Corpora as streams: JSONL, CSV and Parquet in, JSONL and Parquet out, in memory that does not grow with the file."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.data.rows import BAD_ROW, read_line
from adapters.errors import UserError, hint
from adapters.types import Row

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
INPUTS = (".jsonl", ".csv", ".parquet")
OUTPUTS = (".jsonl", ".parquet")
_BLOCK = 2048
"""Rows of a Parquet row group written, and of a batch read."""


def survey(path: Path) -> tuple[int, str]:
    """Number of records of an input file and the hash of its content, in one pass. Raises UserError."""
    if path.suffix.lower() not in INPUTS:
        raise UserError(f"{path.name}: an input file ends in {', '.join(INPUTS)}.")
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*") if p.suffix in INPUTS] if path.parent.is_dir() else []
        raise UserError(f"there is no file {path}.{hint(path.name, sorted(near)[:30])}")
    digest, rows = hashlib.sha256(), 0
    with _reading(path):
        if path.suffix.lower() == ".jsonl":
            with path.open("rb") as file:
                for line in file:
                    digest.update(line)
                    rows += not line.isspace()
            return rows, digest.hexdigest()
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            rows = pq.ParquetFile(path).metadata.num_rows
        else:
            rows = sum(1 for _ in _csv(path)) - 1
        with path.open("rb") as file:
            return max(rows, 0), hashlib.file_digest(file, "sha256").hexdigest()


def columns(path: Path) -> list[str]:
    """Column names: of a JSONL file those of its first hundred records."""
    with _reading(path):
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return list(pq.ParquetFile(path).schema_arrow.names)
        if path.suffix.lower() == ".csv":
            return next(_csv(path), [])
        first = islice((row for _, row in read(path, lambda n: True) if BAD_ROW not in row), 100)
        return list({name: None for row in first for name in row})


def read(path: Path, wanted: Callable[[int], bool], names: Iterable[str] | None = None) -> Iterator[tuple[int, Row]]:
    """The wanted records with their numbers, which count from 1; of a Parquet file only the named columns.

    A line that is no record comes as a row with the reason under `BAD_ROW`. Raises UserError for an unreadable file.
    """
    with _reading(path):
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path, wanted, names)
        elif path.suffix.lower() == ".csv":
            lines = _csv(path)
            header = next(lines, [])
            for n, cells in enumerate(lines, 1):
                if wanted(n):
                    yield n, dict(zip(header, cells, strict=False))
        else:
            with path.open("rb") as file:
                for n, line in enumerate((line for line in file if not line.isspace()), 1):
                    if wanted(n):
                        yield n, _record(line)


def _record(line: bytes) -> Row:
    return read_line(line.removeprefix(BOM_UTF8).decode("utf-8", "surrogateescape"))


def _csv(path: Path) -> Iterator[list[str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold a whole paper
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from (cells for cells in csv.reader(file) if cells)


def _parquet(path: Path, wanted: Callable[[int], bool], names: Iterable[str] | None) -> Iterator[tuple[int, Row]]:
    import pyarrow.parquet as pq

    first = 1
    for batch in pq.ParquetFile(path).iter_batches(_BLOCK, columns=list(names) if names is not None else None):
        numbers = [n for n in range(first, first + batch.num_rows) if wanted(n)]
        first += batch.num_rows
        if numbers:
            kept = batch.take([n - (first - batch.num_rows) for n in numbers])
            yield from zip(numbers, kept.to_pylist(), strict=True)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, csv.Error) as error:  # ValueError: bad UTF-8 or Parquet
        raise UserError(f"{path} cannot be read: {error}") from None


def write(path: Path, rows: Iterable[Mapping[str, Any]], schema: Mapping[str, Any]) -> int:
    """Write rows as they come; the file appears whole or not at all. Returns how many.

    `schema` is the JSON schema of the rows; in Parquet it decides the column types.
    """
    temporary = path.with_name(f".{path.name}.writing")
    try:
        count = (_write_parquet if path.suffix.lower() == ".parquet" else _write_lines)(temporary, rows, schema)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]], schema: Mapping[str, Any]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], schema: Mapping[str, Any]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    fields = {name: arrow_type(inner) for name, inner in schema["properties"].items()}
    table = pa.schema(list(fields.items()))
    with pq.ParquetWriter(path, table) as writer:
        for block in blocks(rows, _BLOCK):
            cells = [{name: _cell(row.get(name), kind) for name, kind in fields.items()} for row in block]
            writer.write_table(pa.Table.from_pylist(cells, schema=table))
            count += len(block)
    return count


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def arrow_type(schema: Mapping[str, Any], defs: Mapping[str, Any] = MappingProxyType({})) -> pa.DataType:
    """The Arrow type of a JSON schema; what has no fixed columns is JSON text."""
    import pyarrow as pa

    defs = schema.get("$defs", defs)
    if "$ref" in schema:
        return arrow_type(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema:
        kinds = [s for s in schema["anyOf"] if s.get("type") != "null"]
        return arrow_type(kinds[0], defs) if len(kinds) == 1 else pa.string()
    if schema.get("type") == "array" and "items" in schema:
        return pa.list_(arrow_type(schema["items"], defs))
    if schema.get("type") == "object" and schema.get("properties"):
        return pa.struct([(name, arrow_type(inner, defs)) for name, inner in schema["properties"].items()])
    plain = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    return plain.get(schema.get("type", ""), pa.string())


def _cell(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    as_text = kind == pa.string() and value is not None and not isinstance(value, str)
    return json.dumps(value, ensure_ascii=False) if as_text else value
