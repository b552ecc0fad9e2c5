"""The training mix of Agents-K1: balanced sources, empty records, a split.

The model card gives sizes and shares; how they are reached is this project's choice. Records with and without labels
are balanced separately: the records of a source are capped, and the cap is the highest that keeps the sum within the
quota, so that larger sources make up for small ones. The split is by text: all records of a text stand on one side. A
ledger counts what became of each source.
"""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.data_aug.ie.batches import SIZES, Confusable, batches, of_source
from adapters.data_aug.ie.records import Row, from_iepile, is_iepile, row_id

CARD_SOURCES = (
    "AnatEM", "bc2gm", "bc4chemd", "bc5cdr", "CoNLL2003", "FabNER", "FindVehicle", "GENIA_NER", "HarveyNER",
    "MultiNERD", "mit-movie", "mit-restaurant", "Ontonotes", "ncbi",
    "ADE_corpus", "conll04", "GIDS", "kbp37", "New-York-Times-RE", "NYT11", "SciERC", "semval-RE",
)  # fmt: skip
"""IEPile's English sources without the licensed and the zero-shot ones: 14 of entities, 8 of relations."""


@dataclass(frozen=True)
class Mix:
    """Settings of a mix.

    `total`: number of records; `empty` and `validation`: shares without labels, and held out. `cap` bounds a source's
    records, both kinds together; None levels the sources as far as the total allows. `tasks` and `sources` (empty: all)
    and `language` ("en" or "any") filter. `sizes` is labels in a prompt by task.
    """

    total: int = 16_000
    empty: float = 0.3
    validation: float = 0.1
    cap: int | None = None
    seed: int = 42
    tasks: tuple[str, ...] = ("NER", "RE")
    sources: tuple[str, ...] = ()
    language: str = "en"
    sizes: Mapping[str, int] = field(default_factory=lambda: dict(SIZES))

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        for name in ("empty", "validation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share and must lie between 0 and 1, got {getattr(self, name)!r}")
        for name, value in (("total", self.total), ("cap", self.cap), *self.sizes.items()):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")


@dataclass
class Mixed:
    """Both sides of a mix, and its ledger: counts of records by source and outcome."""

    train: list[Row]
    validation: list[Row]
    ledger: dict[str, Counter[str]]
    notes: list[str]


def mix(
    records: Iterable[Mapping[str, Any]], options: Mix, confusable: Confusable, exclude: Iterable[str] = ()
) -> Mixed:
    """Mix IEPile records and plain rows for training.

    IEPile records are used as they are; the schemas of plain rows are cut into batches here.
    Texts in `exclude`, up to case, white space and punctuation, are kept out of both sides: give the test sets.
    Raises ValueError when a record cannot be read, naming its number, or when nothing is left.
    """
    ledger: dict[str, Counter[str]] = {}
    kept = _records(records, options, confusable, {_key(text) for text in exclude}, ledger)
    labelled = [row for row in kept if any(row["gold"].values())]
    empty = [row for row in kept if not any(row["gold"].values())]
    if not kept:
        raise ValueError("no record is left after the filters")
    caps: tuple[int | None, int | None] = (None, None)
    if options.cap is not None:
        caps = (max(1, round(options.cap * (1 - options.empty))), round(options.cap * options.empty))
    available = [sum(_sizes(rows, cap).values()) for rows, cap in zip((labelled, empty), caps, strict=True)]
    rng = random.Random(options.seed)
    chosen: list[Row] = []
    for rows, quota, cap in zip((labelled, empty), _quotas(available[0], available[1], options), caps, strict=True):
        chosen += _levelled(rows, quota, cap, rng)
    rng.shuffle(chosen)
    train, validation = _split(chosen, options.validation, rng)
    for rows, side in ((train, "train"), (validation, "validation")):
        for row in rows:
            entry = ledger[row["source"]]
            entry[side] += 1
            entry["with labels" if any(row["gold"].values()) else "empty"] += 1
    notes = []
    if len(chosen) < options.total:
        lacking = "of those within the cap, " if options.cap else ""
        lacking += f"{available[0]:,} have labels and {available[1]:,} are empty"
        notes.append(f"{len(chosen):,} records instead of {options.total:,}: {lacking}; the shares are kept")
    return Mixed(train, validation, ledger, notes)


