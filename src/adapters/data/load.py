"""Sources of a recipe as examples, with a ledger of counts.

Order of operations on a source: read, rename columns, `split`, `where`, `max_rows`, `repeat`. Rows are split before
they are filtered, so that two uses of one file with different filters put each row on the same side.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

from adapters.data import preference
from adapters.data.hub import read_hub
from adapters.data.json_text import label_text
from adapters.data.keys_read import KeysRead
from adapters.data.noise import NoiseStats, RowNoiser
from adapters.data.row_forms import conversion_hint, with_structures
from adapters.data.rows import BAD_ROW, TEXT_COLUMNS, read_file
from adapters.errors import KeyPath, UserError, hint
from adapters.plugins.task_bench import TaskError, guarded
from adapters.recipe.fields import HubSource, PathSource, Source, Split, SynthesizedSource
from adapters.secrets import redact
from adapters.types import ROW, Example, Message, Row, Task

GENERATORS = {
    "funding": "adapters.data_aug.funding_statements:synthesize",
    "funding_written": "adapters.data_aug.funding_statements.library:synthesize",
    "receipts": "adapters.data_aug.receipts:synthesize",
    "desk": "adapters.data_aug.desk:synthesize",
    "agent": "adapters.data_aug.agent:synthesize",
    "agent_unseen": "adapters.data_aug.agent:synthesize_unseen",
    "agent_pairs": "adapters.data_aug.agent.pairs:synthesize",
    "agent_pairs_unseen": "adapters.data_aug.agent.pairs:synthesize_unseen",
    "agent_control": "adapters.data_aug.agent.pairs:synthesize_control",
    "agent_episodes": "adapters.data_aug.agent.environment:synthesize",
    "agent_episodes_unseen": "adapters.data_aug.agent.environment:synthesize_unseen",
    "agent_played": "adapters.data_aug.agent.environment:synthesize_played",
    "entities": "adapters.data_aug.ie.made:synthesize",
}
"""Names for `synthesize:`: functions of (n, seed) that yield rows, imported on use."""

MENDERS = {"funding_links": "adapters.data_aug.funding_links:mend"}
"""Names for `mend:`: functions of a row that give a row with corrected labels, imported on use."""


DOMAIN = "domain"
"""Key of `Example.meta`: the domain of a row, by its source's `domain` or its own column."""
CLEAN = "clean_prompt"
"""Key of `Example.meta`: the prompt without noise, where noise has `teacher: clean`."""
Look = Callable[[Sequence[tuple[Row, Example]]], None]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A bad row: one that could not become an example."""

    source: str
    row: int
    reason: str


@dataclass(slots=True)
class Loaded:
    """Examples of one `data:` list, a ledger entry for each source, and the bad rows."""

    examples: list[Example] = field(default_factory=list)
    ledger: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    """Texts of the rows before noise (`text_key`), for counting leakage."""
    by_source: dict[str, list[str]] = field(default_factory=dict)
    """The same texts, row by row, by source."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that a trainer or scorer sees of the examples, in order."""
        digest = hashlib.sha256()
        for e in self.examples:
            row = [e.id, e.source, e.prompt, e.completion, e.rejected, e.gold]
            row += [more for more in (e.answer, e.rejected_answer, e.learned, e.masked, e.meta.get(ROW)) if more]
            digest.update(json.dumps(row, ensure_ascii=True, sort_keys=True, default=str).encode())
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
    """Read every source of a `data:` list into examples. `look` is shown each source's rows, before noise.

    `keep_rows` puts the rows themselves into the examples, for an environment.

    With `noiser`, or `vary`, the share of the rows that the task varies, there is a copy of each row for each of
    `epochs` epochs and each repeat; without, one epoch serves for all. Raises UserError when a source is missing, empty
    after filtering, or has more than `max_bad_rows` (a share) bad rows.
    """
    out = Loaded()
    for n, source in enumerate(sources):
        key = (*at, n)
        name = source.name or default_name(source)
        rows = _select(source, read(source, root, texts=(task.text_field,), at=key), seed, key)
        if structures := getattr(task, "structures", ()):
            rows = [(number, with_structures(row, structures)) for number, row in rows]
        if source.mend is not None:
            mend = _mender(source.mend, (*key, "mend"))
            rows = [(number, row if BAD_ROW in row else mend(row)) for number, row in rows]
        copies = source.repeat * (epochs if noiser or vary else 1)
        if len(rows) * copies > MOST:
            raise UserError(
                f"{len(rows):,} rows, repeated and changed anew in every epoch, make {len(rows) * copies:,} examples; "
                f"at most {MOST:,} are held in memory. Lower repeat or epochs.",
                at=key,
            )
        keys = KeysRead({"id", DOMAIN, *source.where, *([source.split.key] if source.split else [])})
        clean, bad = _clean_examples(rows, task, name, max_bad_rows, key, keys)
        clean = [(row, _in_domain(example, source.domain or row.get(DOMAIN))) for row, example in clean]
        if keep_rows:
            clean = [(row, _with_row(example, row)) for row, example in clean]
        kept = [pair for pair in clean if not is_empty(pair[1]) or _drawn(seed, pair[1].id) < source.keep_empty]
        clean, left_out = kept, len(clean) - len(kept)
        if not clean and left_out:
            raise UserError("no row is left: keep_empty leaves out every row with nothing to find.", at=key)
        if look is not None:
            look(clean)
        empty = sum(is_empty(example) for _, example in clean)
        counts = {"rows": len(clean), "used": len(clean) * copies, "rejected": len(bad), "empty_gold": empty}
        generated = isinstance(source, SynthesizedSource)
        entry: dict[str, Any] = {"source": name, **counts, "repeat": source.repeat}
        # The project's own generators put nothing into a row that is lost when it is not read.
        entry |= {"left_out_empty": left_out} if left_out else {}
        unread = {} if generated or keep_rows else keys.unread()  # an environment reads what it likes
        entry |= {"license": source.license, "generated": generated, "unread": unread}
        if noiser is None and not vary:
            out.examples += [example for _, example in clean for _ in range(copies)]
        else:
            change = _Change(task, noiser, vary, seed, keep_rows)
            out.examples += change.examples(clean, epochs, source.repeat)
            entry |= {"noise": change.stats.shares()} if noiser else {}
            entry |= {"varied": change.varied} if vary else {}
        out.ledger.append(entry)
        out.rejected += bad
        texts = [text_key(example) for _, example in clean]
        out.texts.update(texts)
        out.by_source.setdefault(name, []).extend(texts)
    return out


