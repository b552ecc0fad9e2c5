"""Preference pairs as rows, for DPO, and conversations in rows.

A row with `prompt` and `rejected` needs no task: `prompt` is a text or a list of messages, `chosen` and `rejected` are
each a text, a message of the assistant or a list of one, `gold` and `meta` are handed on. `system` is put in front of
the prompt, and `tools` are the functions that its conversation may call. A row of the task's own columns that also has
`rejected` (and perhaps `chosen`) is read by the task, and gets that other side.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from adapters.rewards import chat_answers
from adapters.types import ROLES, Example, Message, Row, Task

THOUGHTS: Final = ("reasoning_content", "thinking")
"""Keys under which chat templates look for what was thought before an answer."""
TURN_KEYS: Final = ("role", "content", "tool_calls", *THOUGHTS, "name", "tool_call_id", "tools")
"""Keys of a message that reach the chat template."""


def example(task: Task, row: Row, *, source: str, id: str) -> Example:
    """A row as an example, with its rejected side if it has one. Raises ValueError."""
    if row.get("rejected") is None:
        return task.example(row, source=source, id=id)
    rejected = turn(row, "rejected")
    if "prompt" in row and not getattr(task, "reads_prompt", False):
        own = Example(id, source, conversation(row, "prompt"), gold=row.get("gold"), meta=meta(row))
        own = answered(own, turn(row, "chosen"))
    else:
        own = task.example(row, source=source, id=id)
        own = answered(own, turn(row, "chosen")) if row.get("chosen") else own
    return replace(own, rejected=chat_answers.write(rejected), rejected_answer=_beyond_text(rejected))


def answered(asked: Example, answer: Message) -> Example:
    """The example with an answer."""
    return replace(asked, completion=chat_answers.write(answer), answer=_beyond_text(answer))


def turn_by_turn(example: Example) -> list[Example]:
    """A conversation as one example for each turn that is learned."""
    earlier = [
        answered(replace(example, prompt=example.prompt[:n], learned=(), gold=None), example.prompt[n])
        for n in example.learned
    ]
    return [*earlier, replace(example, learned=())]


def _beyond_text(answer: Message) -> Message | None:
    return answer if answer.keys() & {"tool_calls", *THOUGHTS} else None


def conversation(row: Row, column: str) -> tuple[Message, ...]:
    """The messages of a column, with the row's own `system` and `tools`. Raises ValueError."""
    turns = messages(row[column])
    system, tools = row.get("system"), row.get("tools")
    if system is not None and not isinstance(system, str):
        raise ValueError(f"system must be a text, not {type(system).__name__}")
    if system and any(turn["role"] in ("system", "developer") for turn in turns):
        raise ValueError(f"the row has a system message twice: in the column system and in {column}")
    turns = ({"role": "system", "content": system}, *turns) if system else turns
    return turns if tools is None else ({**turns[0], "tools": _tools(tools)}, *turns[1:])


def messages(value: Any) -> tuple[Message, ...]:
    """A prompt column as messages; a text is one message of the user. Raises ValueError."""
    if isinstance(value, str) and value:
        return ({"role": "user", "content": value},)
    turns = list(value) if isinstance(value, list | tuple) else []
    if not turns or not all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in turns):
        raise ValueError("prompt must be a text or a list of messages with role and content")
    if odd := [m["role"] for m in turns if m["role"] not in ROLES]:
        raise ValueError(f"a message has the role {odd[0]!r} (known: {', '.join(ROLES)})")
    read = tuple(_message(m, f"message {n}") for n, m in enumerate(turns, 1))
    if read[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant's own turn; it must end where the answer starts")
    if any("tools" in turn for turn in read[1:]):
        raise ValueError("tools belong to the whole conversation: a column of the row, or a key of its first message")
    return read


def meta(row: Row) -> dict[str, Any]:
    """What a row hands on to rewards. Raises ValueError."""
    value = row.get("meta") or {}
    if not isinstance(value, dict):
        raise ValueError(f"meta must be an object, not {type(value).__name__}")
    return value


def turn(row: Row, name: str) -> Message:
    """A column that holds the assistant's answer: a text, a message or a list of one. Raises ValueError."""
    value = row.get(name)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, str) and value.strip():
        return {"role": "assistant", "content": value}
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a text or a list of one assistant message, without the prompt's messages")
    read = _message(value, name)
    if read["role"] != "assistant":
        raise ValueError(f"{name} must be a message of the assistant")
    if not read["content"].strip() and not read.get("tool_calls"):
        raise ValueError(f"{name} is an empty turn")
    if odd := [key for key in read if key not in ("role", "content", "tool_calls", *THOUGHTS)]:
        raise ValueError(f"{name} has {odd[0]}, which no answer has")
    return read