def _records(
    records: Iterable[Mapping[str, Any]],
    options: Mix,
    confusable: Confusable,
    excluded: set[str],
    ledger: dict[str, Counter[str]],
) -> list[Row]:
    kept: list[Row] = []
    seen: set[tuple[str, ...]] = set()
    for number, record in enumerate(records, 1):
        source, task = str(record.get("source", "")), str(record.get("task", ""))
        entry = ledger.setdefault(source, Counter())
        entry["read"] += 1
        if task not in options.tasks or (options.sources and source not in options.sources):
            entry["filtered"] += 1
            continue
        try:
            row = from_iepile(record) if is_iepile(record) else _plain(record)
        except ValueError as error:
            raise ValueError(f"record {number} ({source or 'no source'}): {error}") from None
        if options.language != "any" and row.get("language", "en") != options.language:
            entry["filtered"] += 1
        elif _key(row["text"]) in excluded:
            entry["in test sets"] += 1
        else:
            for example in [row] if is_iepile(record) else _batched(row, options, confusable):
                key = (example["task"], example["text"], *sorted(example["schema"]))
                entry["doubles" if key in seen else "records"] += 1
                if key not in seen:
                    kept.append(example)
                seen.add(key)
    return kept


def _plain(record: Mapping[str, Any]) -> Row:
    text, gold = record.get("text"), record.get("gold")
    if not isinstance(text, str) or not text.strip() or not isinstance(gold, Mapping):
        raise ValueError("a plain row has a text and gold, an object from labels to lists")
    schema = record.get("schema") or list(gold)
    if not isinstance(schema, list) or not all(isinstance(entries, list | None) for entries in gold.values()):
        raise ValueError("schema must be a list, and gold an object from labels to lists")
    if unknown := [label for label, entries in gold.items() if entries and label not in schema]:
        raise ValueError(f"gold has the label {unknown[0]!r}, which is not in the schema")
    return {**record, "id": record.get("id") or row_id(text), "schema": schema, "source": str(record.get("source", ""))}


def _batched(row: Row, options: Mix, confusable: Confusable) -> list[Row]:
    gold, hard = row["gold"], of_source(confusable, row["task"], row["source"])
    present = {label for label, entries in gold.items() if entries}
    rng = random.Random(f"{options.seed}:{row['task']}:{row['id']}")
    plain = {key: value for key, value in row.items() if key != "spans"}
    return [
        {**plain, "schema": labels, "gold": {label: list(gold.get(label) or ()) for label in labels}}
        for labels in batches(row["schema"], present, hard, options.sizes.get(row["task"], SIZES["NER"]), rng)
    ]


def _quotas(some: int, none: int, options: Mix) -> tuple[int, int]:
    """Numbers of records with and without labels, of the largest possible total."""
    total = min(float(options.total), some / (1 - options.empty), none / options.empty if options.empty else some)
    empty = round(total * options.empty)
    return min(some, round(total) - empty), min(none, empty)


def _sizes(rows: Sequence[Row], cap: int | None) -> Counter[str]:
    sizes = Counter(row["source"] for row in rows)
    return sizes if cap is None else Counter({source: min(n, cap) for source, n in sizes.items()})


def _levelled(rows: Sequence[Row], quota: int, cap: int | None, rng: random.Random) -> list[Row]:
    """`quota` rows, spread evenly over the sources as far as each has them."""
    sizes = _sizes(rows, cap)

    def rows_at(level: int) -> int:
        return sum(min(size, level) for size in sizes.values())

    level = bisect_right(range(max(sizes.values(), default=0) + 1), quota, key=rows_at) - 1
    take = {source: min(size, level) for source, size in sizes.items()}
    larger = sorted(source for source, size in sizes.items() if size > level)
    # What this level leaves over is less than one row for each of the larger sources.
    for source in rng.sample(larger, min(len(larger), quota - rows_at(level))):
        take[source] += 1
    by_source: dict[str, list[Row]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row)
    return [row for source, group in sorted(by_source.items()) for row in rng.sample(group, take[source])]


def _split(rows: Sequence[Row], share: float, rng: random.Random) -> tuple[list[Row], list[Row]]:
    by_text: dict[str, list[int]] = {}
    for n, row in enumerate(rows):
        by_text.setdefault(_key(row["text"]), []).append(n)
    groups = sorted(by_text.values())
    rng.shuffle(groups)
    room, held_out = round(share * len(rows)), set[int]()
    for group in groups:
        if len(held_out) + len(group) <= room:
            held_out.update(group)
    train = [row for n, row in enumerate(rows) if n not in held_out]
    return train, [row for n, row in enumerate(rows) if n in held_out]


def _key(text: str) -> str:
    return re.sub(r"\W+", " ", text.casefold()).strip()
