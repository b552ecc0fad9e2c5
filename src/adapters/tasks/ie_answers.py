"""The `ie` task's example rows, wrong answers, alignment with gold, and answers as records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from adapters.rewards.ie_records import AnswerReader, Item
from adapters.types import Aligned, Entity, Fact, Relation, Row

_LABELLED: Final[tuple[tuple[str, str, dict[str, list[Any]]], ...]] = (
    (
        "NER",
        "Ada Bell of the Sample Institute flew from Oslo to Lima .",
        {"person": ["Ada Bell"], "organization": ["Sample Institute"], "location": ["Oslo", "Lima"]},
    ),
    (
        "RE",
        "Ada Bell works for the Sample Institute in Oslo .",
        {
            "works for": [{"head": "Ada Bell", "tail": "Sample Institute"}],
            "located in": [{"head": "Sample Institute", "tail": "Oslo"}],
        },
    ),
    ("NER", "Nothing of note happened that week .", {"person": [], "organization": [], "location": []}),
    (
        "NER",
        "Samplinol relieved migraine and nausea in most patients .",
        {"chemical": ["Samplinol"], "disease": ["migraine", "nausea"]},
    ),
    (
        "RE",
        "Carl Weiss joined Example Works , which is based in Turin .",
        {
            "works for": [{"head": "Carl Weiss", "tail": "Example Works"}],
            "located in": [{"head": "Example Works", "tail": "Turin"}],
        },
    ),
    ("RE", "The weather stayed dry .", {"works for": [], "located in": []}),
)
ROWS: Final[tuple[Row, ...]] = tuple(
    {"id": f"made-{n}", "task": kind, "text": text, "schema": list(gold), "gold": gold}
    for n, (kind, text, gold) in enumerate(_LABELLED, 1)
)


def wrong(reader: AnswerReader, gold: Mapping[str, list[Any]]) -> dict[str, Mapping[str, list[Any]]]:
    """Plausible wrong labels, by name; only those that this gold allows."""
    names, items = list(gold), [item for of_label in gold.values() for item in of_label]
    invented = {"head": "Nonesuch", "tail": "Nowhere"} if items and isinstance(items[0], dict) else "Nonesuch"
    last = items[-1] if len(items) > 1 else None
    out: dict[str, Mapping[str, list[Any]]] = {
        "invented item": {**gold, names[0]: [*gold[names[0]], invented]},
        "one item missing": {label: [item for item in of_label if item != last] for label, of_label in gold.items()},
        "wrong label": dict(zip(names, [gold[name] for name in (*names[1:], names[0])], strict=True)),
        "ends swapped": {label: [_swapped(item) for item in of_label] for label, of_label in gold.items()},
    }
    # What the reader takes for the same is not wrong: a swapped symmetric relation, say.
    return {name: labels for name, labels in out.items() if reader.items(labels) != reader.items(gold)}


def align(reader: AnswerReader, gold: Mapping[str, Any], completion: str, text: str | None) -> list[Aligned]:
    """Every gold and predicted item once, similar items of a label paired."""
    from adapters.evaluation.alignment import compare_values

    predicted = reader.read(completion).items
    never = {_ends(item) for item in predicted - reader.findable(predicted, text)}
    rows = compare_values(_shown(reader.items(gold), gold), _shown(predicted, gold))
    return [row._replace(matched=row.matched and row.pred not in never) for row in rows]


def _shown(items: Iterable[Item], schema: Iterable[str]) -> dict[str, list[str]]:
    order = {label: n for n, label in enumerate(schema)}
    out: dict[str, list[str]] = {}
    for item in sorted(items, key=lambda item: (order.get(item[0], len(order)), item)):
        out.setdefault(item[0], []).append(_ends(item))
    return out


def _ends(item: Item) -> str:
    return " → ".join(item[1:])


def _swapped(entry: Any) -> Any:
    return {"head": entry["tail"], "tail": entry["head"]} if isinstance(entry, dict) else entry


_END = {"anyOf": [{"type": "string"}, {"type": "null"}]}
RECORD = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"label": {"type": "string", "x-grounded": False}, "text": _END, "head": _END, "tail": _END},
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


def merge(records: Iterable[Iterable[Mapping[str, str | None]]]) -> list[dict[str, str | None]]:
    """The items of several records as one, each once."""
    return record(frozenset(_item(entry) for entries in records for entry in entries))


def _item(entry: Mapping[str, str | None]) -> Item:
    label, text, head, tail = (str(entry[name]) for name in ("label", "text", "head", "tail"))
    return (label, head, tail) if entry["text"] is None else (label, text)


def graph(record: Iterable[Mapping[str, Any]], row: Row) -> Iterator[Fact]:
    """The entities and relations of a record."""
    for item in record:
        if item["text"] is not None:
            yield Entity(item["label"], item["text"])
        else:
            yield Relation(item["label"], item["head"], item["tail"])
