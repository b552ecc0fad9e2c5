"""Asks for the labels of a row in another way, so that a model must read what it is asked for.

A model that is trained on a few labels writes these labels, whatever a prompt asks for. What follows is done to a row
as trainers of general extractors do it: other orders, missing labels and names that say nothing (GoLLIE, Sainz et al.
2024), labels that the text has nothing of (UniversalNER, Zhou et al. 2024; IEPile, Gui et al. 2024), and other names
and words for what labels mean. Types are joined or split in two, relations turned round, and their ends asked for as
entities. Gold follows exactly: it stays a selection of the pieces of text that the row has.

`labels.json` holds what may be said of the labels of common corpora. A row with none of them changes its order alone,
loses labels or descriptions, and gets none that is absent: nobody knows whether the text has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from random import Random
from typing import Any, Final, Literal, get_args

from adapters.data_aug.data_files import read_data

Variation = Literal["roles", "inverse", "merge", "split", "rename", "mask", "absent", "drop", "order", "describe"]
VARIATIONS: Final[tuple[Variation, ...]] = get_args(Variation)
"""roles: the ends of relations as entities; inverse: a relation from tail to head; merge, split: types; rename: another
name for the same; mask: names that say nothing, beside their descriptions; absent: labels that the text has nothing of;
drop: labels left out with their items; order: of labels; describe: other words for a label, or none in a row."""

Kind = Literal["NER", "RE"]
ROLES, INVERSE, MERGE, SPLIT, RENAME, MASK, ABSENT, DROP, PLAIN = 0.3, 0.25, 0.15, 0.3, 0.6, 0.08, 0.7, 0.2, 0.3
"""Probabilities of a label (INVERSE, RENAME, DROP), or of a row; PLAIN is to have no descriptions."""
MOST_LABELS: Final = 10
"""Absent labels fill a prompt up to a number of labels that is drawn from 1 to this."""


@dataclass(frozen=True, slots=True)
class Varied:
    """What is asked for now: gold in the order of the prompt, and what its labels mean, where that is said."""

    kind: Kind
    gold: dict[str, list[Any]]
    descriptions: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Asked:
    """A label with its items; `entry` is that of `labels.json`: its names and meanings."""

    name: str
    items: list[Any]
    means: str = ""
    entry: Mapping[str, Any] = field(default_factory=dict)


def vary(
    text: str,
    kind: Kind,
    gold: Mapping[str, list[Any]],
    rng: Random,
    *,
    use: Sequence[str] = VARIATIONS,
    descriptions: Mapping[str, str] | None = None,
) -> Varied:
    """The labels of a text, asked for in another way. `use` are the variations to draw from.

    `descriptions` are what the row's labels mean; without any, none is written.
    """
    library = read_data("ie/labels.json")
    known = library["types" if kind == "NER" else "relations"]
    means = descriptions or {}
    asked = [_Asked(name, items, means.get(name, ""), known.get(_key(name), {})) for name, items in gold.items()]
    fields = {label.entry.get("field") for label in asked}
    if kind == "NER":
        asked = _joined_or_split(asked, library, rng, use)
    elif "roles" in use and rng.random() < ROLES and (roles := _roles(asked)):
        asked, kind = roles, "NER"
    elif "inverse" in use:
        asked = [_turned(label) if rng.random() < INVERSE else label for label in asked]
    asked = _renamed(asked, rng, use)
    if "absent" in use and rng.random() < ABSENT:
        asked += _absent(text, asked, library["absent"][kind], fields, rng)
    if "drop" in use:
        asked = [label for label in asked if rng.random() >= DROP] or [rng.choice(asked)]
    if "order" in use:
        rng.shuffle(asked)
    shown = bool(means) and not ("describe" in use and rng.random() < PLAIN)
    if shown and "mask" in use and all(label.means for label in asked) and rng.random() < MASK:
        asked = [replace(label, name=f"type {chr(ord('A') + n)}") for n, label in enumerate(asked)]
    descriptions = {label.name: label.means for label in asked if label.means} if shown else {}
    return Varied(kind, {label.name: label.items for label in asked}, descriptions)


def _key(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")


def _joined_or_split(asked: list[_Asked], library: Mapping[str, Any], rng: Random, use: Sequence[str]) -> list[_Asked]:
    by_key = {_key(label.name): label for label in asked}
    if "merge" in use and rng.random() < MERGE:
        several = [entry for entry in library["merged"] if by_key.keys() >= set(entry["of"])]
        if several:
            entry = rng.choice(several)
            parts = [label for label in asked if _key(label.name) in entry["of"]]
            items = list(dict.fromkeys(chain.from_iterable(label.items for label in parts)))
            return [*(label for label in asked if label not in parts), _drawn(entry, items, rng)]
    for entry in library["split"] if "split" in use else ():
        label = by_key.get(entry["of"])
        if label and rng.random() < SPLIT and (halves := _halves(entry, label.items)):
            parts = [_drawn(into, items, rng) for into, items in zip(entry["into"], halves, strict=True)]
            asked = [other for other in asked if other is not label] + parts
    return asked


def _halves(entry: Mapping[str, Any], items: Sequence[str]) -> tuple[list[str], list[str]] | None:
    """Items that pass the entry's test, and the others; None where one of the others is not surely none."""
    passing = [item for item in items if re.fullmatch(entry["test"], _plain(item, entry))]
    others = [item for item in items if item not in passing]
    unsure = "unsure" in entry and any(re.fullmatch(entry["unsure"], item) for item in others)
    return None if unsure else (passing, others)


