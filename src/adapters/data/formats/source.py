"""A file or folder of annotations: what it holds by its content, and its records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from adapters.data.data_file import DataFile, examine, is_saved_dataset, is_table, suffix_of
from adapters.data.json_text import Values
from adapters.data.rows import arrow_schema, parsed, read_file
from adapters.files import read_json

T = TypeVar("T")
HEAD = 1 << 20
"""Characters by which a format without records is recognised."""
FIRST = 500
"""Records by which a format is recognised."""
_TEXTS = ("response", "input", "output", "instruction")
"""Columns of a table that hold text, even if it is JSON, besides those of data files."""


@dataclass
class Source:
    """A file or folder. `count` is the number of records given so far."""

    path: Path
    count: int = field(default=0, init=False)

    @cached_property
    def file(self) -> DataFile:
        """The file and how it is read. Raises ValueError and OSError."""
        return examine(self.path, by_content=True)

    @property
    def kind(self) -> str:
        """What the content is: a kind of data files, or folder. Raises ValueError and OSError."""
        return "folder" if self.path.is_dir() and not is_saved_dataset(self.path) else self.file.kind

    @cached_property
    def head(self) -> str:
        """The beginning of a text, without a byte-order mark."""
        with self.file.text() as text:
            return text.read(HEAD)

    @property
    def has_records(self) -> bool:
        """Whether `records` gives any."""
        return self.kind in ("lines", "values") or bool(self.tables)

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
        if self.kind == "lines":
            yield from self._lines()
        elif self.kind == "values":
            yield from ((f"record {n}", value) for n, value in enumerate(self._values(), 1))
        for path in self.tables:
            for n, row in read_file(path, strict=True, texts=_TEXTS):
                yield f"row {n}", row

    def _lines(self) -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(self.file.lines(), 1):
            if line.isspace():
                continue
            try:
                yield f"line {number}", parsed(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None

    def _values(self) -> Iterator[Any]:
        with self.file.text() as text:
            layout = Values(text)
            values = iter(layout)
            first = list(islice(values, 1))
            if layout.is_list and first and isinstance(first[0], str):
                yield [*first, *values]  # one record of spaCy: [text, {"entities": …}]
            else:
                yield from first
                yield from values

    @cached_property
    def tables(self) -> list[Path]:
        """The file, or the files of a folder, that holds rows of one split. Raises ValueError."""
        if self.kind == "saved":
            splits = list(read_json(self.path / "dataset_dict.json").get("splits", ()))
            if len(splits) > 1:
                raise ValueError(f"has the splits {', '.join(splits)}; name one: {self.path / splits[0]}")
            return [self.path.joinpath(*splits)]
        if self.kind != "folder":
            is_one = self.kind in ("parquet", "arrow") or (self.kind == "text" and is_table(self.path))
            return [self.path] if is_one else []
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
        schema = arrow_schema(self.tables[0]) if self.tables else None
        if schema is None:
            return {}
        import datasets

        return dict(datasets.Features.from_arrow_schema(schema))

    def files(self, *suffixes: str) -> list[Path]:
        """The file itself, or the files of a folder with these ends of names."""
        if not self.path.is_dir():
            return [self.path]
        found = (path for path in self.path.rglob("*") if suffix_of(path) in suffixes)
        return sorted(path for path in found if path.is_file() or (path.is_symlink() and not path.exists()))

    def read(self, path: Path, reader: Callable[[Path], T]) -> T:
        """What is read from one of the files. An error names it where there are several."""
        try:
            return reader(path)
        except ValueError as error:
            raise ValueError(f"{path.name}, {error}" if self.path.is_dir() else str(error)) from None

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


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"list of {_kind(value[0])}" if value else "empty list"
    if isinstance(value, dict):
        return "object with " + ", ".join(list(value)[:4]) if value else "empty object"
    names = {str: "text", bool: "true or false", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
