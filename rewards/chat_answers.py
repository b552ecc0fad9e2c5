"""An assistant's turn as text: the tool calls in it, and two such texts compared.

Models write tool calls in the form of their chat template. These are read:

| form | written by |
|---|---|
| `<tool_call>{"name": …, "arguments": {…}}</tool_call>` | Hermes, Qwen 2.5 and 3, SmolLM3; also with `<function=…><parameter=…>` inside (Qwen3-Coder, Qwen3.5) or `<arg_key>` (GLM) |
| `<function=NAME>{…}</function>` | Llama 3.1 |
| `[TOOL_CALLS]` with a list, or with `NAME{…}` or `NAME[ARGS]{…}` for each call, the mark perhaps left out by decoding | Mistral |
| `to=functions.NAME`, then `json` and an object | gpt-oss |
| nothing but JSON objects of `name` and `arguments` or `parameters`, in a list or apart by semicolons | Llama 3, Mistral without special tokens |
"""  # noqa: E501 - the table's rows are lines

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

Call = Mapping[str, Any]
"""`{"name": TEXT, "arguments": OBJECT}`."""

MAX_TEXT: Final = 1_000_000
"""Longer texts are read as text without calls."""
_BLOCK = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"<function=([^<>\s]+)>(.*?)(?:</function>|\Z)", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^<>]+)>(.*)", re.DOTALL)
_ARGUMENT = re.compile(r"(.*)</arg_key>\s*<arg_value>(.*)", re.DOTALL)
_NAMED = re.compile(r"\s*,?\s*([\w.-]+)\s*(?:\[ARGS\]\s*)?(?=\{)")
_HARMONY = re.compile(r"(?:commentary\s*)?to=functions\.([\w.-]+?)\s*(?:commentary)?\s*json\s*(?=\{)")
_SPECIAL = re.compile(r"<\|\w+\|>")
_MARKS = ("[TOOL_CALLS]", "<|python_tag|>")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|(?:(?![\u3040-\u30ff\u3400-\u9fff])\w)+")


class Answer(NamedTuple):
    """A turn as it was read: its text without the calls, the calls, and why one cannot be read (empty: all can).

    A text that is nothing but JSON of calls is both: only the reference tells whether a call or JSON was wanted.
    """

    content: str
    calls: tuple[Call, ...] = ()
    problem: str = ""


def write(message: Mapping[str, Any]) -> str:
    """A message of the assistant as text, its calls in the form of Hermes."""
    calls = [called(call["function"]) for call in message.get("tool_calls") or ()]
    blocks = [f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in calls]
    return "\n".join([*filter(None, [message.get("content")]), *blocks])


def called(function: Mapping[str, Any]) -> dict[str, Any]:
    """Name and arguments of a call, alone."""
    return {"name": function["name"], "arguments": function["arguments"]}


def read(text: str) -> Answer:
    """The text and the calls of a turn. Never raises."""
    if len(text) > MAX_TEXT:
        return Answer(text)
    if "<tool_call>" in text:
        return _blocks(text, _BLOCK, lambda match: _in_block(match[1]))
    if "<function=" in text:
        return _blocks(text, _FUNCTION, lambda match: _function(match[1], match[2]))
    for mark in _MARKS:
        if mark in text:
            content, _, rest = text.partition(mark)
            calls = _listed(rest.replace(mark, ""))
            return Answer(content.strip(), calls or (), "" if calls else f"{mark} is followed by no readable call")
    if "to=functions." in text:
        plain = _SPECIAL.sub("", text)
        content, calls = _HARMONY.split(plain, maxsplit=1)[0].strip(), _named(plain, _HARMONY, anywhere=True)
        return Answer(content, calls or (), "" if calls else "a tool call cannot be read")
    alone = _listed(text) if text.lstrip()[:1] in ("{", "[") or _NAMED.match(text) else None
    return Answer(text.strip(), alone or ())


def _blocks(text: str, pattern: re.Pattern[str], parse: Any) -> Answer:
    calls = [parse(match) for match in pattern.finditer(text)]
    content = pattern.sub("\n", text).strip()
    problem = "a tool call cannot be read" if None in calls or not calls else ""
    return Answer(content, tuple(call for call in calls if call is not None), problem)


