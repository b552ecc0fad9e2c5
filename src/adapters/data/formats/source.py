"""A file or folder of annotations: what it holds by its first bytes, and its records."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from adapters.data.data_file import is_saved_dataset
from adapters.data.json_text import DECODER
from adapters.data.rows import BAD_ROW, read_records, saved_dataset

HEAD = 1 << 20
"""Bytes by which a file is recognised."""
FIRST = 500
"""Records by which a format is recognised."""
_MAGIC = {
    b"\xff\xfe": "is UTF-16; save it as UTF-8 (iconv -f utf-16 -t utf-8)",
    b"\xfe\xff": "is UTF-16; save it as UTF-8 (iconv -f utf-16 -t utf-8)",
    b"\x1f\x8b": "is compressed with gzip; unpack it first",
    b"PK\x03\x04": "is a zip archive (or an Office document); unpack it first",
}
_JSON = re.compile(r'\s*[\[{]\s*(?:["\[{\]}]|-?\d|null|true|false)')


@dataclass
class Source:
    """A file or folder. `count` is the number of records given so far."""

    path: Path
    count: int = field(default=0, init=False)

    @cached_property
    def kind(self) -> str:
        """What the first bytes are: jsonl, json, xml, parquet, text; or dataset, folder. Raises ValueError, OSError."""
        if self.path.is_dir():
            return "dataset" if is_saved_dataset(self.path) else "folder"
        with self.path.open("rb") as file:
            first = file.read(4)
        if first == b"PAR1":
            return "parquet"
        for magic, fault in _MAGIC.items():
            if first.startswith(magic):
                raise ValueError(fault)
        if "\0" in self.head:
            raise ValueError("holds NUL bytes, so that it is no text; export it as JSON lines")
        if self.head.lstrip().startswith("<"):
            return "xml"
        return self._kind_of_json() if _JSON.match(self.head) else "text"

    def _kind_of_json(self) -> str:
        line, _, rest = self.head.lstrip().partition("\n")
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            # The head ends within a first line that is longer.
            return "jsonl" if len(line) >= HEAD // 4 and line.startswith("{") else "json"
        return "jsonl" if rest.strip() or line.startswith("{") else "json"

    @cached_property
    def head(self) -> str:
        """The beginning as text, without a byte-order mark. Raises ValueError when it is not UTF-8."""
        with self.path.open("rb") as file:
            data = file.read(HEAD)
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            if len(data) < HEAD or error.start < len(data) - 3:
                raise ValueError(f"is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}") from None
            return data[: error.start].decode("utf-8-sig")

    @property
    def has_records(self) -> bool:
        """Whether `records` gives any."""
        tables = self.kind == "folder" and bool(self.tables)
        return tables or self.kind in ("jsonl", "json", "parquet", "dataset") or self.path.suffix.lower() == ".csv"

    @cached_property
    def first(self) -> list[Any]:
        """The first records."""
        found = [value for _, value in islice(self.records(), FIRST)]
        self.count = 0
        return found

    def records(self) -> Iterator[tuple[str, Any]]:
        """Every record with its place: JSON values, rows of a table. Raises ValueError and UserError."""
        self.count = 0
        for where, value in self._records():
            self.count += 1
            yield where, value

    def _records(self) -> Iterator[tuple[str, Any]]:
        if self.kind == "jsonl":
            yield from self._lines()
        elif self.kind == "json":
            value = self._whole
            # A list that starts with a text is one record of spaCy: [text, {"entities": …}].
            whole = isinstance(value, list) and not (value and isinstance(value[0], str))
            yield from ((f"record {n}", v) for n, v in enumerate(value if whole else [value], 1))
        elif self.kind == "dataset":
            yield from ((f"row {n}", dict(row)) for n, row in enumerate(self._saved, 1))
        else:
            for path in self.tables if self.kind == "folder" else [self.path]:
                for n, row in read_records(path):
                    if BAD_ROW in row:
                        raise ValueError(f"row {n}: {row[BAD_ROW]}")
                    yield f"row {n}", dict(row) if self.kind != "text" else {k: _cell(k, v) for k, v in row.items()}

    def _lines(self) -> Iterator[tuple[str, Any]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    yield f"line {number}", DECODER.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"line {number}: not valid JSON: {error}") from None

    @cached_property
    def _whole(self) -> Any:
        try:
            return DECODER.decode(self.path.read_text(encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not valid JSON: {error}") from None

    @cached_property
    def _saved(self) -> Any:
        """A folder of `save_to_disk`."""
        try:
            table = saved_dataset(self.path)
        except Exception as error:  # the library raises many types
            raise ValueError(f"cannot be loaded as a dataset: {error}") from None
        if isinstance(table, dict):
            if len(table) > 1:
                raise ValueError(f"has the splits {', '.join(table)}; name one: {self.path / next(iter(table))}")
            table = next(iter(table.values()))
        return table

    @cached_property
    def tables(self) -> list[Path]:
        """The Parquet files of a folder, all of one split. Raises ValueError."""
        files = sorted(self.path.rglob("*.parquet"))
        if len({re.sub(r"-\d{5}-of-\d{5}.*", "", file.name) for file in files}) > 1:
            raise ValueError(f"has several tables; name one: {', '.join(str(file) for file in files[:4])}")
        return files

    def label_names(self, column: str) -> tuple[str, ...]:
        """The names of a column's class labels, where the file knows them."""
        feature = self._features.get(column)
        while feature is not None and not hasattr(feature, "names"):
            feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
        return tuple(feature.names) if feature is not None else ()

    @cached_property
    def _features(self) -> Mapping[str, Any]:
        if self.kind == "dataset":
            return dict(self._saved.features)
        tables = [self.path] if self.kind == "parquet" else self.tables if self.kind == "folder" else []
        if not tables:
            return {}
        import datasets
        import pyarrow.parquet as pq

        return dict(datasets.Features.from_arrow_schema(pq.read_schema(tables[0])))

    def files(self, *suffixes: str) -> list[Path]:
        """The file itself, or the files of a folder with these ends of names."""
        if not self.path.is_dir():
            return [self.path]
        return sorted(path for path in self.path.rglob("*") if path.suffix.lower() in suffixes and path.is_file())

    def look(self) -> str:
        """What the first rows look like, for somebody whose format is unknown."""
        if self.has_records:
            value = self.first[0] if self.first else None
            if isinstance(value, dict):
                kinds = ", ".join(f"{key} ({_kind(inner)})" for key, inner in list(value.items())[:12])
                return f"its first record has the keys {kinds}" if value else "its first record is empty"
            return f"its first record is {_kind(value)}: {json.dumps(value, ensure_ascii=False, default=str)[:80]}"
        if self.path.is_dir():
            names = [path.name for path in sorted(self.path.iterdir())[:5]]
            return f"the folder holds {', '.join(names) or 'nothing'}"
        line = next((line for line in self.head.splitlines() if line.strip()), "")
        return f"its first line is {line.strip()[:80]!r}" if line else "it is empty"


def _cell(column: str, text: str) -> Any:
    """A cell of CSV; JSON in it is decoded, but for texts that may be JSON themselves."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        value = DECODER.decode(text)
    except (ValueError, RecursionError):
        return text
    turns = isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value)
    return text if column in _TEXTS and not turns else value


_TEXTS = ("prompt", "completion", "response", "chosen", "rejected", "input", "output", "instruction", "text")


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {_kind(value[0])}" if value else "empty list"
    if isinstance(value, dict):
        return "object with " + ", ".join(list(value)[:4]) if value else "empty object"
    names = {str: "text", bool: "true or false", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
