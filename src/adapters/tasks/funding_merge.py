"""Funders from the parts of one text: the same funder once, with the awards of all parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from adapters.rewards.funding_records import normalise_award_id
from adapters.rewards.grounding import fold

Funder = dict[str, Any]
FIELDS = ("award_ids", "funding_scheme", "award_title")
_BRACKET = re.compile(r"^(.+?)\s*\(([A-Z][A-Za-z&.-]*[A-Z][A-Za-z&.-]*)\)$", re.DOTALL)


def merge(records: Sequence[Sequence[Funder]], *, one_award: bool) -> list[Funder]:
    """The funders of overlapping parts, in the order of the text. Those of one part stay apart.

    A funder is the same by its name without case, white space and dashes; by the acronym that a name has in brackets
    ("National Science Foundation (NSF)" is "NSF", and the name alone); and, where one has no name, by an award id.
    Awards are one where they share an id, or have none and share a scheme or title. `one_award`: all awards of a
    funder become one, as in answers of the compact form.
    """
    funders: list[Funder] = []
    for record in records:
        known = list(funders)
        for funder in record:
            ids = _ids(funder["awards"])
            alike = [f for f in known if _is_same(f, funder)]
            # One answer may name a funder twice: the one with the same awards is meant.
            same = max(alike, key=lambda f: len(ids & _ids(f["awards"])), default=None)
            if same is None:
                same = {"funder_name": funder["funder_name"], "awards": []}
                funders.append(same)
            same["funder_name"] = same["funder_name"] or funder["funder_name"]
            _add(same["awards"], funder["awards"])
    return [{**funder, "awards": _kept(funder["awards"], one_award)} for funder in funders]


def _is_same(funder: Funder, other: Funder) -> bool:
    name, second = funder["funder_name"], other["funder_name"]
    if not name or not second:
        return bool(_ids(funder["awards"]) & _ids(other["awards"]))
    return fold(name) in _names(second) or fold(second) in _names(name)


def _names(name: str) -> set[str]:
    """A name folded; with an acronym in brackets also without it, and the acronym."""
    found = _BRACKET.match(name.strip())
    return {fold(name), *map(fold, found.groups() if found else ())}


def _add(awards: list[dict[str, list[str]]], more: Iterable[dict[str, list[str]]]) -> None:
    known = list(awards)
    for award in more:
        same = next((a for a in known if _is_same_award(a, award)), None)
        if same is None:
            awards.append({name: list(award[name]) for name in award})
        else:
            _unite(same, award)


def _is_same_award(award: dict[str, list[str]], other: dict[str, list[str]]) -> bool:
    ids, others = _ids([award]), _ids([other])
    if ids or others:
        return bool(ids & others)
    return any({*map(fold, award[name])} & {*map(fold, other[name])} for name in FIELDS[1:])


def _unite(award: dict[str, list[str]], more: dict[str, list[str]]) -> None:
    for name in FIELDS:
        key = _id if name == "award_ids" else fold
        known = set(map(key, award[name]))
        award[name] += [value for value in more[name] if key(value) not in known]


def _kept(awards: list[dict[str, list[str]]], one_award: bool) -> list[dict[str, list[str]]]:
    """The awards that say something; an empty one where none does, as in the published data."""
    said = [award for award in awards if any(award.values())]
    if one_award:
        for award in said[1:]:
            _unite(said[0], award)
        del said[1:]
    return said or awards[:1]


def _ids(awards: Iterable[dict[str, list[str]]]) -> set[str]:
    return {_id(value) for award in awards for value in award["award_ids"]}


def _id(value: str) -> str:
    return normalise_award_id(value, "corrected")
