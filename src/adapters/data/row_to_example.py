"""A row to an example, or the reason why it cannot be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from adapters.data import preference
from adapters.data.json_text import label_text
from adapters.data.row_forms import LONE_SURROGATE, conversion_hint
from adapters.data.rows import BAD_ROW
from adapters.errors import UserError
from adapters.plugins.task_calls import TaskError, guarded
from adapters.secrets import redact
from adapters.types import Example, Row, Task

_WRITER: Final = json.JSONEncoder(ensure_ascii=False, default=str)
LONGEST = 500_000
"""Upper bound for the characters of a row's text: a longer one is a book, not a passage."""
DEEPEST = 100
"""Upper bound for the levels of brackets in a row; Python's recursion limit is a thousand calls."""


def example_of(task: Task, row: Row, source: str, number: int) -> tuple[Example | None, str]:
    """The example of a row, or None and why it has none. Raises UserError for a task that fails."""
    if BAD_ROW in row:
        return None, row[BAD_ROW]
    try:
        row_id = label_text(row.get("id"))
    except ValueError:
        return None, f"id must be text or a whole number, not {type(row['id']).__name__}"
    text = row.get(task.text_field)
    if isinstance(text, str):
        if len(text) > LONGEST:
            return None, f"{task.text_field} has {len(text):,} characters; the limit is {LONGEST:,}"
        if "\0" in text or LONE_SURROGATE.search(text):
            return None, f"{task.text_field} holds NUL or a lone surrogate: it was decoded wrongly"
    try:
        example = preference.example(
            guarded(task), row, source=source, id=f"{source}:{number}" if row_id is None else row_id
        )
        # What cannot be written as JSON in UTF-8 would fail later, in the tokenizer or when samples are stored.
        values = [example.id, example.prompt, example.completion, example.rejected, example.gold]
        written = _WRITER.encode(values)
        written.encode()
        if written.count("[") + written.count("{") > DEEPEST and _deeper(values, DEEPEST):
            return None, "nested too deeply"
    except TaskError:
        raise
    except UnicodeEncodeError:
        return None, "a text holds a lone surrogate: it was decoded wrongly"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:
        return None, redact(str(error)) + conversion_hint(row)
    except Exception as error:  # a task is anybody's code
        raise UserError(
            f"the task {type(task).__name__}: example fails on row {row_id!r}: {type(error).__name__}: {error}. "
            "For a row that cannot be used it must raise ValueError.",
            at=("task",),
        ) from error
    return example, ""


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, list | tuple) and (not levels or any(_deeper(inner, levels - 1) for inner in value))
