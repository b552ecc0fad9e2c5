"""The `records` task's example rows, wrong answers, and rows read as objects."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Final

from adapters.rewards.records_schema import Node
from adapters.rewards.records_values import day, number
from adapters.types import Row

ROWS: Final[tuple[Row, ...]] = (
    {
        "id": "made-1",
        "text": "SAMPLE BAKERY\nNo. 2041-77   3 May 2024\n2 x Rye bread 3.40\n1 x Plum cake 2.50\nTotal EUR 9.30\nCard",
        "object": {
            "shop": "Sample Bakery",
            "number": "2041-77",
            "date": "2024-05-03",
            "currency": "EUR",
            "items": [
                {"name": "Rye bread", "quantity": 2, "price": 3.4},
                {"name": "Plum cake", "quantity": 1, "price": 2.5},
            ],
            "total": 9.3,
            "paid_by": "card",
        },
    },
    {
        "id": "made-2",
        "text": "Example Tools, 2024-11-30: 1 Hammer at 18.00. To pay: 18.00 GBP in cash.",
        "object": {
            "shop": "Example Tools",
            "date": "2024-11-30",
            "currency": "GBP",
            "items": [{"name": "Hammer", "quantity": 1, "price": 18.0}],
            "total": 18.0,
            "paid_by": "cash",
        },
    },
    {
        "id": "made-3",
        "text": "Placeholder Books, 07.01.2025. Atlas 1 x 1,200.50, Pencil 3 x 0.80. Sum 1,202.90 USD",
        "object": {
            "shop": "Placeholder Books",
            "date": "2025-01-07",
            "currency": "USD",
            "items": [
                {"name": "Atlas", "quantity": 1, "price": 1200.5},
                {"name": "Pencil", "quantity": 3, "price": 0.8},
            ],
            "total": 1202.9,
        },
    },
    {
        "id": "made-4",
        "text": "Nowhere Café\n12 June 2024, receipt NC/88\nnothing bought, deposit returned: -2.00 EUR",
        "object": {
            "shop": "Nowhere Café",
            "number": "NC/88",
            "date": "2024-06-12",
            "currency": "EUR",
            "items": [],
            "total": -2.0,
        },
    },
)


def column(node: Node, row: Row) -> str | None:
    """The column that holds a row's whole object; None where it has a column for each field."""
    return next((name for name in ("object", "gold") if row.get(name) is not None and name not in node.fields), None)


def of_row(node: Node, row: Row) -> dict[str, Any]:
    """The object of a row: its column `object` or `gold`, an object or its JSON text, else its columns by name."""
    name = column(node, row)
    if name is None:
        return _of_columns(node, row)
    value = row[name]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is text, but not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be an object, not {json.dumps(value, default=str)[:80]}")
    return dict(value)


def _of_columns(node: Node, row: Row) -> dict[str, Any]:
    if not any(name in row for name in node.fields):
        fields = ", ".join(list(node.fields)[:8])
        raise ValueError(f"there is no object: neither a column object (or gold), nor columns of its fields ({fields})")
    return {name: _cell(inner, row.get(name), name) for name, inner in node.fields.items()}


def _cell(node: Node, cell: Any, name: str) -> Any:
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    if node.kind not in ("object", "array"):
        return _typed(node, cell)
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is text, but not JSON: {error}") from None


def typed(node: Node, value: Any) -> Any:
    """An answer with its values in the types of the schema, where the scorer would read them so."""
    if isinstance(value, Mapping):
        return {name: typed(node.fields[name], v) if name in node.fields else v for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [typed(node.item or node, item) for item in value]
    return _typed(node, value)


def _typed(node: Node, value: Any) -> Any:
    """The value that a text writes; the text itself where it is none of the field's kind. A number may be a string."""
    if node.kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    if not isinstance(value, str):
        return value
    if node.kind in ("number", "integer") and (found := number(value)) is not None:
        return int(found) if found.is_integer() else found
    if node.kind == "boolean":
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    if node.kind == "date":
        return day(value) or value
    if node.kind == "enum":
        return next((allowed for allowed in node.checks["enum"] if str(allowed) == value.strip()), value)
    return value


def wrong(node: Node, gold: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Plausible wrong objects, by name; only those that this object allows."""
    out: dict[str, dict[str, Any]] = {"invented field": {**gold, "nonesuch": "Nonesuch"}}
    filled = list(gold)
    if len(filled) > 1:
        out["one field missing"] = {name: gold[name] for name in filled[1:]}
    for name, inner in node.fields.items():
        values = gold.get(name)
        if inner.kind == "array" and isinstance(values, list) and values:
            out["an item twice"] = {**gold, name: [*values, copy.deepcopy(values[0])]}
            out["one item missing"] = {**gold, name: values[1:]}
        elif inner.kind in ("number", "integer") and isinstance(values, int | float):
            out["wrong number"] = {**gold, name: values + 1 + 2 * inner.tolerance}
        elif inner.kind == "string" and isinstance(values, str):
            out["wrong text"] = {**gold, name: f"Nonesuch {values}"}
    return out
