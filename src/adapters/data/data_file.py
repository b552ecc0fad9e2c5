"""What a data file is: its compression, encoding and format, found from its name and its first bytes."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, TextIO

from adapters.data import csv_text

Kind = Literal["lines", "values", "table", "parquet", "arrow", "saved", "xml", "text"]
"""JSON lines; JSON values in another layout; CSV or TSV; Parquet; Arrow; a folder of `datasets.save_to_disk`.

XML and other texts are no data files, but annotations may be."""

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
}
_WEB_PAGE: Final = re.compile(rb"\s*<(?:!doctype\s+)?html\b", re.IGNORECASE)
_WORD: Final = re.compile(rb"[A-Za-z][\xc0-\xff]|[\xc0-\xff][a-z]")
_HIGH: Final = re.compile(rb"[\x80-\xff]+")
_JSON: Final = re.compile(r'\s*[\[{]\s*(?:["\[{\]}]|-?\d|null|true|false)')
SAMPLE: Final = 1 << 16
"""Bytes by which a file is judged."""
FAULTS: Final = (OSError, ValueError, RecursionError, csv.Error, EOFError, zlib.error, lzma.LZMAError)
"""Errors of reading a file: bad text, JSON or Parquet; the last three are of damaged compressed files."""


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


def is_table(path: Path) -> bool:
    """Whether the name is that of a CSV or TSV file."""
    return _KINDS.get(suffix_of(path)) == "table"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the library datasets."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def examine(path: Path, *, by_content: bool = False) -> DataFile:
    """What an existing file is. Raises ValueError with what to do about one that cannot be read with certainty.

    `by_content` is for annotations: the name says nothing, no text is a table, and XML and plain text are files too.
    """
    if path.is_dir():
        return DataFile(path, "saved")
    with _open(path) as file:
        sample = file.read(SAMPLE)
    if _WEB_PAGE.match(sample):
        raise ValueError("it is a web page, not the data; download the file itself")
    for start, what in _OTHER.items():
        if sample.startswith(start):
            raise ValueError(f"it is {what}")
    for start, kind in _BINARY.items():
        if sample.startswith(start):
            return DataFile(path, kind)
    if by_content:
        return _text_by_content(path, sample)
    kind = _KINDS[suffix_of(path)]
    if kind in ("parquet", "arrow"):
        return DataFile(path, kind)
    encoding = _encoding(path, sample)
    text = sample.decode(encoding, "replace")
    cut = len(sample) == SAMPLE
    if cut:
        text = text[: text.rfind("\n") + 1] or text
    return _text_file(path, kind, encoding, text, cut=cut)


def read_text(path: Path) -> str:
    """A text file, unpacked and decoded; line ends and UTF-8's byte-order mark are kept. Raises ValueError, OSError."""
    with _open(path) as file:
        data = file.read()
    encoding = _encoding(path, data[:SAMPLE]).removesuffix("-sig")
    try:
        return str(data.decode(encoding))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not {encoding.upper()}: {error.reason}") from None


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(8)
    opener = next((opener for mark, opener in _OPENERS.items() if start.startswith(mark)), None)
    opened: IO[bytes] = opener(path) if opener else path.open("rb")
    return opened


def _encoding(path: Path, sample: bytes) -> str:
    if marked := _marked(sample):
        return marked
    even, odd = sample[:400:2].count(0), sample[1:400:2].count(0)
    if even + odd > len(sample[:400]) // 4 and not (even and odd) and len(sample) % 2 == 0:
        raise ValueError(f"it is UTF-16 without a byte-order mark; {_convert(path, 'UTF-16LE' if odd else 'UTF-16BE')}")
    foreign = [line for line in sample.splitlines() if not line.isascii()]
    # A broken row among many is that row's fault; so is one odd byte that belongs to no word.
    many = len(foreign) * 10 >= sample.count(b"\n") and (len(foreign) > 1 or _WORD.search(b"".join(foreign)))
    if foreign and many and not any(map(_is_utf8, foreign)):
        # Letters outside ASCII stand alone in most words of Western languages, and side by side in other encodings.
        runs = _HIGH.findall(b"".join(foreign))
        known = _decodes(b"".join(foreign), "cp1252") and sum(map(len, runs)) <= 2 * len(runs)
        name = "probably Windows-1252 (cp1252)" if known else "in another encoding"
        raise ValueError(f"it is not UTF-8, {name}; {_convert(path, 'CP1252' if known else 'ENCODING')}")
    return "utf-8-sig"


def _marked(sample: bytes) -> str:
    return next((encoding for mark, encoding in _MARKS.items() if sample.startswith(mark)), "")


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


def _text_by_content(path: Path, sample: bytes) -> DataFile:
    """XML, which says its encoding itself; JSON in either layout; or another text."""
    marked = _marked(sample)
    text = sample.decode(marked or "utf-8", "replace").removeprefix("\ufeff")
    if text.lstrip().startswith("<"):
        return DataFile(path, "xml", marked or _declared(sample) or "utf-8-sig")
    encoding = _encoding(path, sample)
    if "\0" in text:
        raise ValueError("it holds NUL bytes, so that it is no text; export it as JSON lines")
    return DataFile(path, _layout(text) if _JSON.match(text) else "text", encoding)


def _declared(sample: bytes) -> str:
    """The encoding that an XML file declares, if Python knows it."""
    found = re.match(rb"""\s*<\?xml[^>]*\bencoding\s*=\s*["']([\w.:-]+)""", sample)
    try:
        return codecs.lookup(found[1].decode()).name.replace("utf-8", "") if found else ""
    except LookupError:
        return ""


def _text_file(path: Path, kind: Kind, encoding: str, text: str, *, cut: bool) -> DataFile:
    """JSON in either layout, or a table, by what the text begins with."""
    first, _ = _first_lines(text)
    if kind == "table" and not _is_record(first):
        suffix = suffix_of(path)
        separator = csv_text.separator(text, "," if suffix == ".csv" else "\t", cut=cut)
        return DataFile(path, "table", encoding, separator)
    if kind == "table":
        return DataFile(path, "lines", encoding)
    layout = _layout(text, list_alone=suffix_of(path) == ".json")
    if layout == "lines" and first and not re.search(r"^\s*[{[]", text, re.MULTILINE):
        raise ValueError(f"it is not JSON: it begins with {first[:60]!r}; a table is named .csv or .tsv")
    return DataFile(path, layout, encoding)


def _layout(text: str, *, list_alone: bool = False) -> Kind:
    """JSON lines or another layout; with `list_alone`, a list on the first line is the whole file."""
    first, second = _first_lines(text)
    if _is_record(first):
        return "lines"
    one_of_lines = bool(second) and not list_alone and _is_json(first)
    if first in ("{", "[") or (first.startswith("[") and not one_of_lines):
        return "values"
    return "values" if first.startswith("{") and second and second[0] not in "{[" else "lines"


def _is_record(line: str) -> bool:
    return line.startswith("{") and _is_json(line)


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
