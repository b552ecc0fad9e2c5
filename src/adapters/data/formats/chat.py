"""Conversations: ShareGPT, Alpaca, OpenAI messages, prompt and completion, preference pairs.

Rows for chat are `{"messages": [{"role", "content", …}, …], "tools": […]}`, or pairs: `{"prompt": [message, …],
"chosen": [message], "rejected": [message]}`. A record that cannot be kept whole is left out and counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from adapters.data.formats.base import Format, LeftOut, Reader
from adapters.data.formats.source import Source
from adapters.data.formats.spans import count_keys
from adapters.data_aug.ie.sentences import Options
from adapters.types import Row

Turn = dict[str, Any]
ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "bing": "assistant", "bard": "assistant", "function_call": "assistant",
    "system": "system", "developer": "developer",
    "tool": "tool", "observation": "tool", "function": "function", "function_response": "tool",
}  # fmt: skip
"""Roles as files name them, and as chat templates do."""
_MESSAGE_KEYS = (
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "thinking", "weight",
    "refusal",
)  # fmt: skip
NO_ANSWER = "conversations that do not end with the assistant"
"""Counted, not left out."""
_KEPT = tuple(key for key in _MESSAGE_KEYS if key not in ("role", "content", "function_call", "refusal"))


class UnusableError(ValueError):
    """A record that is left out; the message is the reason to count it by."""


def _rows(convert: Callable[[Mapping[str, Any], LeftOut], Row], recognises: Callable[[Any], bool], what: str) -> Reader:
    """A reader of records that makes a row of each. Raises ValueError for a record of another form."""

    def read(source: Source, options: Options, left_out: LeftOut) -> Iterator[Row]:
        for place, record in source.records():
            if not recognises(record):
                raise ValueError(f"{place}: no {what}")
            try:
                row = convert(record, left_out)
            except UnusableError as reason:
                left_out[str(reason)] += 1
                continue
            identity = record.get("id")
            if "messages" in row and row["messages"][-1]["role"] != "assistant":
                left_out[NO_ANSWER] += 1
            yield {"id": identity, **row} if type(identity) in (str, int) else row

    return read


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _tools(record: Mapping[str, Any]) -> dict[str, Any]:
    """The tools of a record, a list or the text of one."""
    tools = record.get("tools")
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise UnusableError("records whose tools are text but not JSON") from None
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise UnusableError("records whose tools are no list of objects")
    return {"tools": tools} if tools else {}


# ----------------------------------------------------------------------------------------------------- OpenAI messages


def _messages(value: Any, left_out: LeftOut) -> list[Turn]:
    """Messages of OpenAI's form, kept as they are but for texts in parts, which are joined."""
    if not isinstance(value, list) or not value or not all(isinstance(m, dict) for m in value):
        raise UnusableError("records without messages")
    turns = []
    for message in value:
        role = message.get("role")
        if role not in ROLES.values():
            raise UnusableError(f"records with the unknown role {role!r:.40}")
        content = message.get("content") if message.get("content") is not None else message.get("refusal")
        if isinstance(content, list):
            if not all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
                raise UnusableError("records with images, audio or files")
            content = "".join(p["text"] for p in content)
        if content is not None and not isinstance(content, str):
            raise UnusableError("records whose content is no text")
        if content is None and not message.get("tool_calls") and not message.get("function_call"):
            raise UnusableError("records with a message of nothing")
        count_keys(message, _MESSAGE_KEYS, left_out)
        kept = {key: message[key] for key in _KEPT if message.get(key) is not None}
        if call := message.get("function_call"):  # the form before there were tools
            kept["tool_calls"] = [{"type": "function", "function": call}]
        turns.append({"role": role, "content": content, **kept})
    return turns


_CONVERSATION = ("messages", "conversations", "conversation")


def _conversation(record: Any) -> list[Any]:
    """The list of turns of a record, whatever its key; empty if it has none."""
    if not isinstance(record, dict):
        return []
    return next((record[k] for k in _CONVERSATION if isinstance(record.get(k), list) and record[k]), [])


def _is_openai(record: Any) -> bool:
    return all(isinstance(m, dict) and "role" in m for m in _conversation(record) or [None]) and not _is_pair(record)


def _openai(record: Mapping[str, Any], left_out: LeftOut) -> Row:
    count_keys(record, (*_CONVERSATION, "id", "tools"), left_out)
    return {"messages": _messages(_conversation(record), left_out), **_tools(record)}


