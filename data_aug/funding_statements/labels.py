"""Labels of a statement: what its mentions say, as the task's rows have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

from adapters.data_aug.funding_statements.phrases import Award, Mention


class AwardRow(TypedDict):
    """One award of the target."""

    funding_scheme: list[str]
    award_ids: list[str]
    award_title: list[str]


class FunderRow(TypedDict):
    """One funder of the target."""

    funder_name: str | None
    awards: list[AwardRow]


class Row(TypedDict):
    """One statement and its label."""

    id: str
    funding_statement: str
    funders: list[FunderRow]
    source: str


def label(mentions: Sequence[Mention]) -> list[FunderRow]:
    """Merge mentions: one object for each funder, one award for each scheme or title."""
    rows: list[FunderRow] = []
    places: dict[str, FunderRow] = {}
    for mention in mentions:
        name = mention.funder.label if mention.funder else None
        row = places.get(name) if name is not None else None
        if row is None:
            row = {"funder_name": name, "awards": []}
            rows.append(row)
            if name is not None:
                places[name] = row
        for award in mention.awards:
            if award.ids or award.schemes or award.titles:
                _add(row["awards"], award)
    for row in rows:
        if not row["awards"]:
            row["awards"].append({"funding_scheme": [], "award_ids": [], "award_title": []})
    return rows


def _add(awards: list[AwardRow], award: Award) -> None:
    for row in awards:
        if row["funding_scheme"] == award.schemes and row["award_title"] == award.titles:
            break
    else:
        row = {"funding_scheme": award.schemes, "award_ids": [], "award_title": award.titles}
        awards.append(row)
    row["award_ids"] += [i for i in award.ids if i not in row["award_ids"]]


def literals(funders: Sequence[FunderRow]) -> Iterator[str]:
    """Every value that the text must hold to the letter."""
    for funder in funders:
        if funder["funder_name"] is not None:
            yield funder["funder_name"]
        for award in funder["awards"]:
            yield from (*award["funding_scheme"], *award["award_ids"], *award["award_title"])
