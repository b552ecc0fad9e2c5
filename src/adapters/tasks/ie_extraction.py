"""Answers of the `ie` task as records, and their JSON schema."""

from __future__ import annotations

from adapters.rewards.ie_records import AnswerReader, Item

_END = {"anyOf": [{"type": "string"}, {"type": "null"}]}
RECORD = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"label": {"type": "string"}, "text": _END, "head": _END, "tail": _END},
        "required": ["label", "text", "head", "tail"],
        "additionalProperties": False,
    },
}
"""JSON schema of a record: an entity has a text, a relation a head and a tail."""

_PAIR = {
    "type": "object",
    "properties": {"head": {"type": "string"}, "tail": {"type": "string"}},
    "required": ["head", "tail"],
    "additionalProperties": False,
}
ANSWER = {
    "type": "object",
    "additionalProperties": {
        "anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "array", "items": _PAIR}]
    },
}
"""JSON schema of what the model writes when it does not think first. The labels are each row's own."""


def decode(reader: AnswerReader, completion: str) -> frozenset[Item]:
    """The items of a completion. Raises ValueError whose message begins with a kind and a colon."""
    prediction = reader.read(completion)
    if prediction.json == "object":
        return prediction.items
    problem = prediction.problem or "nothing to read"
    if prediction.json == "other":
        raise ValueError(f"wrong shape: {problem}")
    raise ValueError(problem if problem.startswith("not JSON") else f"no answer: {problem}")


def record(items: frozenset[Item]) -> list[dict[str, str | None]]:
    """Each item once, by label and text."""
    texts = [(None, *item[1:]) if len(item) == 3 else (item[1], None, None) for item in sorted(items)]
    return [
        {"label": item[0], "text": text, "head": head, "tail": tail}
        for item, (text, head, tail) in zip(sorted(items), texts, strict=True)
    ]