def _clean_examples(
    rows: Sequence[tuple[int, Row]], task: Task, source: str, max_bad_rows: float, at: KeyPath, keys: KeysRead
) -> tuple[list[tuple[Row, Example]], list[Rejected]]:
    clean: list[tuple[Row, Example]] = []
    bad: list[Rejected] = []
    first: dict[bytes, int] = {}
    for number, row in rows:
        example, reason = _example(task, row if BAD_ROW in row else keys.of(row), source, number)
        if example is not None:
            # Variants of one text may share its id. Rows that are equal in everything are a mistake in the file.
            content = repr(replace(example, meta={})).encode()
            earlier = first.setdefault(hashlib.blake2b(content, digest_size=16).digest(), number)
            if earlier == number:
                clean.append((row, example))
                continue
            reason = f"the same as row {earlier}; to use rows more than once there is repeat"
        bad.append(Rejected(source, number, reason))
    if len(bad) > max_bad_rows * len(rows):
        share = f"{len(bad)} of {len(rows)} rows cannot be used (max_bad_rows allows {max_bad_rows:.0%})"
        raise UserError(f"{share}:{_by_reason(bad)}", at=at)
    return clean, bad


def _in_domain(example: Example, domain: Any) -> Example:
    if not isinstance(domain, str) or not domain:
        return example
    return replace(example, meta={**example.meta, DOMAIN: domain})


def _with_row(example: Example, row: Row) -> Example:
    return replace(example, meta={**example.meta, ROW: row})


