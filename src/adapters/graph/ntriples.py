"""A graph as N-Triples: a triple for each fact, and an rdf:Statement for each of its occurrences.

Offsets and sentences have the terms of NIF 2.0 Core, the source of a statement that of PROV-O.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import quote

from adapters.graph.elements import Document, Edge, Node

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_TYPE: Final = f"<{_RDF}type>"
_LABEL: Final = "<http://www.w3.org/2000/01/rdf-schema#label>"
_ALIAS: Final = "<http://www.w3.org/2004/02/skos/core#altLabel>"
_REGISTRY_ID: Final = "<http://purl.org/dc/terms/identifier>"
_SOURCE: Final = "<http://www.w3.org/ns/prov#wasDerivedFrom>"
_NIF: Final = "http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#"
_XSD: Final = "http://www.w3.org/2001/XMLSchema#"
_OFFSET: Final = f"<{_XSD}nonNegativeInteger>"
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED: Final = re.compile('["\\\\\n\r\t]')


class NTriples:
    """Writes one file. IRIs are the base and an id, or the base, a kind and a percent-encoded name."""

    def __init__(self, path: Path, base: str) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._base = base
        self._named = lru_cache(maxsize=4096)(self._name)

    def _id(self, identity: str) -> str:
        return f"<{self._base}{identity}>"

    def _name(self, kind: str, name: str) -> str:
        return f"<{self._base}{kind}/{quote(name, safe='')}>"

    def _write(self, subject: str, *pairs: tuple[str, str]) -> None:
        self._file.writelines(f"{subject} {predicate} {value} .\n" for predicate, value in pairs)

    def entity(self, node: Node) -> None:
        """Write an entity."""
        aliases = [(_ALIAS, _literal(alias)) for alias in node.aliases[1:]]
        known = [(_REGISTRY_ID, _literal(node.registry_id))] if node.registry_id else []
        kind = (_TYPE, self._named("type", node.type))
        self._write(self._id(node.id), kind, (_LABEL, _literal(node.name)), *aliases, *known)

    def document(self, document: Document) -> None:
        """Write a document."""
        attributes = [(self._named("attribute", name), _typed(value)) for name, value in document.attributes.items()]
        kind = (_TYPE, self._named("type", "document"))
        self._write(self._id(document.id), kind, (_LABEL, _literal(document.name)), *attributes)

    def edge(self, edge: Edge) -> None:
        """Write an edge."""
        source, target, relation = self._id(edge.source), self._id(edge.target), self._named("relation", edge.relation)
        if edge.is_first:
            self._write(source, (relation, target))
        said = [(_TYPE, f"<{_RDF}Statement>")]
        said += [(f"<{_RDF}subject>", source), (f"<{_RDF}predicate>", relation), (f"<{_RDF}object>", target)]
        said.append((_SOURCE, self._id(edge.document_id)))
        if edge.extent is not None:
            start, end = edge.extent
            said += [(f"<{_NIF}beginIndex>", f'"{start}"^^{_OFFSET}'), (f"<{_NIF}endIndex>", f'"{end}"^^{_OFFSET}')]
        if edge.sentence_text is not None:
            said.append((f"<{_NIF}anchorOf>", _literal(edge.sentence_text)))
        self._write(self._id(edge.id), *said)

    def close(self) -> None:
        """End the file."""
        self._file.close()


def _literal(text: str) -> str:
    return f'"{_ESCAPED.sub(lambda match: _ESCAPES[match[0]], text)}"'


def _typed(value: bool | float | str) -> str:
    if isinstance(value, str):
        return _literal(value)
    if isinstance(value, bool):
        return f'"{str(value).lower()}"^^<{_XSD}boolean>'
    return f'"{value!r}"^^<{_XSD}double>'
