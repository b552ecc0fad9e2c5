"""Preference pairs as rows, for DPO.

A row with `prompt` and `rejected` needs no task: `prompt` is a text or a list of messages, `chosen` and `rejected` are
each a text or a list of one assistant message, `gold` and `meta` are handed on. A row of the task's own columns that
also has `rejected` (and perhaps `chosen`) is read by the task, and gets that other side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adapters.types import Example, Message, Row, Task


def example(task: Task, row: Row, *, source: str, id: str) -> Example:
    """A row as an example, with its rejected side if it has one. Raises ValueError."""
    if row.get("rejected") is None:
        return task.example(row, source=source, id=id)
    rejected = side(row, "rejected")
    if "prompt" in row:
        prompt, chosen = messages(row["prompt"]), side(row, "chosen")
        return Example(id, source, prompt, chosen, rejected, row.get("gold"), meta(row))
    own = task.example(row, source=source, id=id)
    return replace(own, rejected=rejected, completion=side(row, "chosen") if row.get("chosen") else own.completion)


def messages(value: Any) -> tuple[Message, ...]:
    """A prompt column as messages; a text is one message of the user. Raises ValueError."""
    if isinstance(value, str) and value:
        return ({"role": "user", "content": value},)
    turns = list(value) if isinstance(value, list | tuple) else []
    texts = [m.get(key) for m in turns if isinstance(m, dict) for key in ("role", "content")]
    if not turns or len(texts) < 2 * len(turns) or not all(isinstance(text, str) for text in texts):
        raise ValueError("prompt must be a text or a list of messages with role and content")
    if turns[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant's own turn; it must end where the answer starts")
    return tuple({"role": m["role"], "content": m["content"]} for m in turns)


def meta(row: Row) -> dict[str, Any]:
    """What a row hands on to rewards. Raises ValueError."""
    value = row.get("meta") or {}
    if not isinstance(value, dict):
        raise ValueError(f"meta must be an object, not {type(value).__name__}")
    return value


def side(row: Row, name: str) -> str:
    """One completion of a pair as text. Raises ValueError."""
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        if value[0].get("role") != "assistant":
            raise ValueError(f"{name} must be a message of the assistant")
        value = value[0].get("content")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text or a list of one assistant message, without the prompt's messages")
    return value
