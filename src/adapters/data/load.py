"""Sources of a recipe as examples, with a ledger of counts.

Order of operations on a source: read, rename columns, `split`, `where`, `max_rows`, `repeat`. Rows are split before
they are filtered, so that two uses of one file with different filters put each row on the same side.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapters.data import preference
from adapters.data.examples import (
    CLEAN,
    DOMAIN,
    copy_key,
    domain_of,
    in_domain,
    is_empty,
    text_key,
    with_row,
)
from adapters.data.keys_read import KeysRead
from adapters.data.noise import NoiseStats, RowNoiser
from adapters.data.on_disk import Store, take
from adapters.data.row_to_example import example_of
from adapters.data.rows import BAD_ROW
from adapters.data.source_rows import default_name, rows_of
from adapters.data.text_keys import TextKeys, text_hash
from adapters.errors import KeyPath, UserError
from adapters.files import numbered_jsonl
from adapters.plugins.task_bench import ROWS
from adapters.recipe.fields import Source, SynthesizedSource
from adapters.types import COPY_OF, ROW, Example, Row, Task

Look = Callable[[Sequence[tuple[Row, Example]]], None]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A bad row: one that could not become an example."""

    source: str
    row: int
    reason: str


@dataclass(slots=True)
class Loaded:
    """Examples of one `data:` list, a ledger entry for each source, and the bad rows."""

    examples: Sequence[Example] = ()
    ledger: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    texts: Set[int] = frozenset()
    """Hashes of the texts of the rows before noise (`text_key`), for counting leakage."""
    by_source: dict[str, Sequence[str]] = field(default_factory=dict)
    """The same texts, row by row, by source."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that a trainer or scorer sees of the examples, in order."""
        digest = hashlib.sha256()
        written = json.JSONEncoder(ensure_ascii=True, sort_keys=True, default=str).encode
        for e in self.examples:
            row = [e.id, e.source, e.prompt, e.completion, e.rejected, e.gold]
            row += [more for more in (e.answer, e.rejected_answer, e.learned, e.masked, e.meta.get(ROW)) if more]
            digest.update(written(row).encode())
        return digest.hexdigest()


def load_examples(
    sources: Sequence[Source],
    task: Task,
    *,
    root: Path,
    seed: int,
    max_bad_rows: float = 0.01,
    noiser: RowNoiser | None = None,
    vary: float = 0.0,
    epochs: int = 1,
    at: KeyPath = (),
    look: Look | None = None,
    keep_rows: bool = False,
) -> Loaded:
    """Read every source of a `data:` list into examples. `look` is shown each source's first rows, before noise.

    `keep_rows` puts the rows themselves into the examples, for an environment.

    With `noiser`, or `vary`, the share of the rows that the task varies, there is a copy of each row for each of
    `epochs` epochs and each repeat; without, one epoch serves for all. Raises UserError when a source is missing, empty
    after filtering, or has more than `max_bad_rows` (a share) bad rows.
    """
    loading = _Loading()
    for n, source in enumerate(sources):
        key = (*at, n)
        rows = rows_of(source, task, root, seed, key)
        pairs = Store[tuple[Row, Example]]() if noiser or vary else None
        clean = _Clean(task, source, seed, loading, pairs, _spreads(source, root, key), keep_rows=keep_rows)
        copies = source.repeat * (1 if pairs is None else epochs)
        clean.read(rows, copies, max_bad_rows, key)
        if look is not None:
            look(clean.first)
        loading.add(clean, copies)
        # The project's own generators put nothing into a row that is lost when it is not read.
        generated = isinstance(source, SynthesizedSource)
        entry = clean.counts(copies)
        unread = {} if generated or keep_rows else clean.keys.unread()  # an environment reads what it likes
        entry |= {"license": source.license, "generated": generated, "unread": unread}
        if pairs is not None:
            change = _Change(task, noiser, vary, seed, keep_rows)
            loading.add_changed(change.examples(take(pairs, clean.kept), epochs, source.repeat))
            entry |= {"noise": change.stats.shares()} if noiser else {}
            entry |= {"varied": change.varied} if vary else {}
        loading.ledger.append(entry)
        loading.rejected += clean.bad
    return loading.loaded()


@dataclass(slots=True)
class _Loading:
    """What is read so far: examples and texts, and the numbers of those that are used."""

    examples: Store[Example] = field(default_factory=Store)
    texts: Store[str] = field(default_factory=Store)
    used: list[Numbers] = field(default_factory=list)
    by_source: dict[str, list[Numbers]] = field(default_factory=dict)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, clean: _Clean, copies: int) -> None:
        """The rows of a source, each as often as it is repeated, unless they are changed."""
        if clean.pairs is None:
            self.used.append(np.repeat(clean.kept + clean.start, copies))
        self.by_source.setdefault(clean.name, []).append(clean.kept + clean.first_text)
        self.hashes.append(np.frombuffer(clean.hashes, dtype=np.uint64)[clean.kept])

    def add_changed(self, examples: Iterable[Example]) -> None:
        """Examples made of a source's rows."""
        start = len(self.examples)
        for example in examples:
            self.examples.append(example)
        self.used.append(np.arange(start, len(self.examples)))

    def loaded(self) -> Loaded:
        """All of it."""
        return Loaded(
            take(self.examples, _joined(self.used)),
            self.ledger,
            self.rejected,
            TextKeys(np.concatenate(self.hashes)) if self.hashes else TextKeys(),
            {name: take(self.texts, _joined(parts)) for name, parts in self.by_source.items()},
        )


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return parts[0] if len(parts) == 1 else np.concatenate([np.arange(0), *parts])


