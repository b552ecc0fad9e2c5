"""Sources to examples: reading, columns, filters, seeded splits and draws, and a ledger of what became of it.

Order of operations on a source: read, rename columns, `split`, `where`, `max_rows`, `repeat`. The split is made before
any row is filtered, so that two uses of a file with different filters agree on the parts.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapters.data import preference
from adapters.data.noise import NoiseStats, RowNoiser
from adapters.data.rows import BAD_ROW, read_file
from adapters.errors import KeyPath, UserError, hint
from adapters.recipe.fields import HubSource, PathSource, Source, Split, SynthesizedSource
from adapters.types import Example, Row, Task

GENERATORS = {
    "funding": "adapters.data_aug.funding_statements:synthesize",
    "agent": "adapters.data_aug.agent:synthesize",
    "agent_unseen": "adapters.data_aug.agent:synthesize_unseen",
    "agent_pairs": "adapters.data_aug.agent.pairs:synthesize",
    "agent_pairs_unseen": "adapters.data_aug.agent.pairs:synthesize_unseen",
    "agent_control": "adapters.data_aug.agent.pairs:synthesize_control",
}
"""What `synthesize:` may name: functions of (n, seed) that yield rows, imported when they are used."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not become an example."""

    source: str
    row: int
    reason: str


@dataclass(slots=True)
class Loaded:
    """Examples of one `data:` list with their ledger: one dict a source, and the rows that were rejected."""

    examples: list[Example] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    """The texts of the clean rows (`text_key`), whatever noise made of them: for counting leakage."""
    by_source: dict[str, list[str]] = field(default_factory=dict)
    """The same, row by row, by source."""

    @property
    def fingerprint(self) -> str:
        """Hash over everything a trainer or a scorer can see of the examples, in order."""
        digest = hashlib.sha256()
        for e in self.examples:
            row = [e.id, e.source, e.prompt, e.completion, e.rejected, e.gold]
            digest.update(json.dumps(row, ensure_ascii=True, sort_keys=True, default=str).encode())
        return digest.hexdigest()


def load_examples(
    sources: Sequence[Source],
    task: Task,
    *,
    root: Path,
    seed: int,
    max_bad_rows: float = 0.01,
    noising: RowNoiser | None = None,
    epochs: int = 1,
    at: KeyPath = (),
) -> Loaded:
    """Read every source of a `data:` list into examples.

    With `noising`, the rows are laid out for `epochs` epochs, each (and each repeat) with noise of its own; without,
    one epoch serves for all. Raises UserError when a source is missing, empty after filtering, or has more than
    `max_bad_rows` bad rows.
    """
    out = Loaded()
    for n, source in enumerate(sources):
        key = (*at, n)
        rows = _select(source, read(source, root, at=key), seed, key)
        name = source.name or default_name(source)
        laid_out = len(rows) * source.repeat * (epochs if noising else 1)
        if laid_out > MOST:
            raise UserError(
                f"{len(rows):,} rows, repeated and noised anew in every epoch, make {laid_out:,}; more than {MOST:,} "
                "are not held in memory. Lower repeat or epochs.",
                at=key,
            )
        examples: list[Example] = []
        bad: list[Rejected] = []
        seen: dict[bytes, int] = {}
        touched = NoiseStats()
        copies = [(epoch, copy) for epoch in range(epochs if noising else 1) for copy in range(source.repeat)]
        for number, row in rows:
            # A row is refused on its clean text, once, whatever noise would make of it.
            example, reason = _example(task, row, name, number)
            if example is not None:
                # Variants of one text may share its id; the very same row twice is a mistake of whoever made the file.
                whole = repr(replace(example, meta={})).encode()
                same = seen.setdefault(hashlib.blake2b(whole, digest_size=16).digest(), number)
                if same != number:
                    example, reason = None, f"the same as row {same}; to use rows more than once there is repeat"
            if example is None:
                bad.append(Rejected(name, number, reason))
                continue
            key_text = text_key(example)
            out.texts.add(key_text)
            out.by_source.setdefault(name, []).append(key_text)
            if noising is None:
                examples += [example] * source.repeat
            else:
                for epoch, copy in copies:
                    noisy = noising.apply(row, task, epoch=epoch, variant=copy, touched=touched)
                    examples.append(preference.example(task, noisy, source=name, id=example.id))
        if len(bad) > max_bad_rows * len(rows):
            first = "".join(f"\n  row {b.row}: {b.reason}" for b in bad[:5])
            raise UserError(
                f"{len(bad)} of {len(rows)} rows cannot be used (max_bad_rows allows {max_bad_rows:.0%}):{first}",
                at=key,
            )
        out.examples += examples
        out.rejected += bad
        entry = {
            "source": name,
            "rows": len(rows) - len(bad),
            "repeat": source.repeat,
            "used": len(examples),
            "rejected": len(bad),
            "empty_gold": sum(1 for e in examples if _is_empty(e.gold)) // len(copies),
            "license": source.license,
            "generated": isinstance(source, SynthesizedSource),
        }
        out.ledger.append(entry | ({"noise": touched.shares()} if noising else {}))
    return out


