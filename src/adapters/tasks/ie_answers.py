"""Made-up rows of entities and relations, answers to them that are wrong, and answers beside their gold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from adapters.rewards.ie_records import Item, Reading
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


def wrong(reading: Reading, gold: Mapping[str, list[Any]]) -> dict[str, Mapping[str, list[Any]]]:
    """Wrong labels that look right, by name; only those that this gold allows."""
    labels, found = list(gold), [entry for entries in gold.values() for entry in entries]
    pair = {"head": "Nonesuch", "tail": "Nowhere"}
    out: dict[str, Mapping[str, list[Any]]] = {
        "invented item": {
            **gold,
            labels[0]: [*gold[labels[0]], pair if found and isinstance(found[0], dict) else "Nonesuch"],
        },
        "one item missing": _without(gold, found[-1]) if len(found) > 1 else gold,
        "wrong label": dict(zip(labels, [gold[label] for label in (*labels[1:], labels[0])], strict=True)),
        "ends swapped": {label: [_swapped(entry) for entry in entries] for label, entries in gold.items()},
    }
    # What the reading takes for the same is not wrong: a swapped symmetric relation, say.
    return {name: said for name, said in out.items() if reading.items(said) != reading.items(gold)}


def align(reading: Reading, gold: Mapping[str, Any], completion: str) -> list[Aligned]:
    """Every item of both sides once, as the reading reads it, near ones of a label side by side."""
    from adapters.evaluation.alignment import compare_values

    return compare_values(_shown(reading.items(gold), gold), _shown(reading.read(completion, gold).items, gold))


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