def domain_of(example: Example) -> str | None:
    """The domain of an example, which says whose teacher judges it; None without one."""
    return example.meta.get(DOMAIN)


def clean_prompt(example: Example) -> tuple[Message, ...]:
    """The prompt that a teacher reads: without noise where noise has `teacher: clean`, else the student's."""
    prompt: tuple[Message, ...] = example.meta.get(CLEAN, example.prompt)
    return prompt


def is_empty(example: Example) -> bool:
    """Whether there is nothing to find."""
    gold = example.gold
    return not (any(gold.values()) if isinstance(gold, Mapping) else gold)


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
        for (row, example), epoch, variant in product(clean, range(epochs), range(repeat)):
            varied = self._varied(row, example.id, f"vary:{self.seed}:{epoch}:{variant}:{example.id}")
            changed, origin = varied, {"source": example.source, "id": example.id}
            if self.noiser:
                changed = self.noiser.apply(varied, self.task, epoch=epoch, variant=variant, stats=self.stats)
            made = _in_domain(preference.example(self.task, changed, **origin), domain_of(example))
            made = _with_row(made, changed) if self.keep_rows else made
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


def _example(task: Task, row: Row, source: str, number: int) -> tuple[Example | None, str]:
    if BAD_ROW in row:
        return None, row[BAD_ROW]
    try:
        row_id = label_text(row.get("id"))
    except ValueError:
        return None, f"id must be text or a whole number, not {type(row['id']).__name__}"
    text = row.get(task.text_field)
    if isinstance(text, str):
        if len(text) > LONGEST:
            return None, f"{task.text_field} has {len(text):,} characters; the limit is {LONGEST:,}"
        if "\0" in text or (not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)):
            return None, f"{task.text_field} holds NUL or a lone surrogate: it was decoded wrongly"
    try:
        example = preference.example(
            guarded(task), row, source=source, id=f"{source}:{number}" if row_id is None else row_id
        )
        # What cannot be written as JSON in UTF-8 would fail later, in the tokenizer or when samples are stored.
        values = [example.id, example.prompt, example.completion, example.rejected, example.gold]
        written = json.dumps(values, ensure_ascii=False, default=str)
        written.encode()
        if written.count("[") + written.count("{") > DEEPEST and _deeper(values, DEEPEST):
            return None, "nested too deeply"
    except TaskError:
        raise
    except UnicodeEncodeError:
        return None, "a text holds a lone surrogate: it was decoded wrongly"
    except RecursionError:
        return None, "nested too deeply"
    except ValueError as error:
        return None, redact(str(error)) + conversion_hint(row)
    except Exception as error:  # a task is anybody's code
        raise UserError(
            f"the task {type(task).__name__}: example fails on row {row_id!r}: {type(error).__name__}: {error}. "
            "For a row that cannot be used it must raise ValueError.",
            at=("task",),
        ) from error
    return example, ""


