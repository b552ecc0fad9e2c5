"""What a data file is: its compression, encoding and format, found from its name and its first bytes."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, TextIO

from adapters.data import csv_text

Kind = Literal["lines", "values", "table", "parquet", "arrow", "saved"]
"""JSON lines; JSON values in another layout; CSV or TSV; Parquet; Arrow; a folder of `datasets.save_to_disk`."""

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""How data files end, in messages."""
_KINDS: Final[dict[str, Kind]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "lines"),
    **dict.fromkeys((".csv", ".tsv", ".tab"), "table"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    ".arrow": "arrow",
}
COMPRESSED: Final = (".gz", ".bz2", ".xz")
_OPENERS: Final[dict[bytes, Callable[[Path], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_BINARY: Final[dict[bytes, Kind]] = {b"PAR1": "parquet", b"ARROW1": "arrow"}
_MARKS: Final = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER: Final = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV UTF-8",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it with zstd -d",
    b"version https://git-lfs": "a Git LFS pointer, not the data; fetch them with git lfs pull",
    b"<!DOCTYPE": "a web page, not the data; download the file itself",
    b"<html": "a web page, not the data; download the file itself",
}
_WORD: Final = re.compile(rb"[A-Za-z][\xc0-\xff]|[\xc0-\xff][a-z]")
SAMPLE: Final = 1 << 16
"""Bytes by which a file is judged."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file, and how it is read."""

    path: Path
    kind: Kind
    encoding: str = "utf-8-sig"
    separator: str = ","

    @property
    def number(self) -> str:
        """What rows are counted by in messages."""
        return "line" if self.kind == "lines" else "row"

    def binary(self) -> IO[bytes]:
        """The file's bytes, unpacked."""
        return _open(self.path)

    def text(self) -> TextIO:
        """The file's text; bytes of UTF-8 that are none become lone surrogates, for their row to be refused."""
        errors = "surrogateescape" if self.encoding == "utf-8-sig" else "strict"
        return io.TextIOWrapper(self.binary(), encoding=self.encoding, errors=errors, newline="")

    def lines(self) -> Iterator[bytes]:
        """Lines in UTF-8."""
        if self.encoding == "utf-8-sig":
            with self.binary() as file:
                yield from file
        else:
            with self.text() as text:
                yield from (line.encode("utf-8", "surrogatepass") for line in text)


def suffix_of(path: Path) -> str:
    """A file's ending in lower case, without that of its compression."""
    name = path.name.lower()
    return Path(next((name.removesuffix(end) for end in COMPRESSED if name.endswith(end)), name)).suffix


def is_data_file(path: Path) -> bool:
    """Whether the name says that it is one."""
    return suffix_of(path) in _KINDS


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the library datasets."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def examine(path: Path) -> DataFile:
    """What an existing file is. Raises ValueError with what to do about one that cannot be read with certainty."""
    if path.is_dir():
        return DataFile(path, "saved")
    with _open(path) as file:
        sample = file.read(SAMPLE)
    for start, what in _OTHER.items():
        if sample.startswith(start):
            raise ValueError(f"it is {what}")
    for start, kind in _BINARY.items():
        if sample.startswith(start):
            return DataFile(path, kind)
    kind = _KINDS[suffix_of(path)]
    if kind in ("parquet", "arrow"):
        return DataFile(path, kind)
    encoding = _encoding(path, sample)
    text = sample.decode(encoding, "replace")
    cut = len(sample) == SAMPLE
    if cut:
        text = text[: text.rfind("\n") + 1] or text
    return _text_file(path, kind, encoding, text, cut=cut)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(8)
    opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), None)
    opened: IO[bytes] = opener(path) if opener else path.open("rb")
    return opened


def _encoding(path: Path, sample: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return encoding
    if sample[:400].count(0) > len(sample[:400]) // 4:
        order = "LE" if sample[1:2] == b"\0" else "BE"
        raise ValueError(f"it is UTF-16 without a byte-order mark; {_convert(path, f'UTF-16{order}')}")
    foreign = [line for line in sample.splitlines() if not line.isascii()]
    # A broken row among many is that row's fault; so is one odd byte that belongs to no word.
    many = len(foreign) * 10 >= sample.count(b"\n") and (len(foreign) > 1 or _WORD.search(b"".join(foreign)))
    if foreign and many and not any(map(_is_utf8, foreign)):
        known = _decodes(b"".join(foreign), "cp1252")
        name = "probably Windows-1252 (cp1252)" if known else "in another 8-bit encoding"
        raise ValueError(f"it is not UTF-8, {name}; {_convert(path, 'CP1252' if known else 'ENCODING')}")
    return "utf-8-sig"


def _convert(path: Path, encoding: str) -> str:
    return f"convert it with: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"


def _is_utf8(line: bytes) -> bool:
    return _decodes(line, "utf-8")


def _decodes(text: bytes, encoding: str) -> bool:
    try:
        text.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _text_file(path: Path, kind: Kind, encoding: str, text: str, *, cut: bool) -> DataFile:
    """JSON in either layout, or a table, by what the text begins with."""
    first, second = _first_lines(text)
    record = first.startswith("{") and _is_json(first)
    if kind == "table" and not record:
        suffix = suffix_of(path)
        separator = csv_text.separator(text, "," if suffix == ".csv" else "\t", cut=cut)
        return DataFile(path, "table", encoding, separator)
    if kind == "table" or record:
        return DataFile(path, "lines", encoding)
    alone = bool(second) and _is_json(first) and suffix_of(path) != ".json"
    if first in ("{", "[") or (first.startswith("[") and not alone):
        return DataFile(path, "values", encoding)
    if first.startswith("{") and second and second[0] not in "{[":
        return DataFile(path, "values", encoding)
    if first and not re.search(r"^\s*[{[]", text, re.MULTILINE):
        raise ValueError(f"it is not JSON: it begins with {first[:60]!r}; a table is named .csv or .tsv")
    return DataFile(path, "lines", encoding)


def _first_lines(text: str) -> tuple[str, str]:
    lines = (line.strip() for line in io.StringIO(text.removeprefix("\ufeff")))
    full = (line for line in lines if line)
    return next(full, ""), next(full, "")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
