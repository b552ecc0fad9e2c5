"""The `ie` task's example rows, plausible wrong answers, and alignment with gold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from adapters.rewards.ie_records import AnswerReader, Item
from adapters.types import Aligned, Row

ROWS: Final[tuple[Row, ...]] = (
    {
        "id": "made-1",
        "task": "NER",
        "text": "Ada Bell of the Sample Institute flew from Oslo to Lima .",
        "schema": ["person", "organization", "location"],
        "gold": {"person": ["Ada Bell"], "organization": ["Sample Institute"], "location": ["Oslo", "Lima"]},
    },
    {
        "id": "made-2",
        "task": "RE",
        "text": "Ada Bell works for the Sample Institute in Oslo .",
        "schema": ["works for", "located in"],
        "gold": {
            "works for": [{"head": "Ada Bell", "tail": "Sample Institute"}],
            "located in": [{"head": "Sample Institute", "tail": "Oslo"}],
        },
    },
    {
        "id": "made-3",
        "task": "NER",
        "text": "Nothing of note happened that week .",
        "schema": ["person", "organization", "location"],
        "gold": {"person": [], "organization": [], "location": []},
    },
    {
        "id": "made-4",
        "task": "NER",
        "text": "Samplinol relieved migraine and nausea in most patients .",
        "schema": ["chemical", "disease"],
        "gold": {"chemical": ["Samplinol"], "disease": ["migraine", "nausea"]},
    },
    {
        "id": "made-5",
        "task": "RE",
        "text": "Carl Weiss joined Example Works , which is based in Turin .",
        "schema": ["works for", "located in"],
        "gold": {
            "works for": [{"head": "Carl Weiss", "tail": "Example Works"}],
            "located in": [{"head": "Example Works", "tail": "Turin"}],
        },
    },
    {
        "id": "made-6",
        "task": "RE",
        "text": "The weather stayed dry .",
        "schema": ["works for", "located in"],
        "gold": {"works for": [], "located in": []},
    },
)


def wrong(reader: AnswerReader, gold: Mapping[str, list[Any]]) -> dict[str, Mapping[str, list[Any]]]:
    """Plausible wrong labels, by name; only those that this gold allows."""
    names, entries = list(gold), [entry for of_name in gold.values() for entry in of_name]
    pair = {"head": "Nonesuch", "tail": "Nowhere"}
    out: dict[str, Mapping[str, list[Any]]] = {
        "invented item": {
            **gold,
            names[0]: [*gold[names[0]], pair if entries and isinstance(entries[0], dict) else "Nonesuch"],
        },
        "one item missing": _without(gold, entries[-1]) if len(entries) > 1 else gold,
        "wrong label": dict(zip(names, [gold[name] for name in (*names[1:], names[0])], strict=True)),
        "ends swapped": {name: [_swapped(entry) for entry in of_name] for name, of_name in gold.items()},
    }
    # What the reader takes for the same is not wrong: a swapped symmetric relation, say.
    return {name: labels for name, labels in out.items() if reader.items(labels) != reader.items(gold)}


def align(reader: AnswerReader, gold: Mapping[str, Any], completion: str) -> list[Aligned]:
    """Every gold and predicted item once, similar items of a label paired."""
    from adapters.evaluation.alignment import compare_values

    return compare_values(_shown(reader.items(gold), gold), _shown(reader.read(completion).items, gold))


def _shown(items: Iterable[Item], schema: Iterable[str]) -> dict[str, list[str]]:
    order = {label: n for n, label in enumerate(schema)}
    out: dict[str, list[str]] = {}
    for label, *ends in sorted(items, key=lambda item: (order.get(item[0], len(order)), item)):
        out.setdefault(label, []).append(" → ".join(ends))
    return out


def _without(gold: Mapping[str, list[Any]], one: Any) -> dict[str, list[Any]]:
    return {label: [entry for entry in entries if entry != one] for label, entries in gold.items()}


def _swapped(entry: Any) -> Any:
    return {"head": entry["tail"], "tail": entry["head"]} if isinstance(entry, dict) else entry