def _deeper(value: Any, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return isinstance(value, list | tuple) and (not levels or any(_deeper(inner, levels - 1) for inner in value))


def default_name(source: Source) -> str:
    """Name of a source when the recipe gives none."""
    if isinstance(source, PathSource):
        return Path(source.path).stem
    if isinstance(source, HubSource):
        return f"{source.hub.rstrip('/').rsplit('/', 1)[-1]}:{source.hub_split}"
    return f"synthetic-{source.synthesize}"


def read(source: Source, root: Path, *, texts: Iterable[str] = (), at: KeyPath = ()) -> list[tuple[int, Row]]:
    """All rows of a source with their 1-based numbers, before any selection.

    `texts` are columns of the task that hold text, also where a table has JSON in them.
    """
    if isinstance(source, SynthesizedSource):
        return list(enumerate(_synthesize(source, (*at, "synthesize")), 1))
    texts = tuple(source.columns.get(name, name) for name in (*TEXT_COLUMNS, *texts))
    if isinstance(source, HubSource):
        return list(enumerate(read_hub(source, root, at=(*at, "hub"), texts=texts), 1))
    return list(read_file(root / Path(source.path).expanduser(), at=(*at, "path"), texts=texts))


LONGEST = 500_000
"""Upper bound for the characters of a row's text: a longer one is a book, not a passage."""
MOST = 50_000_000
"""Upper bound for the examples of a source, its repeats and noisy epochs included."""
DEEPEST = 100
"""Upper bound for the levels of brackets in a row; Python's recursion limit is a thousand calls."""


def _mender(name: str, at: KeyPath) -> Callable[[Row], Row]:
    if name not in MENDERS:
        raise UserError(f"nothing that mends rows is called {name!r}.{hint(name, [*MENDERS])}", at=at)
    module, _, function = MENDERS[name].partition(":")
    mend: Callable[[Row], Row] = getattr(importlib.import_module(module), function)
    return mend


def _synthesize(source: SynthesizedSource, at: KeyPath) -> Iterable[Row]:
    if source.synthesize not in GENERATORS:
        raise UserError(f"no generator is called {source.synthesize!r}.{hint(source.synthesize, [*GENERATORS])}", at=at)
    module, _, function = GENERATORS[source.synthesize].partition(":")
    rows: Iterable[Row] = getattr(importlib.import_module(module), function)(source.n, source.seed)
    return rows


def _select(source: Source, rows: list[tuple[int, Row]], seed: int, at: KeyPath) -> list[tuple[int, Row]]:
    for wanted, column in source.columns.items():
        _check_column(column, rows, (*at, "columns", wanted))
    rows = [(n, _renamed(row, source.columns)) for n, row in rows]
    if source.split is not None:
        column = source.split.key
        _check_column(column, rows, (*at, "split", "key"))
        keys = split_keys([str(row.get(column)) for _, row in rows if BAD_ROW not in row], source.split)
        rows = [(n, row) for n, row in rows if BAD_ROW in row or str(row.get(column)) in keys]
    for column, value in source.where.items():
        _check_column(column, rows, (*at, "where", column))
        allowed = value if isinstance(value, tuple) else (value,)
        rows = [(n, row) for n, row in rows if BAD_ROW in row or row.get(column) in allowed]
    if source.max_rows is not None and len(rows) > source.max_rows:
        rows = [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), source.max_rows))]
    if not rows:
        raise UserError("no row is left of this source after its filters.", at=at)
    return rows


def _check_column(column: str, rows: Sequence[tuple[int, Row]], at: KeyPath) -> None:
    good = [row for _, row in rows if BAD_ROW not in row]
    if good and not any(column in row for row in good):
        raise UserError(f"no row has the column {column!r}.{hint(column, list(good[0]))}", at=at)


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    # A renamed column replaces one that has the new name already.
    if not columns or BAD_ROW in row:
        return row
    kept = {k: v for k, v in row.items() if k not in columns and k not in columns.values()}
    return kept | {wanted: row[column] for wanted, column in columns.items() if column in row}


def split_keys(keys: Iterable[str], split: Split) -> set[str]:
    """The keys of a part, sorted, shuffled and cut at int(fraction * n) (last: the rest) as in the published split."""
    ordered = sorted(set(keys))
    random.Random(split.seed).shuffle(ordered)
    sizes = [int(fraction * len(ordered)) for fraction in split.fractions.values()]
    n = list(split.fractions).index(split.name)
    start = sum(sizes[:n])
    return set(ordered[start:] if n == len(sizes) - 1 else ordered[start : start + sizes[n]])


def prompt_key(example: Example) -> str:
    """Key of an example's prompt, without case, spacing and punctuation."""
    return fold(" ".join(m["content"] or "" for m in example.prompt))


def text_key(example: Example) -> str:
    """Key of an example's text, whatever the prompt asks about it."""
    text = example.meta.get("text")
    return fold(text) if isinstance(text, str) else prompt_key(example)


def fold(text: str) -> str:
    """A text without case, spacing and punctuation."""
    return re.sub(r"\W+", " ", text.casefold()).strip()
