"""Nodes, their spellings, and the support of relations in a SQLite file, so that memory holds a block of documents."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from adapters.errors import UserError
from adapters.graph.elements import Key, Node, document_id, normalised

_BLOCK: Final = 1024
"""Documents between two writes to the file."""
_SCHEMA: Final = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -8000;
CREATE TABLE document (id TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE node (id TEXT PRIMARY KEY, type TEXT, name TEXT NOT NULL, mentions INT, documents INT) WITHOUT ROWID;
CREATE TABLE spelling (node TEXT, type TEXT, text TEXT, n INT, PRIMARY KEY (node, type, text)) WITHOUT ROWID;
CREATE TABLE relation (source TEXT, label TEXT, target TEXT, documents INT, first INT,
                       PRIMARY KEY (source, label, target)) WITHOUT ROWID;
CREATE TABLE attribute (name TEXT, kind TEXT, PRIMARY KEY (name, kind)) WITHOUT ROWID;
CREATE TABLE entity (id TEXT, type TEXT, name TEXT, aliases TEXT, mentions INT, documents INT, registry_id TEXT);
"""
# Another key under a node's id makes the name NULL, which the column refuses.
_ADD_NODE: Final = """
INSERT INTO node VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET
name = CASE WHEN type IS excluded.type AND name = excluded.name THEN name END,
mentions = mentions + excluded.mentions, documents = documents + excluded.documents
"""
_ADD_SPELLING: Final = "INSERT INTO spelling VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_ADD_RELATION: Final = """
INSERT INTO relation VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET documents = documents + excluded.documents
"""
_NODES: Final = """
SELECT node.id, spelling.type, spelling.text, n, mentions, documents, CASE WHEN node.type IS NULL THEN node.name END
FROM node JOIN spelling ON spelling.node = node.id ORDER BY node.id
"""


class Store:
    """The file. Documents come in the order of the corpus; `finish` ends them, and only then it is read."""

    def __init__(self, path: Path) -> None:
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.executescript(_SCHEMA)
        self._file.execute("BEGIN")
        self._clear()

    def _clear(self) -> None:
        self._pending = 0
        self._mentions: Counter[Key] = Counter()
        self._documents: Counter[Key] = Counter()
        self._spellings: Counter[tuple[Key, str, str]] = Counter()
        self._relations: dict[tuple[str, str, str], list[int]] = {}

    def name_document(self, name: str, row: int) -> tuple[str, str]:
        """Id and name of a document: `name#row` where an earlier document has the name."""
        known = "SELECT name FROM document WHERE id = ?"
        while (found := self._file.execute(known, [identity := document_id(name)]).fetchone()) is not None:
            _check(found[0] == name, identity)
            name = f"{name}#{row}"
        self._file.execute("INSERT INTO document VALUES (?, ?)", [identity, name])
        return identity, name

    def add(
        self,
        row: int,
        spellings: Counter[tuple[Key, str, str]],
        relations: Sequence[tuple[str, str, str]],
        attributes: Sequence[tuple[str, str]],
    ) -> None:
        """Count a document: (key, type, spelling) with its mentions, its relations, names and kinds of attributes."""
        for (key, _, _), mentions in spellings.items():
            self._mentions[key] += mentions
        self._documents.update({key for key, _, _ in spellings})
        for spelling, mentions in spellings.items():
            self._spellings[spelling] += mentions  # also 0: a spelling that stands nowhere
        for relation in dict.fromkeys(relations):
            self._relations.setdefault(relation, [0, row])[0] += 1
        self._file.executemany("INSERT OR IGNORE INTO attribute VALUES (?, ?)", attributes)
        self._pending += 1
        if self._pending >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        nodes = [
            (key.id, *key, self._mentions[key], n) for key, n in sorted(self._documents.items(), key=lambda i: i[0].id)
        ]
        try:
            self._file.executemany(_ADD_NODE, nodes)
        except sqlite3.IntegrityError:
            _check(False, "a node")
        self._file.executemany(_ADD_SPELLING, sorted((key.id, *rest, n) for (key, *rest), n in self._spellings.items()))
        self._file.executemany(_ADD_RELATION, sorted((*key, *value) for key, value in self._relations.items()))
        self._clear()

    def finish(self) -> None:
        """End the documents, and choose the name of each node."""
        self._flush()
        rows = self._file.execute(_NODES)
        made = (_node(list(group)) for _, group in groupby(rows, key=lambda row: row[0]))
        values = ((*node[:3], json.dumps(node.aliases), *node[4:]) for node in made)
        self._file.cursor().executemany("INSERT INTO entity VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def nodes(self) -> Iterator[Node]:
        """All entities, by type and normalised name."""
        self._file.create_function("normalised", 1, normalised, deterministic=True)
        for row in self._file.execute("SELECT * FROM entity ORDER BY type, normalised(name), id"):
            yield Node._make((*row[:3], tuple(json.loads(row[3])), *row[4:]))

    def support(self, source: str, label: str, target: str) -> tuple[int, int]:
        """Documents that have a relation, and the row of the first of them."""
        query = "SELECT documents, first FROM relation WHERE source = ? AND label = ? AND target = ?"
        found: tuple[int, int] = self._file.execute(query, [source, label, target]).fetchone()
        return found

    def attributes(self) -> dict[str, str]:
        """The names of the documents' attributes with their kinds; of several kinds, `string`."""
        query = "SELECT name, CASE WHEN count(*) = 1 THEN min(kind) ELSE 'string' END FROM attribute GROUP BY name"
        return dict(self._file.execute(query))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _node(rows: Sequence[tuple[Any, ...]]) -> Node:
    """A node of its spellings: id, type, spelling, count, mentions, documents, registry id."""
    types: Counter[str] = Counter()
    spellings: Counter[str] = Counter()
    for _, kind, text, n, *_ in rows:
        types[kind] += n
        spellings[text] += n
    aliases = tuple(text for text, _ in sorted(spellings.items(), key=lambda item: (-item[1], item[0])))
    kind = min(types, key=lambda name: (-types[name], name))
    identity, *_, mentions, documents, registry_id = rows[0]
    return Node(identity, kind, aliases[0], aliases, mentions, documents, registry_id)


def _check(is_one: bool, what: str) -> None:
    if not is_one:
        raise UserError(f"two names have one id ({what}), so they cannot be told apart in this graph.")
