"""The parts of a corpus, and the folder of their outputs: local, or anywhere fsspec reaches (s3://, gs://, hf://)."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from adapters.data.data_file import is_data_file
from adapters.data.rows import survey
from adapters.errors import UserError
from adapters.files import replacing

MANIFEST = "manifest.json"
"""In the folder of outputs: settings, and the counts of all parts once it is complete."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the corpus, or some rows of its only one. `name` is that of its output, without suffix."""

    name: str
    file: str
    surveyed: tuple[int, str] | None = None
    """Rows and SHA-256 of the whole file, where it was read already."""
    rows: tuple[int, int] | None = None
    """The first row, from 1, and the one after the last; None: all."""

    def numbers(self, total: int) -> range:
        """The numbers of the part's rows, in a file of `total` rows."""
        return range(*self.rows) if self.rows else range(1, total + 1)


class Split(NamedTuple):
    """A corpus in parts; `digest` tells it from a corpus of other files or contents."""

    parts: list[Part]
    digest: str


def url_of(path: Path) -> str:
    """The address that a path was made of, `s3:/bucket/x` of `s3://bucket/x`; of a local path the whole path."""
    scheme, _, rest = str(path).partition(":/")
    if scheme == "file" and rest:
        return str(Path("/", rest))
    return f"{scheme}://{rest}" if re.fullmatch(r"\w{2,}", scheme) and rest else str(path.resolve())


def shown(path: Path) -> str:
    """A path as it was given, an address too."""
    url = url_of(path)
    return url if "://" in url else str(path)


def split(corpus: str, size: int | None) -> Split:
    """A folder's files, or stretches of `size` rows of one file; None: whole files of any kind. Raises UserError."""
    store = Store(corpus)
    if not store.is_folder() and size is None:
        return Split([Part("00000", corpus)], store.mark())
    if not store.is_folder() and size is not None:
        with store.local() as path:
            whole = survey(path)
        total, digest = whole
        if total == 0:
            raise UserError(f"{corpus} holds no row.")
        starts = range(1, total + 1, size)
        width = len(str(max(len(starts), 10_000)))  # so that names sort as parts do
        parts = [Part(f"{n:0{width}}", corpus, whole, (a, min(a + size, total + 1))) for n, a in enumerate(starts)]
        return Split(parts, digest)
    files = {name: mark for name, mark in store.files().items() if _is_of_corpus(name, size is None)}
    if not files:
        kinds = "" if size is None else ": .jsonl, .json, .csv, .tsv, .parquet, also .gz"
        raise UserError(f"{corpus} holds no {'' if size is None else 'data '}file{kinds}.")
    width = len(str(max(len(files), 10_000)))
    names = [f"{n:0{width}}-{PurePosixPath(file).name.partition('.')[0]}" for n, file in enumerate(files)]
    parts = [Part(name, f"{corpus.rstrip('/')}/{file}") for name, file in zip(names, files, strict=True)]
    return Split(parts, hashlib.sha256(json.dumps(files).encode()).hexdigest())


def _is_of_corpus(name: str, any_kind: bool) -> bool:
    """Whether a file of a folder is read: no manifest, nothing hidden (`.x`, `_x`, also folders)."""
    hidden = any(step[0] in "._" for step in PurePosixPath(name).parts)
    return not hidden and not name.endswith((MANIFEST, ".begun.json")) and (any_kind or is_data_file(Path(name)))


@dataclass(frozen=True)
class Store:
    """A file or folder by its address. Raises UserError for one that cannot be reached."""

    url: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        try:
            return url_to_fs(self.url)  # type: ignore[no-any-return]
        except (ImportError, ValueError) as error:
            raise UserError(f"{self.url} cannot be opened: {str(error).rstrip('.')}.") from None

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine."""
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self._opened[0], LocalFileSystem)

    def is_folder(self) -> bool:
        """Whether it is a folder that exists; a file is none. Raises UserError where there is neither."""
        return bool(self._info()["type"] == "directory")

    def mark(self) -> str:
        """What changes when a file's content does. Raises UserError."""
        return _mark(self._info())

    def _info(self) -> dict[str, Any]:
        files, root = self._opened
        try:
            with self._reached():
                return dict(files.info(root))
        except FileNotFoundError:
            raise UserError(f"there is no {self.url}.") from None

    def files(self) -> dict[str, str]:
        """The files below, by their path in order, with what changes when their content does; none of no folder."""
        files, root = self._opened
        try:
            with self._reached():
                files.invalidate_cache()  # others write here
                found = files.find(root, detail=True)
        except FileNotFoundError:
            return {}
        within = {PurePosixPath(path).relative_to(PurePosixPath(root)).as_posix(): info for path, info in found.items()}
        within.pop(".", None)  # what consoles of object stores make to show a folder
        return {name: _mark(within[name]) for name in sorted(within)}

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The file on this machine; a copy if it is elsewhere, whose name no UserError of the block shows."""
        files, path = self._opened
        if self.is_local:
            yield Path(path)
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, PurePosixPath(path).name)
            with self._reached():
                files.get_file(path, str(copy))
            try:
                yield copy
            except UserError as error:
                raise UserError(str(error).replace(str(copy), self.url)) from None

    def put(self, file: Path, name: str) -> None:
        """Put a file into the folder, where it appears whole or not at all."""
        files, root = self._opened
        if not self.is_local:
            with self._reached():
                files.put_file(str(file), f"{root}/{name}")
            return
        target = Path(root, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(file, temporary)

    def put_json(self, value: Mapping[str, Any], name: str) -> None:
        """Put a JSON file into the folder."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "value.json")
            file.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
            self.put(file, name)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None for a missing or damaged one."""
        return next(iter(self.read_jsons([name])), None)

    def read_jsons(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Those JSON files of the folder that are there and whole; of a remote store many at a time."""
        with ThreadPoolExecutor(32) as threads:
            values = list(threads.map(self._json, names))
        return [value for value in values if value is not None]

    def _json(self, name: str) -> dict[str, Any] | None:
        files, root = self._opened
        try:
            with self._reached():
                value = json.loads(files.cat_file(f"{root}/{name}"))
        except (FileNotFoundError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def has(self, name: str) -> bool:
        """Whether the folder has a file."""
        files, root = self._opened
        try:
            with self._reached():
                return bool(files.info(f"{root}/{name}"))
        except FileNotFoundError:
            return False

    def remove(self, name: str) -> None:
        """Remove a file of the folder."""
        files, root = self._opened
        with self._reached():
            files.rm_file(f"{root}/{name}")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """A store's own errors, of which each has its kind, as the user's."""
        try:
            yield
        except (UserError, FileNotFoundError, ValueError):
            raise
        except Exception as error:
            raise UserError(f"{self.url} cannot be reached: {type(error).__name__}: {error}") from None


def _mark(info: Mapping[str, Any]) -> str:
    """What changes with a file's content, as far as its store says: a checksum, else size and time."""
    sums = ("ETag", "etag", "md5Hash", "blob_id", "crc32c")
    known = next((info[name] for name in sums if info.get(name)), info.get("mtime") or info.get("LastModified"))
    return f"{info.get('size')} {known or ''}".rstrip()
