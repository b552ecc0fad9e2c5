"""Mends guessed links of award ids to funders, and marks those that stay a guess.

Sets such as GROBID's training data mark names and ids by hand, but say nowhere which id belongs to which funder: a
converter guessed the nearest name before the id, else the next. Where the text says it ("ID from FUNDER", "FUNDER grant
ID"), the link is what the text says. Where it does not, and more than one funder may be meant, the row says so in
`uncertain`: the paths of these ids, dotted ("funders.0.awards.1.award_ids.0"), and of the empty lists of ids of the
other funders that may be meant. A programme without a body is no funder's name (`funding_statements.programmes`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeGuard

from adapters.data_aug.funding_statements.names import BODIES
from adapters.data_aug.funding_statements.programmes import is_programme

_ID_WORDS = (
    r"(?:[\s,:()\[\]#–-]|\b(?:the|an?|under|through|via|grants?|awards?|awarded|contracts?|projects?|fellowships?|"
    r"scholarships?|funds?|funding|research|numbers?|nos?|nr|n|ref|references?|ids?|codes?|agreements?|in part|"
    r"programm?e?|scheme|its|career|development|training|postdoctoral|predoctoral|doctoral|young|investigator|"
    r"center)\b\.?|n°)*"
)
_BEFORE = re.compile(rf"(?:\s?[(\[][^()\[\]]{{0,70}}|{_ID_WORDS})", re.IGNORECASE)
_BETWEEN = re.compile(r"(?:[\s,;&/+#]|\b(?:and|to|the)\b|\([A-Z. ]{2,9}\)|\b[A-Z]\.(?:[- ]?[A-Z]\.)+)*", re.IGNORECASE)
_AFTER = re.compile(
    r"(?:[)\]]?(?:\s?\([^()]{2,30}\))?(?:\s+(?:grants?|projects?|awards?|fellowships?))?"
    r"(?:\s+(?:to|for)\s+(?:[A-Z]\.[- ]?){1,3}\w*|\s+to\s+[A-Z]\w+\s+[A-Z]\w+)?\s+"
    r"(?:from|of|(?:awarded|given|provided|granted|funded|financed|sponsored|supported)\s+(?:by|from))\s+(?:the\s+|an?\s+)?"
    r"|\s?\((?:the\s+)?)"
)
_CLAUSE = re.compile(r";|\.\s+(?=[A-Z(])|\n")
_JOINED = re.compile(r"(?:\s?\([A-Z][A-Za-z. -]{1,9}\))?(?:,|,?\s+(?:and|&))\s+(?:(?:by|from|the)\s+)*")
"""What stands between two names of a list."""
_AND = re.compile(r"\band\b|&")
_RESPECTIVELY = re.compile(r"(?:\s?\([^()]{2,30}\))?[\s,)\]]*\brespectively\b")
_OF_ALL = re.compile(r"[^(]*\b(?:under|through|via)\b[^(]*", re.IGNORECASE)
"""Ties ids to a list of names as a whole: "A and B under grants"."""


FIELDS = ("award_ids", "funding_scheme", "award_title")


class Place(NamedTuple):
    """Where a name or an id stands."""

    start: int
    end: int
    value: str


@dataclass(slots=True)
class Mended:
    """What was done with the links of a set: ids in all, mended, left as the text confirms them, and marked."""

    ids: int = 0
    moved: int = 0
    confirmed: int = 0
    marked: int = 0
    programmes: int = 0


def mend(
    row: Mapping[str, Any], mended: Mended | None = None, *, text_field: str = "funding_statement"
) -> dict[str, Any]:
    """The row with links as its text says them, and the paths of the other ones in `uncertain`.

    A row without a text or without funders and awards as lists is given back as it is, and so is one that says itself
    what is uncertain, and one with a name that cannot be told from other text: one of fewer than three characters, or
    one that is an id as well.
    """
    count = mended or Mended()
    text, labelled = row.get(text_field), row.get("funders")
    if not isinstance(text, str) or not is_nested(labelled) or row.get("uncertain"):
        return dict(row)
    funders = [_copy(funder) for funder in labelled]
    named = [f["funder_name"] for f in funders if f["funder_name"]]
    if any(len(name) < 3 for name in named) or {i for f in funders for i in _ids(f)} & set(named):
        return dict(row)
    names = places(text, named)
    owners = {f["funder_name"]: f for f in funders}
    unsure: list[tuple[str, list[Any]]] = []
    for run in _runs(text, funders, names):
        meant = _said(text, run, names)
        if [_owners(funders, place.value) for place in run] == (one_each := [[name] for name in meant[0]]):
            meant = one_each
        for place, those in zip(run, meant, strict=True):
            holders, now = [f for f in funders if place.value in _ids(f)], _owners(funders, place.value)
            count.ids += 1
            if len(those) == 1 and those[0] not in now:
                _move(place.value, holders, owners[those[0]])
                count.moved += 1
            elif len(those) == 1 or set(those) == set(now):
                count.confirmed += 1
            elif len(now) == 1 and (others := sorted({*those} - {*now}) or _others(text, place, names, now[0])):
                unsure.append((place.value, [holders[0], *(owners[name] for name in others)]))
                count.marked += 1
    for funder in funders:
        count.programmes += _unnamed(funder)
    paths = [path for value, those in unsure for funder in those for path in _paths(funders, funder, value)]
    return {**row, "funders": funders} | ({"uncertain": list(dict.fromkeys(paths))} if paths else {})


def places(text: str, values: Sequence[str]) -> list[Place]:
    """Where values stand by themselves, in order; a longer one hides a shorter one inside it."""
    found: list[Place] = []
    for value in sorted(set(values), key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text):
            if not any(place.start < match.end() and match.start() < place.end for place in found):
                found.append(Place(*match.span(), value))
    return sorted(found)


def is_nested(funders: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether labels are funders with lists of awards, and these with lists of values."""
    return isinstance(funders, list) and all(
        isinstance(funder, dict)
        and "funder_name" in funder
        and isinstance(awards := funder.get("awards"), list)
        and all(
            isinstance(award, dict) and all(isinstance(award.get(name), list | None) for name in FIELDS)
            for award in awards
        )
        for funder in funders
    )


