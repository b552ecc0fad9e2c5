"""Token counts of prompts and targets by source, and the rows that exceed the length limits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from adapters.data.on_disk import Taken
from adapters.types import Example, Lengths

BLOCK: Final = 4096
"""Examples that are measured at once."""
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}


def measured(
    examples: Sequence[Example], measure: Callable[[Sequence[Example]], Iterable[Lengths]]
) -> Sequence[Lengths]:
    """What `measure` says of the examples, asked block by block: a list of few, an array's rows of many."""
    if not isinstance(examples, Taken):
        return list(measure(examples))
    table = np.empty((len(examples), len(Lengths._fields)), dtype=np.int32)
    for start in range(0, len(examples), BLOCK):
        block = list(examples[start : start + BLOCK])
        table[start : start + len(block)] = list(measure(block))
    return Table(table)


class Table(Sequence[Lengths]):
    """Lengths as an array's rows."""

    def __init__(self, rows: NDArray[np.int32]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Lengths: ...
    @overload
    def __getitem__(self, at: slice) -> Table: ...
    def __getitem__(self, at: int | slice) -> Lengths | Table:
        """A row, or a part."""
        return Table(self.rows[at]) if isinstance(at, slice) else Lengths(*self.rows[at].tolist())

    def __iter__(self) -> Iterator[Lengths]:
        """The rows."""
        for start in range(0, len(self.rows), BLOCK):
            yield from map(Lengths._make, self.rows[start : start + BLOCK].tolist())


def as_array(lengths: Sequence[Lengths]) -> NDArray[Any]:
    """Prompts, completions and rejected sides as columns."""
    return lengths.rows if isinstance(lengths, Table) else np.array(lengths, dtype=np.int64).reshape(-1, 3)


def by_source(examples: Sequence[Example], lengths: Sequence[Lengths], kept: Sequence[bool]) -> list[dict[str, Any]]:
    """Rows, kept, dropped, and tokens (with end tokens, of dropped rows too) by source."""
    codes: dict[str, int] = {}
    of_row = np.fromiter((codes.setdefault(e.source, len(codes)) for e in examples), dtype=np.int32)
    table, fits, out = as_array(lengths), np.asarray(kept, dtype=bool), []
    for source, code in codes.items():
        rows = np.flatnonzero(of_row == code)
        fitting = int(fits[rows].sum())
        prompts, targets, rejected = table[rows].T
        entry = {"source": source, "rows": len(rows), "kept": fitting, "dropped": len(rows) - fitting}
        entry |= {"prompt": quantiles(prompts), "target": quantiles(targets)}
        out.append(entry | ({"rejected": quantiles(rejected)} if rejected.any() else {}))
    return out


def answer_limit(answers: Iterable[int]) -> int:
    """Most tokens of a model's answer: 1.5 times the longest gold one, 32 at least."""
    return max(32, 16 * math.ceil(1.5 * max(answers, default=0) / 16))


def quantiles(values: Sequence[int] | NDArray[Any]) -> dict[str, int]:
    """Nearest-rank quantiles."""
    ordered = np.sort(values)
    return {name: int(ordered[round(q * (len(ordered) - 1))]) for name, q in QUANTILES.items()}