def _plain(item: str, entry: Mapping[str, Any]) -> str:
    # A name is compared as a whole, whatever stands between its letters ("U . S .").
    return item.casefold() if "unsure" in entry else re.sub(r"[\W_]", "", item.casefold())


def _drawn(entry: Mapping[str, Any], items: list[Any], rng: Random) -> _Asked:
    return _Asked(rng.choice(entry["names"]), items, rng.choice(entry["means"]), entry)


def _roles(asked: Iterable[_Asked]) -> list[_Asked]:
    """The ends of relations as types of entities."""
    return [
        _Asked(end["names"][0], list(dict.fromkeys(item[side] for item in label.items)), end["means"][0], end)
        for label in asked
        for side in ("head", "tail")
        if (end := label.entry.get(side))
    ]


def _turned(label: _Asked) -> _Asked:
    inverse = label.entry.get("inverse")
    if inverse is None:
        return label
    items = [{"head": item["tail"], "tail": item["head"]} for item in label.items]
    return _Asked(inverse["names"][0], items, inverse["means"][0], inverse)


def _renamed(asked: Iterable[_Asked], rng: Random, use: Sequence[str]) -> list[_Asked]:
    """The labels under other names, and with other words for what they mean; those of one name once."""
    out: list[_Asked] = []
    for label in asked:
        names, means = [label.name], label.means
        if label.entry and "rename" in use and rng.random() < RENAME:
            names = [*rng.sample(label.entry["names"], len(label.entry["names"])), label.name]
        if label.entry and means and "describe" in use:
            means = rng.choice([means, *label.entry["means"]])
        taken = {_key(other.name) for other in out}
        if free := [name for name in names if _key(name) not in taken]:
            out.append(replace(label, name=free[0], means=means))
    return out


def _absent(
    text: str, asked: Sequence[_Asked], labels: Sequence[Any], fields: set[str | None], rng: Random
) -> list[_Asked]:
    """Labels of other fields; none where a label's field is not known, or where the text has a word of the name."""
    if None in fields:
        return []
    words = set(re.findall(r"\w{4,}", text.casefold()))
    taken = {_key(label.name) for label in asked}
    fit = [
        (name, means)
        for name, means, occurs in labels
        if not fields & set(occurs) and name not in taken and not _stems(name) & {word[:4] for word in words}
    ]
    number = min(len(fit), max(0, rng.randint(1, MOST_LABELS) - len(asked)))
    return [_Asked(name, [], means) for name, means in rng.sample(fit, number)]


def _stems(name: str) -> set[str]:
    return {word[:4] for word in re.findall(r"\w{4,}", name)}
