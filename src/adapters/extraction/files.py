"""Output of an extraction: JSONL and Parquet files, in memory that does not grow with their size."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from adapters.errors import UserError
from adapters.files import replacing, write_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
OUTPUTS = (".jsonl", ".parquet")
_ROW_GROUP = 2048
"""Rows of a Parquet row group."""


def check_output(path: Path) -> None:
    """Raise UserError for an output file of another format, or in a folder that does not exist."""
    if path.suffix.lower() not in OUTPUTS:
        raise UserError(f"-o {path}: an output file ends in {' or '.join(OUTPUTS)}.")
    if not path.parent.is_dir():
        raise UserError(f"-o {path}: there is no folder {path.parent}.")


def write(path: Path, rows: Iterable[Mapping[str, Any]], schema: Mapping[str, Any]) -> int:
    """Replace a file by rows whose JSON schema (and Parquet columns) is `schema`. Returns how many."""
    if path.suffix.lower() != ".parquet":
        return write_jsonl(path, rows)
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    fields = {name: arrow_type(inner) for name, inner in schema["properties"].items()}
    table = pa.schema(list(fields.items()))
    with replacing(path) as temporary, pq.ParquetWriter(temporary, table) as writer:
        for block in blocks(rows, _ROW_GROUP):
            cells = [{name: _cell(row.get(name), kind) for name, kind in fields.items()} for row in block]
            writer.write_table(pa.Table.from_pylist(cells, schema=table))
            count += len(block)
    return count


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def arrow_type(schema: Mapping[str, Any], defs: Mapping[str, Any] = MappingProxyType({})) -> pa.DataType:
    """The Arrow type of a JSON schema; a value without fixed columns is JSON text."""
    import pyarrow as pa

    if "arrow" in schema:
        fields: pa.Schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(schema["arrow"])))
        return fields.field(0).type
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


def column_schema(kind: pa.DataType) -> dict[str, Any]:
    """The JSON schema of a column of an Arrow type, with that type, which `arrow_type` gives back."""
    import pyarrow as pa

    kind = _storable(kind)
    names = {"boolean": pa.types.is_boolean, "integer": pa.types.is_integer, "number": pa.types.is_floating}
    names |= {"array": _is_list, "object": pa.types.is_struct}
    name = next((name for name, fits in names.items() if fits(kind)), "string")
    stored = pa.schema([("column", kind)]).serialize().to_pybytes()
    return {"type": name, "arrow": base64.b64encode(stored).decode()}


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _storable(kind: pa.DataType) -> pa.DataType:
    """The type in which a column can be written again from JSON; a type of few programs is text."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _storable(kind.value_type)
    if _is_list(kind):
        return pa.list_(_storable(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(field.name, _storable(field.type)) for field in kind])
    as_is = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_date, types.is_timestamp)
    return kind if any(fits(kind) for fits in (*as_is, types.is_binary)) else pa.string()


def _cell(value: Any, kind: pa.DataType) -> Any:
    """A value of JSON as one of a column's type."""
    import pyarrow as pa

    if value is None:
        return None
    if _is_list(kind):
        return [_cell(item, kind.value_type) for item in value]
    if pa.types.is_struct(kind):
        return {field.name: _cell(value.get(field.name), field.type) for field in kind}
    if kind == pa.string():
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not isinstance(value, str):
        return value
    return base64.b64decode(value) if pa.types.is_binary(kind) else pa.scalar(value).cast(kind)