def side(row: Row, name: str) -> str:
    """The same as text. Raises ValueError for a turn that is more than text."""
    read = turn(row, name)
    if odd := [key for key in read if key not in ("role", "content")]:
        raise ValueError(f"{name} has {odd[0]}, and this task trains answers as text: write it as the model does")
    return read["content"]


def _message(given: Mapping[str, Any], place: str) -> Message:
    # A null says that there is no such key: tables fill the keys of all their messages with it.
    turn = {key: value for key, value in given.items() if value is not None}
    if odd := [key for key in turn if key not in TURN_KEYS]:
        raise ValueError(
            f"{place} has the key {odd[0]!r}, which would not reach the prompt; known: {', '.join(TURN_KEYS)}"
        )
    for key in ("role", *(turn.keys() & {"name", "tool_call_id", *THOUGHTS})):
        if not isinstance(turn.get(key), str):
            raise ValueError(f"{place}: {key} must be a text, not {type(turn.get(key)).__name__}")
    out: Message = {"role": turn["role"], "content": _content(turn.get("content", ""), place)}
    if calls := turn.get("tool_calls"):
        out["tool_calls"] = [_call(call, place) for call in _list(calls, f"{place}: tool_calls")]
        if out["role"] != "assistant":
            raise ValueError(f"{place} has tool_calls, which only the assistant makes")
    elif not out["content"] and ("content" not in turn or out["role"] == "assistant"):
        raise ValueError(f"{place} is an empty turn: its content is empty or null, and it has no tool_calls")
    for name in (*THOUGHTS, "name", "tool_call_id"):
        if name in turn:
            out[name] = turn[name]
    if "tools" in turn:
        out["tools"] = _tools(turn["tools"])
    return out


def _content(value: Any, place: str) -> str:
    """A message's text; of OpenAI's list of parts, all texts."""
    parts = [{"text": value}] if isinstance(value, str) else value
    texts = [p.get("text") if isinstance(p, Mapping) else p for p in parts] if isinstance(parts, list | tuple) else [0]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{place}: content must be a text or a list of text parts (role and content); other parts are not read"
        )
    return "".join(map(str, texts))


def _call(value: Any, place: str) -> dict[str, Any]:
    function = value.get("function") if isinstance(value, Mapping) else None
    arguments = function.get("arguments", {}) if isinstance(function, Mapping) else None
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            arguments = None
    if (
        not isinstance(function, Mapping)
        or not isinstance(function.get("name"), str)
        or not isinstance(arguments, Mapping)
    ):
        raise ValueError(f"{place}: a tool call is {{'function': {{'name': TEXT, 'arguments': OBJECT or its JSON}}}}")
    known = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {**known, "type": "function", "function": {"name": function["name"], "arguments": dict(arguments)}}


def _tools(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"tools is text, but not JSON: {error}") from None
    tools = _list(value, "tools")
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise ValueError("tools must be a list of JSON schemas of functions")
    return [dict(tool) for tool in tools]


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{what} must be a list, not {type(value).__name__}")
    return list(value)
