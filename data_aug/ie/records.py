"""IEPile's records (JSON inside JSON), and the plain rows made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Row = dict[str, Any]


def row_id(text: str) -> str:
    """The SHA-256 of a text, as in IEPile's evaluation files."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_iepile(record: Mapping[str, Any]) -> bool:
    """Whether a record is in IEPile's form, training or test."""
    return isinstance(record.get("instruction"), str) and ("output" in record or "label" in record)


def from_iepile(record: Mapping[str, Any]) -> Row:
    """The plain row of an IEPile record: one text with one batch of the schema.

    `language` is "en" when the instruction is ASCII, as it is in the English part. Relations get head and tail, which
    the data calls subject and object in most places. Raises ValueError for a record that cannot be read.
    """
    instruction = _inner(record, "instruction")
    if not isinstance(instruction, dict) or not isinstance(instruction.get("input"), str):
        raise ValueError("instruction holds no input text")
    schema = instruction.get("schema")
    if not isinstance(schema, list) or not schema or not all(isinstance(label, str) for label in schema):
        raise ValueError("instruction holds no schema of label names")
    gold = _inner(record, "output") if "output" in record else _grouped(_inner(record, "label"), schema)
    if not isinstance(gold, dict) or not all(isinstance(entries, list | None) for entries in gold.values()):
        raise ValueError("output is no object from labels to lists")
    if unknown := [label for label, entries in gold.items() if entries and label not in schema]:
        raise ValueError(f"output has the label {unknown[0]!r}, which is not in the schema")
    text = instruction["input"]
    return {
        "id": row_id(text),
        "task": str(record.get("task", "")),
        "source": str(record.get("source", "")),
        "language": "en" if str(instruction.get("instruction", "")).isascii() else "other",
        "schema": schema,
        "text": text,
        "gold": {label: [_entry(entry) for entry in gold.get(label) or ()] for label in schema},
    }


def _inner(record: Mapping[str, Any], key: str) -> Any:
    value = record.get(key)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key} is not JSON: {error}") from None


def _grouped(labels: object, schema: list[str]) -> dict[str, list[Any]]:
    """A test record's flat list of labels, grouped by type or relation.

    The list covers the whole text; labels outside the record's schema belong to other batches.
    """
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        raise ValueError("label is no list of objects")
    by_name: dict[str, list[Any]] = {}
    for label in labels:
        name = label.get("entity_type") or label.get("relation")
        if name in schema:
            by_name.setdefault(name, []).append(label.get("entity", label))
    return by_name


def _entry(entry: object) -> str | dict[str, str]:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        for head, tail in (("head", "tail"), ("subject", "object")):
            if isinstance(entry.get(head), str) and isinstance(entry.get(tail), str):
                return {"head": entry[head], "tail": entry[tail]}
    raise ValueError(f"{json.dumps(entry)[:80]} is neither a text nor a pair of head and tail")
