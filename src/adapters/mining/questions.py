"""Questions to a large model about one text: the messages, the key of an answer, and what the answer says."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from adapters.backends.json_stop import first_value
from adapters.data_aug.mine.words import occurrences
from adapters.mining.program import Kind
from adapters.types import Message

FORMAT: Final = 1
"""Version of the messages and the key; another one asks everything again."""
_SYSTEM: Final = {
    "span": (
        "You mark stretches of a text. The instruction names what to mark, or asks for it. Answer with JSON only: "
        '{"spans": ["…"]}, each string copied from the text to the letter; {"spans": []} if the text holds none.'
    ),
    "label": (
        "You judge a text. The instruction is a statement about the text, or a topic that the text may be about. "
        'Answer with JSON only: {"label": true} or {"label": false}.'
    ),
}
_OBJECTS: Final = 20
"""Braces, at most, from which an answer in prose is read."""


class Question(NamedTuple):
    """A question about the text of a row."""

    row: int
    id: str
    text: str
    kind: Kind
    instruction: str

    @property
    def messages(self) -> list[Message]:
        """What the model is sent."""
        user = f"Instruction: {self.instruction}\n\nText:\n{self.text}"
        return [{"role": "system", "content": _SYSTEM[self.kind]}, {"role": "user", "content": user}]

    def key(self, model: str, max_tokens: int) -> str:
        """The name of the answer in a file of answers: a hash of all that decides it."""
        request = {"version": FORMAT, "model": model, "temperature": 0, "max_tokens": max_tokens}
        text = json.dumps({**request, "messages": self.messages}, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class Marked(NamedTuple):
    """The places of an annotator's strings in a text, and the strings that are not in it."""

    places: list[tuple[int, int]]
    missing: list[str]


def estimated_tokens(text: str) -> int:
    """Tokens of a text where nobody says: a third of its UTF-8 bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 3)


def prompt_tokens(messages: Iterable[Message]) -> int:
    """The estimated tokens of messages."""
    return estimated_tokens("".join(str(message["content"]) for message in messages))


def read(kind: Kind, completion: str) -> bool | list[str]:
    """The answer in a completion. Raises ValueError, whose text is the kind of error: not JSON, or wrong shape."""
    value = _json(completion)
    answer = value.get("label" if kind == "label" else "spans") if isinstance(value, dict) else None
    if kind == "label" and isinstance(answer, bool):
        return answer
    if kind == "span" and isinstance(answer, list) and all(isinstance(item, str) for item in answer):
        return answer
    raise ValueError("wrong shape")


def _json(completion: str) -> Any:
    """The first JSON value of a completion, also behind other words."""
    try:
        return first_value(completion)
    except ValueError:
        text = completion.rpartition("</think>")[2]
        for brace, _ in zip(re.finditer(r"\{", text), range(_OBJECTS), strict=False):
            try:
                return first_value(text[brace.start() :])
            except ValueError:
                continue
        raise ValueError("not JSON") from None


def marked(text: str, strings: Sequence[str]) -> Marked:
    """All free-standing places of strings, longest first. White space may differ; nothing else may."""
    surfaces = {string: _surfaces(text, string.strip()) for string in strings}
    places, absent = occurrences(text, [surface for each in surfaces.values() for surface in each])
    lost = set(absent)
    return Marked(places, [string for string, each in surfaces.items() if lost.issuperset(each)])


def _surfaces(text: str, string: str) -> list[str]:
    """How a string is spelled in the text."""
    if not string or string in text:
        return [string] if string else []
    spaced = r"\s+".join(map(re.escape, string.split()))
    return list(dict.fromkeys(match[0] for match in re.finditer(spaced, text)))