# ------------------------------------------------------------------------------------------------------------ ShareGPT


def _is_sharegpt(record: Any) -> bool:
    return all(isinstance(m, dict) and "from" in m and "value" in m for m in _conversation(record) or [None])


def _turns(conversation: Sequence[Mapping[str, Any]], left_out: LeftOut) -> list[Turn]:
    turns = []
    for number, turn in enumerate(conversation):
        said, value = turn.get("from"), turn.get("value")
        if not isinstance(said, str) or said not in ROLES:
            raise UnusableError(f"records with the unknown role {said!r:.40}")
        if not isinstance(value, str):
            raise UnusableError("records whose value is no text")
        count_keys(turn, ("from", "value"), left_out)
        turns.append(_call(value, number) if said == "function_call" else {"role": ROLES[said], "content": value})
    return turns


def _call(value: str, number: int) -> Turn:
    """The call of a function, which LLaMA-Factory writes as the JSON of name and arguments."""
    try:
        call = json.loads(value)
        calls = [{"name": c["name"], "arguments": c["arguments"]} for c in (call if isinstance(call, list) else [call])]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise UnusableError("records with a function call that is no JSON of name and arguments") from None
    made = [{"id": f"call_{number}_{n}", "type": "function", "function": call} for n, call in enumerate(calls)]
    return {"role": "assistant", "content": None, "tool_calls": made}


def _sharegpt(record: Mapping[str, Any], left_out: LeftOut) -> Row:
    turns = _turns(_conversation(record), left_out)
    if (system := _text(record.get("system"))) and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    known = (*_CONVERSATION, "id", "system", "tools")
    if not _is_pair(record):
        count_keys(record, known, left_out)
        return {"messages": turns, **_tools(record)}
    count_keys(record, (*known, "chosen", "rejected"), left_out)
    sides = [record[name] if isinstance(record[name], list) else [record[name]] for name in ("chosen", "rejected")]
    chosen, rejected = (_turns(side, left_out) if all(isinstance(m, dict) for m in side) else side[0] for side in sides)
    return _pair(turns, chosen, rejected, left_out) | _tools(record)


# -------------------------------------------------------------------------------------------------------------- Alpaca

_ALPACA_KEYS = ("instruction", "input", "output", "system", "history", "id", "tools")


def _is_alpaca(record: Any) -> bool:
    if not isinstance(record, dict) or not isinstance(record.get("instruction"), str):
        return False
    return isinstance(record.get("output"), str) or _is_pair(record)


def _alpaca(record: Mapping[str, Any], left_out: LeftOut) -> Row:
    turns: list[Turn] = []
    if system := _text(record.get("system")):
        turns.append({"role": "system", "content": system})
    for exchange in record.get("history") or ():
        if not isinstance(exchange, list) or len(exchange) != 2 or not all(isinstance(t, str) for t in exchange):
            raise UnusableError("records whose history is no list of question and answer")
        turns += [{"role": "user", "content": exchange[0]}, {"role": "assistant", "content": exchange[1]}]
    asked = [text for key in ("instruction", "input") if (text := _text(record.get(key))).strip()]
    turns.append({"role": "user", "content": "\n\n".join(asked)})
    pair = _is_pair(record)
    count_keys(record, (*_ALPACA_KEYS, *(("chosen", "rejected") if pair else ())), left_out)
    if pair:
        return _pair(turns, record["chosen"], record["rejected"], left_out)
    return {"messages": [*turns, {"role": "assistant", "content": record["output"]}], **_tools(record)}


# ----------------------------------------------------------------------------------------------- prompt and completion

_COMPLETIONS = ("completion", "response")


def _is_completion(record: Any) -> bool:
    return isinstance(record, dict) and "prompt" in record and any(key in record for key in _COMPLETIONS)


def _as_turns(value: Any, role: str, left_out: LeftOut) -> list[Turn]:
    if isinstance(value, str):
        if not value.strip():
            raise UnusableError(f"records with an empty text of the {role}")
        return [{"role": role, "content": value}]
    return _messages(value, left_out)


def _completion(record: Mapping[str, Any], left_out: LeftOut) -> Row:
    if record.get("label") is False:  # unpaired preferences
        raise UnusableError("answers with the label false")
    key = next(key for key in _COMPLETIONS if key in record)
    turns = _as_turns(record["prompt"], "user", left_out) + _as_turns(record[key], "assistant", left_out)
    if (system := _text(record.get("system"))) and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    known = ("prompt", key, "id", "tools", "system", *(("label",) if record.get("label") is True else ()))
    count_keys(record, known, left_out)
    return {"messages": turns, **_tools(record)}