def _example(task: Task, row: Row, source: str, number: int) -> tuple[Example | None, str]:
    if BAD_ROW in row:
        return None, row[BAD_ROW]
    row_id = row.get("id", f"{source}:{number}")
    if not isinstance(row_id, str | int) or isinstance(row_id, bool):
        return None, f"id must be text or a whole number, not {type(row_id).__name__}"
    text = row.get(task.text_field)
    if isinstance(text, str):
        if len(text) > LONGEST:
            return None, f"{task.text_field} has {len(text):,} characters; it should be a passage, not a book"
        if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
            return None, f"{task.text_field} holds NUL or half of a character pair (a lone surrogate): broken decoding"
    try:
        example = preference.example(task, row, source=source, id=str(row_id))
        # What could not be written as JSON in UTF-8 would fail in the tokenizer, or when the samples are stored.
        held = [example.id, example.prompt, example.completion, example.rejected, example.gold]
        written = json.dumps(held, ensure_ascii=False, default=str)
        written.encode()
        if written.count("[") + written.count("{") > DEEPEST and _deeper(held, DEEPEST):
            return None, "nested too deeply"
    except UnicodeEncodeError:
        return None, "a text of it holds half of a character pair (a lone surrogate): broken decoding"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:
        return None, str(error)
    return example, ""


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, list | tuple) and (not levels or any(_deeper(inner, levels - 1) for inner in value))


def default_name(source: Source) -> str:
    """What a source is called in ledgers and reports when the recipe gives it no name."""
    if isinstance(source, PathSource):
        return Path(source.path).stem
    if isinstance(source, HubSource):
        return f"{source.hub.rstrip('/').rsplit('/', 1)[-1]}:{source.hub_split}"
    return f"synthetic-{source.synthesize}"


def read(source: Source, root: Path, *, at: KeyPath = ()) -> list[tuple[int, Row]]:
    """All rows of a source with their 1-based numbers, before any selection."""
    if isinstance(source, SynthesizedSource):
        return list(enumerate(_synthesize(source, (*at, "synthesize")), 1))
    if isinstance(source, HubSource):
        return list(enumerate(_read_hub(source, root, (*at, "hub")), 1))
    return read_file(root / Path(source.path).expanduser(), at=(*at, "path"))


LONGEST = 500_000
"""Characters of a row's text above which something else than a text stands there."""
MOST = 50_000_000
"""Rows of a source, its repeats and noisy epochs counted."""
DEEPEST = 100
"""Levels of brackets of a row; Python gives up near a thousand, wherever it happens to be by then."""


