"""Hashes, JSON and JSONL files, and atomic writes."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from adapters.errors import UserError


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object; empty without a readable one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_run_json(path: Path) -> dict[str, Any]:
    """A JSON object that every run folder holds. Raises UserError when it cannot be read."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{path} is missing or damaged, so {path.parent} cannot be read as a run.") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Replace a file by a JSON value."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces `path` when the block ends. Atomic, also across a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None or str(error.filename or temporary) != str(temporary):
            raise
        # A full disk is reported without a file name.
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def json_line(record: Mapping[str, Any]) -> bytes:
    """A record as a line of a JSONL file; what JSON does not have is null (NaN, infinity) or text.

    Dates and times are in ISO 8601, bytes in base64.
    """
    text = json.dumps(record, ensure_ascii=False, default=_as_json)
    if "NaN" in text or "Infinity" in text:  # perhaps within a text
        text = json.dumps(json.loads(text, parse_constant=lambda _: None), ensure_ascii=False)
    return text.encode("utf-8", "replace") + b"\n"


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return value.tolist() if type(value).__module__ == "numpy" else str(value)


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Replace a file by records, one a line, as they come. Returns how many."""
    count = 0
    with replacing(path) as temporary, temporary.open("wb") as file:
        for record in records:
            file.write(json_line(record))
            count += 1
    return count


def append_jsonl(path: Path, records: Iterable[Mapping[str, Any]], *, sync: bool = False) -> None:
    """Add records to a file, after ending a torn last line. With `sync` they survive a power cut."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        torn = file.read(1) not in (b"", b"\n")
        file.write(b"\n" * torn + b"".join(map(json_line, records)))
        if sync:
            file.flush()
            os.fsync(file.fileno())


def truncate_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the records that `keep` refuses, and torn lines."""
    if path.is_file():
        write_jsonl(path, (record for _, record in numbered_jsonl(path) if keep(record)))


def manifest_path(out: Path) -> Path:
    """Path of an output's manifest, which describes how it was made."""
    return out.with_name(f"{out.name}.manifest.json")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a file, without torn lines; none when there is no file."""
    return [record for _, record in numbered_jsonl(path)]


def numbered_jsonl(path: Path, *, strict: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and records of a file, one at a time; nothing when there is no file.

    A line that is no object is skipped, as its writer may be at work or was killed; `strict` raises UserError.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line.decode())
            except (ValueError, RecursionError):
                record = None
            if isinstance(record, dict):
                yield number, record
            elif strict and not line.isspace():
                raise UserError(f"{path}, line {number}: not a JSON object.")
