"""Nodes and edges of a graph, the keys by which nodes merge, and ids."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

from adapters.rewards.grounding import Place

_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write; lone surrogates among it."""
MENTIONS: Final = "mentions"
"""Type of the edges from a document to the entities that it names."""
UNTYPED: Final = "entity"
"""Type of a relation's end that no typed entity of the document, or more than one, has the name of."""


class Key(NamedTuple):
    """What decides which node a name belongs to: (type, normalised name), or the registry's id alone."""

    type: str | None
    """None: `name` is a registry's id."""
    name: str

    @property
    def id(self) -> str:
        """The node's id."""
        return _node_id(self)


class Node(NamedTuple):
    """An entity of the whole corpus."""

    id: str
    type: str
    name: str
    aliases: tuple[str, ...]
    """All spellings, the most frequent first; `name` is the first of them."""
    mentions: int
    documents: int
    registry_id: str | None


class Document(NamedTuple):
    """A document as a node."""

    id: str
    name: str
    mentions: int
    attributes: Mapping[str, bool | float | str]


class Edge(NamedTuple):
    """One occurrence: of an entity in a document, or of a relation's two ends. What was not found is None."""

    id: str
    source: str
    relation: str
    target: str
    document: str
    """The document's name."""
    start: int | None
    """Of a mention, as `end`; those of a relation's ends follow."""
    end: int | None
    head_start: int | None
    head_end: int | None
    tail_start: int | None
    tail_end: int | None
    sentence: int | None
    sentence_text: str | None
    found: bool
    support: int = 1
    """Documents that have an edge of this source, relation and target."""
    is_first: bool = True
    """Whether no earlier edge has this source, relation and target."""

    @property
    def document_id(self) -> str:
        """The id of the document's node."""
        return document_id(self.document)

    @property
    def extent(self) -> Place | None:
        """From the first to the last character that the edge speaks of; None where it was not found."""
        if not self.found:
            return None
        places = [(self.start, self.end), (self.head_start, self.head_end), (self.tail_start, self.tail_end)]
        known = [(start, end) for start, end in places if start is not None and end is not None]
        return min(start for start, _ in known), max(end for _, end in known)


class Writer(Protocol):
    """Writes a graph to one or more files, in order: entities, documents, edges."""

    def entity(self, node: Node) -> None:
        """Write an entity."""

    def document(self, document: Document) -> None:
        """Write a document."""

    def edge(self, edge: Edge) -> None:
        """Write an edge."""

    def close(self) -> None:
        """End the files."""


@lru_cache(maxsize=1024)
def _node_id(key: Key) -> str:
    return "n" + digest("registry" if key.type is None else key.type, key.name)


@lru_cache(maxsize=1024)
def document_id(name: str) -> str:
    """The id of a document's node."""
    return "d" + digest("document", name)


def clean(text: Any) -> str:
    """A text with U+FFFD in place of what XML forbids; every offset stays."""
    return _FORBIDDEN.sub("\ufffd", str(text))


@lru_cache(maxsize=1024)
def normalised(name: str) -> str:
    """The name by which entities of one type merge; empty for one of white space and punctuation alone."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(plain.split()).strip(" .,;:!?\"'")


def digest(*fields: object) -> str:
    """16 hexadecimal digits of the SHA-256 of fields joined by line feeds; None is an empty field."""
    text = "\n".join("" if field is None else str(field) for field in fields)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