def _read_hub(source: HubSource, root: Path, at: KeyPath) -> Iterable[Row]:
    import datasets

    local = root / Path(source.hub).expanduser()
    path = str(local) if local.is_dir() else source.hub
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(path, source.config, split=source.hub_split, revision=source.revision)
    except Exception as error:  # the library raises many kinds, all of which mean the same to the person
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the dataset {source.hub!r} (config {source.config}, split {source.hub_split!r}) cannot be loaded: "
            f"{first}",
            at=at,
        ) from error
    return (dict(row) for row in table)


def _synthesize(source: SynthesizedSource, at: KeyPath) -> Iterable[Row]:
    if source.synthesize not in GENERATORS:
        raise UserError(f"no generator is called {source.synthesize!r}.{hint(source.synthesize, [*GENERATORS])}", at=at)
    module, _, function = GENERATORS[source.synthesize].partition(":")
    rows: Iterable[Row] = getattr(importlib.import_module(module), function)(source.n, source.seed)
    return rows


def _select(source: Source, rows: list[tuple[int, Row]], seed: int, at: KeyPath) -> list[tuple[int, Row]]:
    good = [row for _, row in rows if BAD_ROW not in row]
    for wanted, column in source.columns.items():
        if good and not any(column in row for row in good):
            raise UserError(
                f"no row has the column {column!r}.{hint(column, list(good[0]))}", at=(*at, "columns", wanted)
            )
    rows = [(n, _renamed(row, source.columns)) for n, row in rows]
    if source.split is not None:
        keys = split_keys([str(row.get(source.split.key)) for _, row in rows if BAD_ROW not in row], source.split)
        if good and not any(source.split.key in row for _, row in rows):
            raise UserError(f"no row has the column {source.split.key!r}.", at=(*at, "split", "key"))
        rows = [(n, row) for n, row in rows if BAD_ROW in row or str(row.get(source.split.key)) in keys]
    for column, value in source.where.items():
        if good and not any(column in row for _, row in rows):
            raise UserError(
                f"no row has the column {column!r}.{hint(column, list(rows[0][1]))}", at=(*at, "where", column)
            )
        allowed = value if isinstance(value, tuple) else (value,)
        rows = [(n, row) for n, row in rows if BAD_ROW in row or row.get(column) in allowed]
    if source.max_rows is not None and len(rows) > source.max_rows:
        keep = sorted(random.Random(seed).sample(range(len(rows)), source.max_rows))
        rows = [rows[i] for i in keep]
    if not rows:
        raise UserError("no row is left of this source after its filters.", at=at)
    return rows


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    # The named column wins over one that happens to have the wanted name already.
    if not columns or BAD_ROW in row:
        return row
    kept = {k: v for k, v in row.items() if k not in columns and k not in columns.values()}
    return kept | {wanted: row[column] for wanted, column in columns.items() if column in row}


def split_keys(keys: Iterable[str], split: Split) -> set[str]:
    """The keys of one part: distinct keys sorted, shuffled with the seed, cut at int(fraction * n); the last part
    takes the rest. This reproduces the published 70/20/10 split by id with seed 42.
    """
    ordered = sorted(set(keys))
    random.Random(split.seed).shuffle(ordered)
    start = 0
    parts = list(split.fractions.items())
    for n, (name, fraction) in enumerate(parts):
        stop = len(ordered) if n == len(parts) - 1 else start + int(fraction * len(ordered))
        if name == split.name:
            return set(ordered[start:stop])
        start = stop
    raise KeyError(split.name)  # the recipe's validation excludes it


def _is_empty(gold: Any) -> bool:
    return not any(gold.values()) if isinstance(gold, Mapping) else not gold


def prompt_key(example: Example) -> str:
    """What two examples share when they show a model the same prompt, up to case, spacing and punctuation."""
    return fold(" ".join(m["content"] for m in example.prompt))


def text_key(example: Example) -> str:
    """What two examples share when they are about the same text, whatever is asked about it."""
    text = example.meta.get("text")
    return fold(text) if isinstance(text, str) else prompt_key(example)


def fold(text: str) -> str:
    """A text without case, spacing and punctuation."""
    return re.sub(r"\W+", " ", text.casefold()).strip()
