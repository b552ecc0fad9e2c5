"""Rows in the forms of other tools, and labels that are JSON text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from adapters.data.json_text import from_text
from adapters.types import Row

_OTHER_FORMS: Final = ("tokens", "ner_tags", "tokenized_text", "ner", "spans", "entities", "label", "labels", "data")
"""Columns of annotation tools and datasets, where they hold lists or objects."""
LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
"""Half a character, which no tokenizer takes and no file in UTF-8 holds."""
_GOLD: Final = ("funders", "gold", "completion", "chosen")


def row_text(row: Row, field: str) -> str:
    """The text of a row. Raises ValueError for a row without one."""
    text = row.get(field)
    if isinstance(text, str) and text.strip():
        return text
    kind = "" if text is None or isinstance(text, str) else type(text).__name__
    raise ValueError(f"{field} is a value of type {kind}, not a text" if kind else f"{field} is missing or empty")


def asked_text(row: Row, field: str) -> str:
    """The same for a row that is asked about, whose error is of the kind `no text`."""
    try:
        text = row_text(row, field)
    except ValueError as error:
        raise ValueError(f"no text: {error}") from None
    if not text.isascii() and LONE_SURROGATE.search(text):
        raise ValueError(f"no text: {field} holds a lone surrogate: it was decoded wrongly")
    return text


def conversion_hint(row: Row) -> str:
    """What to do about a row in another tool's form, to follow what is wrong with it; else nothing."""
    found = [name for name in _OTHER_FORMS if isinstance(row.get(name), list | dict)]
    if not found or any(row.get(name) is not None for name in _GOLD):
        return ""
    return f"; it has {' and '.join(found)}: `adapters data convert` makes text and gold of such rows"


def with_structures(row: Row, structures: Iterable[str]) -> Row:
    """The row with those of a task's `structures` decoded that are JSON text; what is none is the task's to refuse."""
    out = row
    for name in structures:
        value = row.get(name)
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            with suppress(ValueError):
                out = {**out, name: from_text(name, value)}
    return out
