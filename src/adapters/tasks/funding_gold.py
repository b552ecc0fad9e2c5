"""Gold of the `funding` task as text, whatever types a table or a library gave its labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.data.json_text import label_text

FIELDS = ("award_ids", "funding_scheme", "award_title")


def as_text(funder: Mapping[str, Any]) -> dict[str, Any]:
    """A labelled funder with texts as its labels, and no missing ones. Raises ValueError for anything else."""
    awards = _items(funder.get("awards"), "awards")
    awards = [award for award in awards if award is not None]
    if not all(isinstance(award, Mapping) for award in awards):
        raise ValueError("awards must be a list of objects with award_ids, funding_scheme and award_title")
    out = {"funder_name": _text("funder_name", funder.get("funder_name")), **_fields(funder)}
    # A funder may have the fields of its one award itself.
    return out | ({"awards": [_fields(award) for award in awards]} if awards else {})


def _fields(award: Mapping[str, Any]) -> dict[str, list[str]]:
    fields = {name: [_text(name, value) for value in _items(award[name], name)] for name in FIELDS if name in award}
    return {name: [text for text in texts if text is not None] for name, texts in fields.items()}


def _items(value: Any, name: str) -> list[Any]:
    """A list, tuple or numpy array as a list, a missing one as an empty list, a scalar as a list of one."""
    if isinstance(value, list | tuple):
        return list(value)
    if hasattr(value, "tolist") and getattr(value, "ndim", None):
        return list(value.tolist())
    missing = value is None or (isinstance(value, float) and value != value)
    return [] if missing else [value]


def _text(name: str, value: Any) -> str | None:
    try:
        text = label_text(value)
        return text if text and not text.isspace() else None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
