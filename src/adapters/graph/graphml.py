"""A graph as GraphML: a directed graph with parallel edges, which have ids (http://graphml.graphdrawing.org)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from adapters.graph.elements import Document, Edge, Node

_HEAD: Final = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
  xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""
_NODE: Final = {
    **dict.fromkeys(("label", "type", "name", "aliases"), "string"),
    **dict.fromkeys(("mentions", "documents"), "int"),
    "registry_id": "string",
}
_EDGE: Final = {
    **dict.fromkeys(("type", "document"), "string"),
    **dict.fromkeys(("start", "end", "head_start", "head_end", "tail_start", "tail_end", "sentence"), "int"),
    "sentence_text": "string",
    "found": "boolean",
    "support": "int",
}
_CR: Final = {"\r": "&#13;"}
"""A parser would read a plain carriage return as a line feed."""


class GraphML:
    """Writes one file. Attributes of documents are called `label_NAME`."""

    def __init__(self, path: Path, attributes: Mapping[str, str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._file.write(_HEAD)
        self._attributes = list(attributes)
        self._nodes = self._keys("node", _NODE | {f"label_{name}": kind for name, kind in attributes.items()})
        self._edges = self._keys("edge", _EDGE)
        self._file.write('<graph edgedefault="directed">\n')

    def entity(self, node: Node) -> None:
        """Write an entity."""
        aliases = ";".join(alias.replace(";", ",") for alias in node.aliases)
        values = ("Entity", node.type, node.name, aliases, node.mentions, node.documents, node.registry_id)
        self._file.write(f'<node id="{node.id}">{_data(self._nodes, values)}</node>\n')

    def document(self, document: Document) -> None:
        """Write a document."""
        own = ("Document", "document", document.name, None, document.mentions, None, None)
        values = (*own, *map(document.attributes.get, self._attributes))
        self._file.write(f'<node id="{document.id}">{_data(self._nodes, values)}</node>\n')

    def edge(self, edge: Edge) -> None:
        """Write an edge."""
        data = _data(self._edges, (edge.relation, *edge[4:-1]))
        self._file.write(f'<edge id="{edge.id}" source="{edge.source}" target="{edge.target}">{data}</edge>\n')

    def close(self) -> None:
        """End the file."""
        self._file.write("</graph>\n</graphml>\n")
        self._file.close()

    def _keys(self, where: str, keys: Mapping[str, str]) -> list[str]:
        """Declare the keys of nodes or edges; the opening tags of their values."""
        tags = []
        for name, kind in keys.items():
            key = quoteattr(f"{where[0]}_{name}", _CR)
            self._file.write(f'<key id={key} for="{where}" attr.name={quoteattr(name, _CR)} attr.type="{kind}"/>\n')
            tags.append(f"<data key={key}>")
        return tags


def _data(tags: Iterable[str], values: Iterable[Any]) -> str:
    return "".join(f"{tag}{_text(value)}</data>" for tag, value in zip(tags, values, strict=False) if value is not None)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(value, _CR) if isinstance(value, str) else str(value)
