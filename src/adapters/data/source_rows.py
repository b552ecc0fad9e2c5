"""The rows of one source of a recipe: read, renamed, split, filtered and mended, one after the other."""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from adapters.data.hub import read_hub
from adapters.data.on_disk import collect, take
from adapters.data.row_forms import with_structures
from adapters.data.rows import BAD_ROW, TEXT_COLUMNS, read_file
from adapters.errors import KeyPath, UserError, hint
from adapters.recipe.fields import HubSource, PathSource, Source, Split, SynthesizedSource
from adapters.types import Row, Task

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
"""Names for `mend:`: functions of a row and `text_field` that give a row with corrected labels, imported on use."""


def rows_of(source: Source, task: Task, root: Path, seed: int, at: KeyPath) -> Iterator[tuple[int, Row]]:
    """The rows of a source that are wanted, mended, with structures in place of their JSON."""
    mend = _mender(source.mend, task, (*at, "mend")) if source.mend is not None else None
    structures = getattr(task, "structures", ())
    for number, row in _select(source, read(source, root, texts=(task.text_field,), at=at), seed, at):
        whole = with_structures(row, structures) if structures else row
        yield number, mend(whole) if mend and BAD_ROW not in whole else whole


def default_name(source: Source) -> str:
    """Name of a source when the recipe gives none."""
    if isinstance(source, PathSource):
        return Path(source.path).stem
    if isinstance(source, HubSource):
        return f"{source.hub.rstrip('/').rsplit('/', 1)[-1]}:{source.hub_split}"
    return f"synthetic-{source.synthesize}"


def read(source: Source, root: Path, *, texts: Iterable[str] = (), at: KeyPath = ()) -> Iterator[tuple[int, Row]]:
    """All rows of a source with their 1-based numbers, before any selection.

    `texts` are columns of the task that hold text, also where a table has JSON in them.
    """
    if isinstance(source, SynthesizedSource):
        return enumerate(_synthesize(source, (*at, "synthesize")), 1)
    texts = tuple(source.columns.get(name, name) for name in (*TEXT_COLUMNS, *texts))
    if isinstance(source, HubSource):
        return enumerate(read_hub(source, root, at=(*at, "hub"), texts=texts), 1)
    return read_file(root / Path(source.path).expanduser(), at=(*at, "path"), texts=texts)


def _mender(name: str, task: Task, at: KeyPath) -> Callable[[Row], Row]:
    if name not in MENDERS:
        raise UserError(f"nothing that mends rows is called {name!r}.{hint(name, [*MENDERS])}", at=at)
    module, _, function = MENDERS[name].partition(":")
    return partial(getattr(importlib.import_module(module), function), text_field=task.text_field)


def _synthesize(source: SynthesizedSource, at: KeyPath) -> Iterable[Row]:
    if source.synthesize not in GENERATORS:
        raise UserError(f"no generator is called {source.synthesize!r}.{hint(source.synthesize, [*GENERATORS])}", at=at)
    module, _, function = GENERATORS[source.synthesize].partition(":")
    rows: Iterable[Row] = getattr(importlib.import_module(module), function)(source.n, source.seed)
    return rows


def _select(source: Source, rows: Iterable[tuple[int, Row]], seed: int, at: KeyPath) -> Iterable[tuple[int, Row]]:
    """The wanted rows; they are streamed where no selection must know all of them."""
    if not (source.columns or source.split or source.where) and source.max_rows is None:
        return rows
    known = collect(rows)
    for wanted, column in source.columns.items():
        _check_column(column, known, (*at, "columns", wanted))
    if source.columns:
        known = collect((n, _renamed(row, source.columns)) for n, row in known)
    if source.split is not None:
        column = source.split.key
        _check_column(column, known, (*at, "split", "key"))
        keys = split_keys((str(row.get(column)) for _, row in known if BAD_ROW not in row), source.split)
        known = _where(known, lambda row: str(row.get(column)) in keys)
    for column, value in source.where.items():
        _check_column(column, known, (*at, "where", column))
        allowed = value if isinstance(value, tuple) else (value,)
        known = _where(known, partial(_has, column, allowed))
    if source.max_rows is not None and len(known) > source.max_rows:
        known = take(known, np.array(sorted(random.Random(seed).sample(range(len(known)), source.max_rows))))
    return known


def _has(column: str, allowed: tuple[Any, ...], row: Row) -> bool:
    return row.get(column) in allowed


def _where(rows: Sequence[tuple[int, Row]], wanted: Callable[[Row], bool]) -> Sequence[tuple[int, Row]]:
    """The wanted rows, and those that cannot be read."""
    return take(rows, np.array([n for n, (_, row) in enumerate(rows) if BAD_ROW in row or wanted(row)], dtype=int))


def _check_column(column: str, rows: Sequence[tuple[int, Row]], at: KeyPath) -> None:
    good = (row for _, row in rows if BAD_ROW not in row)
    first = next(good, None)
    if first is not None and column not in first and not any(column in row for row in good):
        raise UserError(f"no row has the column {column!r}.{hint(column, list(first))}", at=at)


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