# ---------------------------------------------------------------------------------------------------- preference pairs

_OPENAI_PAIR = ("input", "preferred_output", "non_preferred_output")


def _is_pair(record: Any) -> bool:
    return isinstance(record, dict) and ("chosen" in record and "rejected" in record)


def _is_plain_pair(record: Any) -> bool:
    if isinstance(record, dict) and all(key in record for key in _OPENAI_PAIR):
        return True
    return _is_pair(record) and not _is_alpaca(record) and not _is_sharegpt(record)


def _plain_pair(record: Mapping[str, Any], left_out: LeftOut) -> Row:
    if "preferred_output" in record:
        asked: Any = record["input"] if isinstance(record["input"], dict) else {"messages": record["input"]}
        count_keys(record, (*_OPENAI_PAIR, "id"), left_out)
        count_keys(asked, ("messages", "tools"), left_out)
        prompt, tools = _as_turns(asked.get("messages"), "user", left_out), _tools(asked)
        return _pair(prompt, record["preferred_output"], record["non_preferred_output"], left_out) | tools
    count_keys(record, ("prompt", "chosen", "rejected", "id", "tools", "system", *_CONVERSATION), left_out)
    before = record.get("prompt") or _conversation(record)
    prompt = _as_turns(before, "user", left_out) if before else []
    if (system := _text(record.get("system"))) and (not prompt or prompt[0]["role"] != "system"):
        prompt.insert(0, {"role": "system", "content": system})
    return _pair(prompt, record["chosen"], record["rejected"], left_out) | _tools(record)


def _pair(prompt: list[Turn], chosen: Any, rejected: Any, left_out: LeftOut) -> dict[str, Any]:
    """A pair, whose sides may repeat the prompt. Raises UnusableError where they differ in more than one answer."""
    sides = [_as_turns(side, "assistant", left_out) for side in (chosen, rejected)]
    if not prompt or (prompt[-1]["role"] == "user" and all(len(side) > 1 for side in sides)):
        shared = 0
        while all(len(side) > shared + 1 for side in sides) and sides[0][shared] == sides[1][shared]:
            shared += 1
        repeated, sides = sides[0][:shared], [side[shared:] for side in sides]
        asked = [turn for turn in prompt if turn["role"] != "system"]
        if prompt and [t for t in repeated if t["role"] != "system"][-len(asked) :] != asked:
            raise UnusableError("pairs whose sides do not begin with their prompt")
        system = [turn for turn in prompt if turn["role"] == "system" and turn not in repeated]
        prompt = [*system, *repeated]
    if not prompt:
        raise UnusableError("pairs without a prompt")
    if any(len(side) != 1 or side[0]["role"] != "assistant" for side in sides):
        raise UnusableError("pairs that differ in more than one answer of the assistant")
    if sides[0] == sides[1]:
        raise UnusableError("pairs whose sides are the same")
    return {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}


def _chat(
    title: str, recognises: Callable[[Any], bool], convert: Callable[..., Row], example: str, *keys: str
) -> Format:
    return Format(title, "records", {"chat": _rows(convert, recognises, title)}, example, keys, recognises)


SHAREGPT = _chat(
    "ShareGPT conversations",
    _is_sharegpt,
    _sharegpt,
    '{"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "In Lima."}]}',
    "conversations", "system", "tools",
)  # fmt: skip
ALPACA = _chat(
    "Alpaca instructions",
    lambda record: _is_alpaca(record),
    _alpaca,
    '{"instruction": "Name the place.", "input": "Mira flew to Lima.", "output": "Lima"}',
    "instruction", "input", "output",
)  # fmt: skip
OPENAI = _chat(
    "OpenAI messages",
    _is_openai,
    _openai,
    '{"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Lima."}]}',
    "messages", "tools",
)  # fmt: skip
COMPLETION = _chat(
    "prompt and completion",
    _is_completion,
    _completion,
    '{"prompt": "Where?", "completion": "In Lima."}',
    "prompt", "completion",
)  # fmt: skip
PAIRS = _chat(
    "preference pairs",
    _is_plain_pair,
    _plain_pair,
    '{"prompt": "Where?", "chosen": "In Lima.", "rejected": "No idea."}',
    "prompt", "chosen", "rejected",
)  # fmt: skip
