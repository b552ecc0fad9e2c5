"""Documents as the corpus of an extraction: their sections in a file beside the output."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapters.console import progress
from adapters.data.data_file import is_data_file, is_saved_dataset
from adapters.data.formats import documents
from adapters.data.formats.documents import Kind
from adapters.errors import UserError
from adapters.extraction import files
from adapters.extraction.resumable import manifest
from adapters.files import sha256, write_jsonl
from adapters.types import Progress


@dataclass(frozen=True, slots=True)
class Corpus:
    """The data file of an extraction, the columns to carry over, and the settings that its making adds."""

    path: Path
    keep: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


def sections_path(out: Path) -> Path:
    """Path of the corpus that is made of documents."""
    return out.with_name(f"{out.name}.sections.jsonl")


def corpus(path: Path, out: Path, text_field: str, kind: Kind | None, *, fresh: bool) -> Corpus:
    """The sections of documents as a corpus beside the output; a data file as it is. Raises UserError.

    An extraction that is resumed has the corpus that it began with. Other documents are refused.
    """
    if kind is None and not documents.is_documents(path):
        return Corpus(path)
    if kind is not None and (is_data_file(path) or is_saved_dataset(path)):
        raise UserError(f"--from {kind}: {path} is a data file, not a document.")
    files.check_output(out)
    kind, found = documents.find(path, kind)
    settings = {"documents": _fingerprint(path, found), "from": kind}
    sections, earlier = sections_path(out), None if fresh else manifest(out)
    if earlier is not None:
        if any(earlier["settings"].get(name) != value for name, value in settings.items()):
            remedy = "Choose another name, or start over with --fresh."
            raise UserError(f"{out} was made or begun with other documents than {path} holds now. {remedy}")
        if sections.is_file() and sha256(sections) == earlier["settings"]["input"]:
            return Corpus(sections, documents.COLUMNS, settings)
    with progress(out.name, "reading documents") as moved:
        write_jsonl(sections, documents.rows(path, kind, _counted(found, moved), text_field))
    return Corpus(sections, documents.COLUMNS, settings)


def _counted(found: Sequence[Path], moved: Progress) -> Iterator[Path]:
    for number, file in enumerate(found):
        moved(number, len(found), {})
        yield file
    moved(len(found), len(found), {})


def _fingerprint(path: Path, found: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in found:
        digest.update(f"{file.relative_to(path.parent).as_posix()}\0{_content(file)}\n".encode(errors="replace"))
    return digest.hexdigest()


def _content(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:  # its row says so
        return str(error.strerror)
