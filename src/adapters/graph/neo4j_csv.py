"""A graph as two CSV files (RFC 4180) with the headers of `neo4j-admin database import`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from adapters.graph.elements import Document, Edge, Node

_NODE: Final = ("id:ID", ":LABEL", "type", "name", "aliases:string[]", "mentions:int", "documents:int", "registry_id")
_EDGE: Final = (
    *(":START_ID", ":END_ID", ":TYPE", "id", "document", "start:int", "end:int"),
    *("head_start:int", "head_end:int", "tail_start:int", "tail_end:int"),
    *("sentence:int", "sentence_text", "found:boolean", "support:int"),
)


class Neo4jCsv:
    """Writes a file of nodes and one of edges. Attributes of documents are the last columns, `label_NAME`."""

    def __init__(self, nodes: Path, edges: Path, attributes: Mapping[str, str]) -> None:
        self._files = [path.open("w", encoding="utf-8", newline="") for path in (nodes, edges)]
        self._nodes, self._edges = (csv.writer(file) for file in self._files)
        self._attributes = list(attributes)
        self._nodes.writerow((*_NODE, *(f"label_{name}:{kind}" for name, kind in attributes.items())))
        self._edges.writerow(_EDGE)

    def entity(self, node: Node) -> None:
        """Write an entity."""
        aliases = ";".join(alias.replace(";", ",") for alias in node.aliases)
        counts = node.mentions, node.documents
        empty = [None] * len(self._attributes)
        self._nodes.writerow((node.id, "Entity", node.type, node.name, aliases, *counts, node.registry_id, *empty))

    def document(self, document: Document) -> None:
        """Write a document."""
        start = (document.id, "Document", "document", document.name, None, document.mentions, None, None)
        self._nodes.writerow((*start, *(_cell(document.attributes.get(name)) for name in self._attributes)))

    def edge(self, edge: Edge) -> None:
        """Write an edge."""
        ends = edge.source, edge.target, edge.relation
        self._edges.writerow((*ends, edge.id, *edge[4:-3], _cell(edge.found), edge.support))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _cell(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value