def _in_block(text: str) -> Call | None:
    if function := _FUNCTION.search(text):
        return _function(function[1], function[2])
    if "<arg_key>" in text:
        name, *rest = text.split("<arg_key>")
        return _with_values(name, [part.partition("</arg_value>")[0] for part in rest], _ARGUMENT)
    calls = _calls(_json(text))
    return calls[0] if calls else None


def _function(name: str, text: str) -> Call | None:
    if "<parameter=" in text:
        return _with_values(name, re.split(r"\n?</parameter>", text)[:-1], _PARAMETER)
    arguments = _json(text) if text.strip() else {}
    return {"name": name, "arguments": arguments} if isinstance(arguments, dict) else None


def _with_values(name: str, parts: Sequence[str], pattern: re.Pattern[str]) -> Call | None:
    """A call whose arguments stand one by one; each part holds a key and a value."""
    pairs = [pattern.search(part) for part in parts]
    values = {pair[1].strip(): _value(pair[2].removeprefix("\n")) for pair in pairs if pair is not None}
    return {"name": name.strip(), "arguments": values} if len(values) == len(parts) else None


def _listed(text: str) -> tuple[Call, ...] | None:
    """The calls of a text that is nothing but calls; None where it is anything else."""
    value = _json(text)
    if value is None and (named := _named(text)):
        return named
    if value is None and ";" in text:
        value = [_json(part) for part in re.split(r";\s*(?=\{)", text)]
    return _calls(value)


def _named(text: str, pattern: re.Pattern[str] = _NAMED, *, anywhere: bool = False) -> tuple[Call, ...] | None:
    """Names with an object behind each, and nothing else; or `anywhere` in the text. None where one is unreadable."""
    calls: list[Call] = []
    place, decoder = 0, json.JSONDecoder()
    while match := pattern.search(text, place) if anywhere else pattern.match(text, place):
        try:
            arguments, place = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            return None
        calls.append({"name": match[1], "arguments": arguments})
    return tuple(calls) if calls and (anywhere or not text[place:].strip()) else None


def _calls(value: Any) -> tuple[Call, ...] | None:
    items = value if isinstance(value, list) else [value]
    calls = []
    for item in items:
        function = item.get("function", item) if isinstance(item, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return None
        arguments = function.get("arguments", function.get("parameters"))
        arguments = _json(arguments) if isinstance(arguments, str) else arguments
        if not isinstance(arguments, dict):
            return None
        calls.append({"name": function["name"], "arguments": arguments})
    return tuple(calls) or None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _value(text: str) -> Any:
    """A parameter of a form that writes texts without quotes, and all else as JSON."""
    value = _json(text)
    return text if value is None or isinstance(value, str) else value


# ------------------------------------------------------------------------------------------------------------- compared


def is_json(text: str) -> bool:
    """Whether a text is a JSON object or list and nothing else."""
    return isinstance(_json(text), dict | list)


def same_text(gold: str, pred: str) -> bool:
    """Whether two texts are one but for white space around them and the form of their Unicode; JSON is compared read.

    Objects are equal in any order of their keys.
    """
    if is_json(gold) and is_json(pred):
        return _canonical(_json(gold)) == _canonical(_json(pred))
    return unicodedata.normalize("NFC", gold.strip()) == unicodedata.normalize("NFC", pred.strip())


def token_f1(gold: str, pred: str) -> float:
    """F1 of the words that two texts share, each as often as it stands in both (SQuAD, Rajpurkar et al. 2016).

    Words are runs of letters, digits and underscores without case, and single characters of Chinese and Japanese; no
    word is left out. Texts without words score 1 if they are the same and 0 otherwise.
    """
    words, others = _words(gold), _words(pred)
    if not words or not others:
        return float(words == others and same_text(gold, pred))
    shared = (words & others).total()
    return 2 * shared / (words.total() + others.total())


def matched_calls(gold: Sequence[Call], pred: Sequence[Call]) -> int:
    """Calls with the same name and arguments on both sides, each used once."""
    return (Counter(map(_canonical, gold)) & Counter(map(_canonical, pred))).total()


def _words(text: str) -> Counter[str]:
    return Counter(_WORD.findall(unicodedata.normalize("NFC", text).casefold()))


def _canonical(value: Any) -> str:
    try:
        return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)


def _whole(value: Any) -> Any:
    """1.0 as 1: JSON does not tell them apart."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list | tuple) else value