class _Clean:
    """The rows of a source that became examples. Of each there is kept in memory what tells whether it is used."""

    def __init__(
        self,
        task: Task,
        source: Source,
        seed: int,
        loading: _Loading,
        pairs: Store[tuple[Row, Example]] | None,
        spreads: Mapping[str, float],
        *,
        keep_rows: bool,
    ) -> None:
        self.task, self.source, self.seed, self.loading, self.pairs = task, source, seed, loading, pairs
        self.spreads, self.keep_rows = spreads, keep_rows
        self.name = source.name or default_name(source)
        self.start, self.first_text = len(loading.examples), len(loading.texts)
        split = [source.split.key] if source.split else []
        self.keys = KeysRead({"id", DOMAIN, *source.where, *split, *getattr(task, "notes", ())})
        self.first: list[tuple[Row, Example]] = []
        """The first rows that are used."""
        self.bad: list[Rejected] = []
        self.rows = self.sampled = 0
        self.first_id = ""
        self.numbers, self.contents, self.hashes = array("q"), array("Q"), array("Q")
        self.left_out, self.empty = bytearray(), bytearray()
        """Of each row, whether it is one that `keep_empty` (1) or `spread` (2) leaves out, and whether it is empty."""
        self.kept: Numbers = np.arange(0)
        """Places of the rows that are used."""

    def read(self, rows: Iterable[tuple[int, Row]], copies: int, max_bad_rows: float, at: KeyPath) -> None:
        """Read the rows. Raises UserError when none is left, or too many are bad."""
        shown = set[int]()
        for number, row in rows:
            self.rows += 1
            example, reason = example_of(self.task, row if BAD_ROW in row else self.keys.of(row), self.name, number)
            if example is not None:
                try:
                    example = in_domain(example, self.source.domain or row.get(DOMAIN))
                except ValueError as error:
                    example, reason = None, str(error)
            if example is None:
                self.bad.append(Rejected(self.name, number, reason))
                continue
            self._add(number, row, with_row(example, row) if self.keep_rows else example, shown)
        if not self.rows:
            raise UserError("no row is left of this source after its filters.", at=at)
        if self.spreads and not self.sampled:
            theirs, own = next(iter(self.spreads)), self.first_id
            fault = f"none of these rows is among the samples: their ids are such as {theirs!r}, and here {own!r}"
            raise UserError(f"{fault}. Rows need an id of their own for it.", at=(*at, "spread", "samples"))
        if self.rows * copies > MOST:
            raise UserError(
                f"{self.rows:,} rows, repeated and changed anew in every epoch, make {self.rows * copies:,} examples; "
                f"at most {MOST:,} are held in memory. Lower repeat or epochs.",
                at=at,
            )
        unique = self._unique()
        if len(self.bad) > max_bad_rows * self.rows:
            share = f"{len(self.bad)} of {self.rows} rows cannot be used (max_bad_rows allows {max_bad_rows:.0%})"
            raise UserError(f"{share}:{_by_reason(self.bad)}", at=at)
        reasons = np.frombuffer(self.left_out, dtype=np.uint8)[unique]
        self.left_out_empty, self.left_out_flat = int((reasons == EMPTY).sum()), int((reasons == FLAT).sum())
        self.kept = np.flatnonzero(unique)[reasons == 0]
        if not len(self.kept) and len(reasons):
            raise UserError(_none_left(self.left_out_empty, self.left_out_flat), at=at)

    def _add(self, number: int, row: Row, example: Example, shown: set[int]) -> None:
        # Variants of one text may share its id. Rows that are equal in everything are a mistake in the file.
        content = copy_key(example)
        empty, text = is_empty(example), text_key(example)
        thinned = empty and _drawn(self.seed, example.id) >= self.source.keep_empty
        spread = self.spreads.get(example.id)
        self.sampled += spread is not None
        self.first_id = self.first_id or example.id
        flat = spread is not None and self.source.spread is not None and spread < self.source.spread.least - ROUNDING
        left_out = EMPTY if thinned else FLAT if flat else 0
        self.numbers.append(number)
        self.contents.append(content)
        self.empty.append(empty)
        self.left_out.append(left_out)
        self.hashes.append(text_hash(text))
        self.loading.texts.append(text)
        if self.pairs is None:
            self.loading.examples.append(example)
        else:
            self.pairs.append((row, example))
        if not left_out and len(self.first) < ROWS and content not in shown:
            self.first.append((row, example))
            shown.add(content)

    def _unique(self) -> NDArray[np.bool_]:
        """Which rows are not the same as an earlier one; notes the others as bad."""
        contents = np.frombuffer(self.contents, dtype=np.uint64)
        _, first, of_row = np.unique(contents, return_index=True, return_inverse=True)
        earlier = first[of_row]
        unique = np.asarray(earlier == np.arange(len(contents)))
        for n in np.flatnonzero(~unique).tolist():
            reason = f"the same as row {self.numbers[earlier[n]]}; to use rows more than once there is repeat"
            self.bad.append(Rejected(self.name, self.numbers[n], reason))
        self.bad.sort(key=lambda bad: bad.row)
        return unique

    def counts(self, copies: int) -> dict[str, Any]:
        """The start of the source's entry in the ledger."""
        rows, empty = len(self.kept), int(np.frombuffer(self.empty, dtype=np.uint8)[self.kept].sum())
        counts = {"rows": rows, "used": rows * copies, "rejected": len(self.bad), "empty_gold": empty}
        entry: dict[str, Any] = {"source": self.name, **counts, "repeat": self.source.repeat}
        left_out = {"left_out_empty": self.left_out_empty, "left_out_flat": self.left_out_flat}
        return entry | {name: count for name, count in left_out.items() if count}


