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
_BETWEEN = re.compile(
    r"(?:[\s,;&/+#]|\b(?:and|to|the|respectively)\b|\([A-Z. ]{2,9}\)|\b[A-Z]\.(?:[- ]?[A-Z]\.)+)*", re.IGNORECASE
)
_AFTER = re.compile(
    r"(?:[)\]]?(?:\s?\([^()]{2,30}\))?(?:\s+(?:grants?|projects?|awards?|fellowships?))?"
    r"(?:\s+(?:to|for)\s+(?:[A-Z]\.[- ]?){1,3}\w*|\s+to\s+[A-Z]\w+\s+[A-Z]\w+)?\s+"
    r"(?:from|of|(?:awarded|given|provided|granted|funded|financed|sponsored|supported)\s+(?:by|from))\s+(?:the\s+|an?\s+)?"
    r"|\s?\((?:the\s+)?)"
)
_CLAUSE = re.compile(r";|\.\s+(?=[A-Z(])|\n")


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


def mend(row: Mapping[str, Any], mended: Mended | None = None) -> dict[str, Any]:
    """The row with links as its text says them, and the paths of the other ones in `uncertain`.

    A row without a text or without funders and awards as lists is given back as it is, and so is one with a name that
    cannot be told from other text: one of fewer than three characters, or one that is an id as well.
    """
    count = mended or Mended()
    text, labelled = row.get("funding_statement"), row.get("funders")
    if not isinstance(text, str) or not _is_nested(labelled):
        return dict(row)
    funders = [_copy(funder) for funder in labelled]
    named = [f["funder_name"] for f in funders if f["funder_name"]]
    if any(len(name) < 3 for name in named) or {i for f in funders for i in _ids(f)} & set(named):
        return dict(row)
    names = places(text, named)
    owners = {f["funder_name"]: f for f in funders}
    unsure: list[tuple[str, list[Any]]] = []
    for run in _runs(text, funders, names):
        said = _said(text, run, names)
        for place in run:
            count.ids += 1
            holders = [f for f in funders if place.value in _ids(f)]
            if said is not None and all(f["funder_name"] != said for f in holders):
                _move(place.value, holders, owners[said])
                count.moved += 1
            elif said is not None:
                count.confirmed += 1
            elif len(holders) == 1 and (others := _others(text, place, names, holders[0]["funder_name"])):
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


def _is_nested(funders: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(funders, list) and all(
        isinstance(funder, dict)
        and "funder_name" in funder
        and isinstance(awards := funder.get("awards"), list)
        and all(
            isinstance(award, dict) and all(isinstance(award.get(name), list) for name in FIELDS) for award in awards
        )
        for funder in funders
    )


def _copy(funder: Mapping[str, Any]) -> dict[str, Any]:
    return {**funder, "awards": [{name: list(a[name]) for name in FIELDS} for a in funder["awards"]]}


def _ids(funder: Mapping[str, Any]) -> list[str]:
    return [i for award in funder["awards"] for i in award["award_ids"]]


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


def _said(text: str, run: Sequence[Place], names: Sequence[Place]) -> str | None:
    """The funder that the text ties to a run of ids: "FUNDER (ID)", "FUNDER grant ID", "ID from FUNDER"."""
    before = next((name for name in reversed(names) if name.end <= run[0].start), None)
    tied = before is not None and _BEFORE.fullmatch(text, before.end, run[0].start) is not None
    match = _AFTER.match(text, run[-1].end)
    after = next((name for name in names if match and name.start == match.end()), None)
    if before is None or not tied:
        return after.value if after else None
    if after is None or "(" in text[before.end : run[0].start]:
        return before.value
    return after.value if text[before.end] in ",;" else None


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
