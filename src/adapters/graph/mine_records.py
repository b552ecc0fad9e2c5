"""The records of `mine` as facts.

A record is `{"kept": bool, NAME: …}`. A label is true or false, its score a number: attributes of the document. Spans
are a list of `{text, start, end}`, or one of these; NAME is the type of the entity. A span inside another one (`each`)
is related to it. A dropped text (`kept` is false) has its labels alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from adapters.types import Attribute, Entity, Fact, Relation, Row

_OWN = ("text", "start", "end", "kept")
"""Names in a span, and in a record, that are of no step."""


def graph(record: Mapping[str, Any], row: Row | None = None) -> Iterator[Fact]:
    """The facts of one record."""
    for name, value in record.items():
        if name not in _OWN and isinstance(value, bool | int | float):
            yield Attribute(name, value)
    if record.get("kept", True):
        yield from _spans(record, None)


def _spans(holder: Mapping[str, Any], outer: Entity | None) -> Iterator[Fact]:
    """The spans in a record or in a span, with those inside them."""
    for name, value in holder.items():
        for span in value if isinstance(value, list) else [value]:
            if name in _OWN or not isinstance(span, Mapping) or not span.get("kept", True):
                continue
            entity = Entity(name, str(span["text"]), (int(span["start"]), int(span["end"])))
            yield entity
            if outer is not None:
                yield Relation(name, outer, entity)
            yield from _spans(span, entity)
