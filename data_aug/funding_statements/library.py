"""Statements that a large language model wrote, one by one, for labels of the generator.

Their sentences are what a grammar does not make: several sentences, persons, conflicts of interest, dense lists as
authors write them. Every text passed the checks of `written`. Each draw gives the award ids other digits.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any

from adapters.data_aug.data_files import FOLDER
from adapters.data_aug.funding_statements.labels import Row

FILE = FOLDER / "funding_statements/library.jsonl.gz"


def synthesize(n: int, seed: int = 0) -> Iterator[Row]:
    """`n` statements; each one of the library comes once before any comes again. Row i depends on (seed, i) only."""
    rows = list(_library())
    for index in range(n):
        if index % len(rows) == 0:
            rows = list(_library())
            Random(f"{seed}:{index // len(rows)}").shuffle(rows)
        row = rows[index % len(rows)]
        yield {**_redrawn(row, Random(f"{seed}:{index}")), "id": f"written-{seed}-{index}"}


@cache
def _library() -> list[Row]:
    with gzip.open(FILE, "rt", encoding="utf-8") as lines:
        rows: list[Row] = [json.loads(line) | {"id": "", "source": "written-funding"} for line in lines]
    return rows


def _redrawn(row: Row, rng: Random) -> Row:
    """The row with other digits in its ids, the same in text and labels."""
    ids = {i for f in row["funders"] for a in f["awards"] for i in a["award_ids"]}
    fresh = {i: _redraw_digits(i, rng) for i in sorted(ids)}
    if not ids or len(set(fresh.values())) < len(ids):
        return row
    longest_first = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
    pattern = re.compile(rf"(?<!\w)(?:{longest_first})(?!\w|[-/.]\w)")

    def renewed(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda match: fresh[match.group()], value)
        if isinstance(value, list):
            return [renewed(part) for part in value]
        return {key: renewed(part) for key, part in value.items()} if isinstance(value, dict) else value

    funders: Any = renewed(row["funders"])
    return {**row, "funding_statement": renewed(row["funding_statement"]), "funders": funders}


def _redraw_digits(award_id: str, rng: Random) -> str:
    """Other digits in runs of three and more; a year stays, and a first digit does not become 0."""

    def run(match: re.Match[str]) -> str:
        digits = match.group()
        if re.fullmatch(r"(?:19|20)\d\d", digits):
            return digits
        return rng.choice(digits[0] if digits[0] == "0" else "123456789") + "".join(
            rng.choice("0123456789") for _ in digits[1:]
        )

    return re.sub(r"\d{3,}", run, award_id)