EMPTY, FLAT = 1, 2
ROUNDING = 1e-6
"""Rewards that differ by less are equal, up to the rounding of their sums."""


def _spreads(source: Source, root: Path, at: KeyPath) -> Mapping[str, float]:
    """Of each row with stored samples, by how much their rewards differ."""
    if source.spread is None:
        return {}
    path = root / Path(source.spread.samples).expanduser()
    rewards = dict[str, list[float]]()
    for _, line in numbered_jsonl(path):
        if isinstance(line.get("reward"), int | float) and not line.get("greedy"):
            rewards.setdefault(str(line.get("id")), []).append(line["reward"])
    if not rewards:
        fault = (
            f"{path} {'holds no graded sample' if path.is_file() else 'does not exist'}; `adapters sample` writes it."
        )
        raise UserError(fault, at=(*at, "spread", "samples"))
    return {id: max(of_row) - min(of_row) for id, of_row in rewards.items()}


def _none_left(empty: int, flat: int) -> str:
    why = "keep_empty leaves out every row with nothing to find" if empty else ""
    more = f"spread leaves out {flat:,}, whose samples hardly differ" if flat else ""
    return f"no row is left: {' and '.join(filter(None, (why, more)))}."


def _drawn(seed: int, id: str) -> float:
    """A number in [0, 1) for a row, the same in every run."""
    return int.from_bytes(hashlib.sha256(f"empty:{seed}:{id}".encode()).digest()[:8]) / 2**64


def _by_reason(bad: Iterable[Rejected]) -> str:
    rows: dict[str, list[int]] = {}
    for row in bad:
        rows.setdefault(row.reason, []).append(row.row)
    shown = islice(rows.items(), 5)
    more = (f" (and {len(alike) - 1:,} more rows)" if len(alike) > 1 else "" for alike in rows.values())
    return "".join(f"\n  row {alike[0]}: {reason}{rest}" for (reason, alike), rest in zip(shown, more, strict=False))


@dataclass(slots=True)
class _Change:
    """What makes rows new in every epoch: the task's variations, then noise. Counts what it did."""

    task: Task
    noiser: RowNoiser | None
    vary: float
    seed: int
    keep_rows: bool = False
    stats: NoiseStats = field(default_factory=NoiseStats)
    varied: int = 0

    def examples(self, clean: Iterable[tuple[Row, Example]], epochs: int, repeat: int) -> Iterator[Example]:
        copies = list(product(range(epochs), range(repeat)))
        keyed = ((row, example, copy_key(example)) for row, example in clean)
        for row, example, key, (epoch, variant) in ((*each, copy) for each in keyed for copy in copies):
            varied = self._varied(row, example.id, f"vary:{self.seed}:{epoch}:{variant}:{example.id}")
            changed, origin = varied, {"source": example.source, "id": example.id}
            if self.noiser:
                changed = self.noiser.apply(varied, self.task, epoch=epoch, variant=variant, stats=self.stats)
            made = in_domain(preference.example(self.task, changed, **origin), domain_of(example))
            made = with_row(made, changed) if self.keep_rows else made
            made = replace(made, meta={**made.meta, COPY_OF: key})
            if self.noiser and self.noiser.keeps_clean:
                clean_one = preference.example(self.task, varied, **origin).prompt
                made = replace(made, meta={**made.meta, CLEAN: clean_one})
            yield made

    def _varied(self, row: Row, id: str, key: str) -> Row:
        rng = random.Random(key)
        if rng.random() >= self.vary:
            return row
        try:
            changed: Row = self.task.vary(row, rng)  # type: ignore[attr-defined]
            self.task.example(changed, id=id)
        except Exception as error:  # a task is anybody's code
            fault = f"vary fails on row {id!r}: {type(error).__name__}: {error}"
            raise UserError(f"the task {type(self.task).__name__}: {fault}.", at=("task",)) from error
        self.varied += 1
        return changed


MOST = 50_000_000
"""Upper bound for the examples of a source, its repeats and noisy epochs included."""
