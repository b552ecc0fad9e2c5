"""The strings of a record that quote its text, told by the record's JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

Path = tuple[str | int, ...]

_INFERRED: Final = ("enum", "const", "format")
"""Keywords of strings that a text need not hold: choices and dates."""


def quoted_strings(record: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """The strings of a record that quote the text, in its order, with their paths."""
    return _strings(record, schema, schema, ())


def is_quoted(schema: Mapping[str, Any]) -> bool:
    """Whether the text must hold the strings of a place with this schema."""
    return bool(schema.get("x-grounded", True)) and not any(name in schema for name in _INFERRED)


def _strings(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str]]:
    """The strings of a value that quote the text, with their paths."""
    schema = resolved(value, schema, root)
    if isinstance(value, str):
        if is_quoted(schema):
            yield path, value
    elif isinstance(value, Mapping):
        others = schema.get("additionalProperties")
        for name, inner in value.items():
            of_name = schema.get("properties", {}).get(name, others)
            yield from _strings(inner, of_name if isinstance(of_name, Mapping) else {}, root, (*path, name))
    elif isinstance(value, list):
        for n, item in enumerate(value):
            yield from _strings(item, schema.get("items", {}), root, (*path, n))


def resolved(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A place's schema without references, and of several kinds the one that the value has."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return resolved(value, root.get("$defs", {}).get(name, {}), root)
    options = [resolved(value, option, root) for option in schema.get("anyOf", ())]
    kind = "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
    return next((option for option in options if option.get("type", kind) == kind), {}) if options else schema
