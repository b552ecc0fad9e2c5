"""Statements that a large language model wrote, one by one, for labels of the generator.

Their sentences are what a grammar does not make: several sentences, persons, conflicts of interest, dense lists as
authors write them. Every text passed the checks of `written`. Each draw gives the award ids other digits.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

from adapters.data_aug.data_files import FOLDER
from adapters.data_aug.funding_statements.labels import Row
from adapters.data_aug.funding_statements.redrawn import with_other_ids

FILE = FOLDER / "funding_statements/library.jsonl.gz"


def synthesize(n: int, seed: int = 0) -> Iterator[Row]:
    """`n` statements; each one of the library comes once before any comes again. Row i depends on (seed, i) only."""
    rows = list(_library())
    for index in range(n):
        if index % len(rows) == 0:
            rows = list(_library())
            Random(f"{seed}:{index // len(rows)}").shuffle(rows)
        drawn: Any = with_other_ids(rows[index % len(rows)], Random(f"{seed}:{index}"))
        drawn["id"] = f"written-{seed}-{index}"
        yield drawn


@cache
def _library() -> list[Row]:
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        rows: list[Row] = [json.loads(line) | {"id": "", "source": "written-funding"} for line in lines]
    return rows