def _copy(funder: Mapping[str, Any]) -> dict[str, Any]:
    return {**funder, "awards": [{name: list(a.get(name) or ()) for name in FIELDS} for a in funder["awards"]]}


def _ids(funder: Mapping[str, Any]) -> list[str]:
    return [i for award in funder["awards"] for i in award["award_ids"]]


def _owners(funders: Sequence[Mapping[str, Any]], value: str) -> list[Any]:
    """The names of the funders that have an id."""
    return [f["funder_name"] for f in funders if value in _ids(f)]


def _runs(text: str, funders: Sequence[Mapping[str, Any]], names: Sequence[Place]) -> Iterator[list[Place]]:
    """Ids that stand together: nothing but commas, "and", holders and words such as "no." is between them."""
    spans = places(text, [*(i for f in funders for i in _ids(f)), *(place.value for place in names)])
    known = {name.value for name in names}
    run: list[Place] = []
    for place in spans:
        if run and (place.value in known or not _BETWEEN.fullmatch(text, run[-1].end, place.start)):
            yield run
            run = []
        if place.value not in known:
            run.append(place)
    if run:
        yield run


def _said(text: str, run: Sequence[Place], names: Sequence[Place]) -> list[list[str]]:
    """For each id of a run the funder that the text ties it to; several where it does not say which, or none.

    "FUNDER (ID)", "FUNDER grant ID", "ID from FUNDER"; with "respectively" the ids in the order of as many funders.
    """
    before = _listed(text, [name for name in reversed(names) if name.end <= run[0].start])
    match = _AFTER.match(text, run[-1].end)
    after = _listed(text, [name for name in names if match and name.start >= match.end()])
    if match is None or not after or after[0].start != match.end():
        after = []
    for one_each, end in ((before, run[-1].end), (after, after[-1].end if after else 0)):
        if one_each and _RESPECTIVELY.match(text, end):
            whole = len(one_each) == len(run) and not _CLAUSE.search(text, one_each[0].start, run[-1].end)
            return [[name.value] for name in one_each] if whole else [[] for _ in run]
    owners: list[Place] = after[:1]
    if before and (tie := _BEFORE.fullmatch(text, before[-1].end, run[0].start)):
        if not after or "(" in tie[0]:
            owners = before if _OF_ALL.fullmatch(tie[0]) else before[-1:]
        elif tie[0][:1] not in (",", ";"):
            owners = []
    return [[name.value for name in owners] for _ in run]


def _listed(text: str, names: Sequence[Place]) -> list[Place]:
    """The first of the names with those that it makes a list with, in the order of the text: "A, B and C"."""
    listed = list(names[:1])
    for one, two in pairwise(names):
        left, right = sorted((one, two))
        if not _JOINED.fullmatch(text, left.end, right.start):
            break
        listed.append(two)
    listed.sort()
    closed = len(listed) > 1 and _AND.search(text, listed[-2].end, listed[-1].start)
    return listed if closed else list(names[:1])


def _others(text: str, place: Place, names: Sequence[Place], owner: str | None) -> list[str]:
    """Other funders that an id may belong to: those of its clause, or all where the clause does not name its owner."""
    cuts = [0, *(match.end() for match in _CLAUSE.finditer(text)), len(text)]
    start = max(cut for cut in cuts if cut <= place.start)
    end = min(cut for cut in cuts if cut >= place.end)
    here = {name.value for name in names if name.start >= start and name.end <= end}
    return sorted((here if owner in here else {name.value for name in names}) - {owner})


def _move(value: str, holders: Sequence[dict[str, Any]], owner: dict[str, Any]) -> None:
    for holder in holders:
        for award in holder["awards"]:
            award["award_ids"] = [i for i in award["award_ids"] if i != value]
    plain = next((a for a in owner["awards"] if not a["funding_scheme"] and not a["award_title"]), None)
    if plain is None:
        plain = {"funding_scheme": [], "award_ids": [], "award_title": []}
        owner["awards"].append(plain)
    plain["award_ids"].append(value)


def _unnamed(funder: dict[str, Any]) -> bool:
    """Make the name of a programme the scheme of a funder without a name."""
    name = funder["funder_name"]
    if name is None or not is_programme(name, BODIES):
        return False
    funder["funder_name"] = None
    for award in funder["awards"]:
        award["funding_scheme"] = [name, *award["funding_scheme"]]
    return True


def _paths(funders: Sequence[Mapping[str, Any]], funder: Mapping[str, Any], value: str) -> Iterator[str]:
    """The path of an id, and that of the empty list of a funder that may own it."""
    at = next(n for n, other in enumerate(funders) if other is funder)
    if not _ids(funder):
        yield f"funders.{at}.awards.0.award_ids"
    for number, award in enumerate(funder["awards"]):
        if value in award["award_ids"]:
            yield f"funders.{at}.awards.{number}.award_ids.{award['award_ids'].index(value)}"
