"""A graph of the facts of documents, written as files into a folder.

The first pass counts nodes in a SQLite file and puts the edges into another; the second writes both. Memory holds a
block of documents, whatever their number. The same documents give the same bytes.
"""

from __future__ import annotations

import errno
import marshal
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from adapters.errors import UserError
from adapters.files import read_json, sha256, write_json
from adapters.graph.elements import Document, Edge, Writer, clean
from adapters.graph.facts import Reader, Registry, Text
from adapters.graph.graphml import GraphML
from adapters.graph.neo4j_csv import Neo4jCsv
from adapters.graph.ntriples import NTriples
from adapters.graph.store import Store

FORMATS: Final = ("graphml", "ntriples", "csv")
MANIFEST: Final = "manifest.json"
_IRI: Final = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>"{}|\\^`]*')


@dataclass(frozen=True, slots=True)
class Options:
    """What a graph has, and in which files. Raises UserError for an unknown format and a base that is no IRI."""

    formats: tuple[str, ...] = FORMATS
    base_iri: str = "urn:extraction:"
    found_only: bool = False
    mentions: bool = True

    def __post_init__(self) -> None:
        wrong = [name for name in self.formats if name not in FORMATS]
        if wrong or not self.formats:
            raise UserError(f"--formats {','.join(wrong)}: choose from {', '.join(FORMATS)}.")
        if not _IRI.fullmatch(self.base_iri):
            raise UserError(f"--base-iri {self.base_iri!r} is no IRI, such as https://example.org/graph/.")


def check_folder(folder: Path, *, fresh: bool) -> None:
    """Raise UserError for a folder that a graph would overwrite."""
    if folder.name in ("", ".."):
        raise UserError(f"-o {folder}: give the folder a name.")
    if not folder.parent.is_dir():
        raise UserError(f"-o {folder}: there is no folder {folder.parent}.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if "edges" not in read_json(folder / MANIFEST).get("counts", {}):
        raise UserError(f"-o {folder} holds something else than a graph; choose another name.")
    if not fresh:
        raise UserError(f"-o {folder} holds a graph; choose another name, or replace it with --fresh.")


def build(
    documents: Iterable[Text],
    folder: Path,
    options: Options,
    registry: Registry | None = None,
    described: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:
    """Write a graph into a folder, which appears when it is complete. Returns the counts.

    `described`, called at the end, is put into the manifest beside them. Raises UserError, also for two names that
    have one id.
    """
    work = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        counts = _write(documents, work, options, registry)
        made = {path.name: sha256(path) for path in sorted(work.iterdir())}
        write_json(work / MANIFEST, {**described(), "counts": counts, "files": made})
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    except sqlite3.OperationalError as error:
        raise OSError(errno.ENOSPC, f"No space left on device ({error})", str(work)) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _write(documents: Iterable[Text], work: Path, options: Options, registry: Registry | None) -> dict[str, Any]:
    reader = Reader(registry, found_only=options.found_only, mentions=options.mentions)
    database, spool = work / "nodes.sqlite", work / "edges.spool"
    with closing(Store(database)) as store:
        with spool.open("wb") as file:
            counts = _read(documents, reader, store, file)
        store.finish()
        with ExitStack() as stack:
            writers = [stack.enter_context(closing(writer)) for writer in _writers(work, options, store.attributes())]
            _write_nodes(store, spool, writers, counts)
            _write_edges(store, spool, writers, counts)
    database.unlink()
    spool.unlink()
    for name in ("entities", "edges"):
        counts[name] = dict(sorted(counts[name].items()))
    return counts


def _read(documents: Iterable[Text], reader: Reader, store: Store, file: BinaryIO) -> dict[str, Any]:
    """Count nodes and spool the edges of each document, after its row and its node."""
    counted = repeated = 0
    for document in documents:
        given = clean(document.id)
        identity, name = store.name_document(given, document.row)
        counted += 1
        repeated += name != given
        edges = list(reader.edges(document, identity, name))
        relations = [(e.source, e.relation, e.target) for e in edges if e.source != identity]
        kinds = [(name, _kind(value)) for name, value in reader.attributes.items()]
        store.add(document.row, reader.spellings, relations, kinds)
        node = (identity, name, reader.mentions, reader.attributes)
        marshal.dump((document.row, node, [tuple(edge)[:-2] for edge in edges]), file)
    return {
        "documents": counted,
        "repeated_ids": repeated,
        "entities": Counter(),
        "edges": Counter(),
        **{name: reader.counts[name] for name in ("found", "not_found", "empty_names")},
        "merged_spellings": 0,
    }


def _kind(value: bool | float | str) -> str:
    return "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "double"


def _writers(work: Path, options: Options, attributes: Mapping[str, str]) -> Iterator[Writer]:
    if "graphml" in options.formats:
        yield GraphML(work / "graph.graphml", attributes)
    if "ntriples" in options.formats:
        yield NTriples(work / "graph.nt", options.base_iri)
    if "csv" in options.formats:
        yield Neo4jCsv(work / "nodes.csv", work / "edges.csv", attributes)


def _write_nodes(store: Store, spool: Path, writers: Sequence[Writer], counts: dict[str, Any]) -> None:
    for node in store.nodes():
        counts["entities"][node.type] += 1
        counts["merged_spellings"] += len(node.aliases) - 1
        for writer in writers:
            writer.entity(node)
    for _, document, _ in _spooled(spool):
        for writer in writers:
            writer.document(Document(*document))


def _write_edges(store: Store, spool: Path, writers: Sequence[Writer], counts: dict[str, Any]) -> None:
    for row, document, edges in _spooled(spool):
        seen = set()
        for stored in edges:
            edge = Edge(*stored)
            said = edge.source, edge.relation, edge.target
            support, first = (1, row) if edge.source == document[0] else store.support(*said)
            edge = edge._replace(support=support, is_first=first == row and said not in seen)
            seen.add(said)
            counts["edges"][edge.relation] += 1
            for writer in writers:
                writer.edge(edge)


def _spooled(spool: Path) -> Iterator[tuple[int, tuple[Any, ...], list[tuple[Any, ...]]]]:
    with spool.open("rb") as file:
        while file.peek(1):
            yield marshal.load(file)  # noqa: S302 - written by this process a moment ago
