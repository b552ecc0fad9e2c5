"""Records of funders as facts: funders, their award numbers, and the schemes that these are under."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapters.types import Entity, Fact, Relation, Row


def graph(record: Sequence[Mapping[str, Any]], row: Row) -> Iterator[Fact]:
    """The facts of one record. A funder's registry id is read from the row's `normalized`.

    Where an award has several numbers and several schemes, it is not said which number is under which: the schemes are
    then related to the funder, as are those of an award without a number.
    """
    tidy = row.get("normalized") or [{}] * len(record)
    for funder, match in zip(record, tidy, strict=True):
        name = funder["funder_name"]
        payer = Entity("funder", name, None, match.get("funder_id")) if name else None
        if payer is not None:
            yield payer
        for award in funder["awards"]:
            yield from _award(payer, award)


def _award(payer: Entity | None, award: Mapping[str, Any]) -> Iterator[Fact]:
    numbers = [Entity("award", number) for number in award["award_ids"]]
    schemes = [Entity("scheme", scheme) for scheme in award["funding_scheme"]]
    yield from numbers
    yield from schemes
    if payer is not None:
        yield from (Relation("has_award", payer, number) for number in numbers)
    is_clear = numbers and (len(numbers) == 1 or len(schemes) == 1)
    holders = numbers if is_clear else [payer] if payer is not None else []
    yield from (Relation("under_scheme", holder, scheme) for holder in holders for scheme in schemes)
