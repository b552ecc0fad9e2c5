"""Clean-up of extracted funders and award ids, and matching with a funder registry."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import ftfy
import numpy as np
from rapidfuzz import fuzz, process, utils

from adapters.data.formats.xml_files import children, parse, text_of
from adapters.data.rows import BAD_ROW, read_records
from adapters.errors import UserError
from adapters.rewards.funding_records import normalise_award_id
from adapters.tasks import countries
from adapters.types import Row

CUTOFF = 0.9
"""Lowest similarity of a match: token-sorted ratio, without case, accents and punctuation."""
WORDS = 0.8
"""Lowest similarity of the words that only one of two similar names has."""
SHORTEST = 8
"""Shorter names, which are mostly acronyms, match only when they are equal."""
_QUERIES = 256
_SCORES = 1 << 24  # 64 MiB; ROR has some 400,000 names
_REMEMBERED = 200_000

_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-") | {"\u00ad": None})
_WORDS = r"grants?|awards?|contracts?|projects?|agreements?|fellowships?|numbers?|num|nos?|nr|n[°º]|ids?|ref(?:erence)?"
_PREFIX = re.compile(rf"^(?:(?:{_WORDS})\b[\s.:#]*|\#\s*)+(?=\S*\d)", re.IGNORECASE)
_LAST_BRACKET = re.compile(r"\s*\([^()]*\)$")  # "National Science Foundation (NSF)"
_BROKEN = re.compile(r"(?<=[^\W\d_])-\s+(?=[a-z])")  # a hyphen at the end of a line
_SMALL = re.compile(
    "an?|and|at|del?|der|des|di|do|du|ev?|et|for|fur|gmbh|inc?|la|le|ltd|llc|of|on|por|the|to|und|van|y"
)
_AROUND = re.compile(r"\s*([-/])\s*")

_TEXTS = {"type": "array", "items": {"type": "string"}}
_AWARD = dict.fromkeys(("funding_scheme", "award_ids", "award_title"), _TEXTS)
_FUNDER = {
    **{name: {"type": "string"} for name in ("funder_name", "funder_id", "registry_name", "match")},
    "score": {"type": "number"},
    "candidates": _TEXTS,
    "awards": {"type": "array", "items": {"type": "object", "properties": _AWARD}},
}


class FundingNormaliser:
    """Records of the funding task with tidy names and ids and, given a registry, the funder's id.

    A registry is a dump of ROR (schema 2) or of the Crossref Funder Registry (RDF, CSV, API answers), or JSON lines
    with `funder_id`, `name` and `aliases`. `match` is `name` or `alias` for an equal one, `fuzzy` for one at least
    CUTOFF alike, `ambiguous` when several funders fit equally well (they are the `candidates`), or null. `score` is the
    likeness. Raises UserError for a bad registry.

    A name that ends with a country, where none is equal as a whole, is looked up without it: it is a funder of an equal
    name in that country, if the registry says countries. In brackets, of funders whose country it does not say too.
    """

    schema: Mapping[str, Any] = {"type": "array", "items": {"type": "object", "properties": _FUNDER}}

    def __init__(self, registry: Path | None) -> None:
        entries = _read(registry) if registry else []
        self.funders: list[tuple[str, ...]] = [entry.names for entry in entries]
        self._countries = [countries.code(entry.country) for entry in entries]
        self._equal: dict[str, dict[int, str]] = defaultdict(dict)
        for n, (_, name, *aliases) in enumerate(self.funders):
            for alias in aliases:
                if key := _key(alias):
                    self._equal[key].setdefault(n, "alias")
            self._equal[_key(name)][n] = "name"
        self._equal.pop("", None)
        self._keys = [key for key in self._equal if len(key) >= SHORTEST]
        self._matches: dict[str, dict[str, Any]] = {}

    def __call__(self, records: Sequence[Any]) -> list[Any]:
        """Normalised copies, in order."""
        names = [tidy_name(f["funder_name"]) for record in records for f in record if f["funder_name"]]
        self._look_up(set(names))
        return [[self._funder(f) for f in record] for record in records]

    def _funder(self, funder: dict[str, Any]) -> dict[str, Any]:
        name = tidy_name(funder["funder_name"]) if funder["funder_name"] else None
        match = self._matches.get(name, _NO_MATCH) if name else _NO_MATCH
        awards = [{**award, "award_ids": _distinct(map(tidy_id, award["award_ids"]))} for award in funder["awards"]]
        return {"funder_name": name, **match, "awards": awards}

    def _look_up(self, names: set[str]) -> None:
        if not self._keys:
            return
        if len(self._matches) > _REMEMBERED:
            self._matches.clear()
        unknown = []
        for name in names - self._matches.keys():
            key, short, country = _key(name), _key(_LAST_BRACKET.sub("", name)), None
            equal: Mapping[int, str] | None = self._equal.get(key)
            if not equal and (ending := countries.ending(name)):
                equal = self._there(ending)
                country = ending.country if ending.in_brackets else None
            elif not equal:
                equal = self._equal.get(short)
            self._matches[name] = self._match(equal, 1.0) if equal else _NO_MATCH
            if not equal and len(short or key) >= SHORTEST:
                unknown.append((name, short or key, country))
        size = max(1, min(_QUERIES, _SCORES // len(self._keys)))
        for block in (unknown[start : start + size] for start in range(0, len(unknown), size)):
            # Keys hold their words in order, so the plain ratio of two keys is the token-sorted one.
            queries = [key for _, key, _ in block]
            scores = process.cdist(queries, self._keys, scorer=fuzz.ratio, score_cutoff=100 * CUTOFF, dtype=np.float32)
            for (name, key, country), row in zip(block, scores, strict=True):
                likely = {i: row[i] for i in np.flatnonzero(row).tolist() if _differ_by_spelling(key, self._keys[i])}
                best = float(max(likely.values(), default=0))
                like = [n for i, score in likely.items() if score == best for n in self._equal[self._keys[i]]]
                there = {n: "fuzzy" for n in like if country is None or self._countries[n] in (country, None)}
                if there:
                    self._matches[name] = self._match(there, best / 100)

    def _there(self, ending: countries.Named) -> dict[int, str]:
        """The funders of an equal name in a country."""
        owners = self._equal.get(_key(ending.name)) or self._equal.get(_key(_LAST_BRACKET.sub("", ending.name))) or {}
        there = {n: how for n, how in owners.items() if self._countries[n] == ending.country}
        if not there and ending.in_brackets:
            return {n: how for n, how in owners.items() if self._countries[n] is None}
        return there

    def _match(self, owners: Mapping[int, str], score: float) -> dict[str, Any]:
        named = [n for n, how in owners.items() if how == "name"] or list(owners)
        score = round(score, 4)
        if len(named) > 1:
            ids = [self.funders[n][0] for n in named[:10]]
            return {**_NO_MATCH, "match": "ambiguous", "score": score, "candidates": ids}
        funder_id, name, *_ = self.funders[named[0]]
        match = {"funder_id": funder_id, "registry_name": name, "match": owners[named[0]], "score": score}
        return _NO_MATCH | match


class Entry(NamedTuple):
    """A funder of a registry: its id, name and other names, and its country as the registry writes it."""

    names: tuple[str, ...]
    country: str | None = None


_NO_MATCH: dict[str, Any] = {"funder_id": None, "registry_name": None, "match": None, "score": None, "candidates": []}


def tidy_name(name: str) -> str:
    """A funder's name without broken characters, doubled spaces, and the punctuation of the sentence around it."""
    name = " ".join(ftfy.fix_text(name).split()).strip(" ,;:")
    if name[:4].lower() == "the " and len(name) > 4:
        name = name[4:]
    last = name.rpartition(" ")[2]
    # "Inc." and "U.S." end in a period of their own.
    return name[:-1] if name.endswith(".") and len(last) > 5 and "." not in last[:-1] else name


def tidy_id(award_id: str) -> str:
    """An award id without "Grant No.", with plain hyphens and without the spaces that line breaks leave."""
    text = " ".join(ftfy.fix_text(award_id).translate(_DASHES).split()).strip(" ,;:.")
    text = _AROUND.sub(r"\1", _PREFIX.sub("", text))
    for opening, closing in ("()", "[]"):
        if text.count(opening) != text.count(closing):
            text = text.strip(opening + closing)
    return text.strip()


def _distinct(ids: Iterable[str]) -> list[str]:
    return list({normalise_award_id(i, "corrected"): i for i in reversed(list(ids)) if i}.values())[::-1]


def _differ_by_spelling(key: str, other: str) -> bool:
    """Whether the words that two names do not share are alike: Kochi and Ohio University share the longest one."""
    words, others = key.split(), other.split()
    rest = "".join(word for word in words if word not in others and not _SMALL.fullmatch(word))
    other_rest = "".join(word for word in others if word not in words and not _SMALL.fullmatch(word))
    return rest == other_rest or fuzz.ratio(rest, other_rest) >= 100 * WORDS


def _key(name: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    plain = _BROKEN.sub("", plain)
    words = utils.default_process(plain).split()
    return " ".join(sorted(words[1:] if words[:1] == ["the"] and len(words) > 1 else words))


def _read(path: Path) -> list[Entry]:
    """Every funder, once. Raises UserError."""
    if path.suffix.lower() == ".zip":
        raise UserError(
            f"--registry {path}: unpack it, and name the JSON in it whose name ends in _schema_v2.json or .json."
        )
    try:
        entries = _rdf(path) if path.suffix == ".rdf" else chain.from_iterable(map(_entries, _rows(path)))
        found = {entry.names[0]: entry for entry in entries}
    except UserError as error:
        raise UserError(f"--registry {str(error).rstrip('.')}. In a registry, {_SHAPES}.") from None
    except OSError as error:
        raise UserError(f"--registry {path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        lacks = f" (a record lacks {error})" if isinstance(error, KeyError) else " (a record has another shape)"
        why = error if isinstance(error, ValueError) else f"{_SHAPES}{lacks}"
        raise UserError(f"--registry {path}: {why}.") from None
    if not found:
        raise UserError(f"--registry {path} holds no funder.")
    return list(found.values())


_SHAPES = (
    "every line is a JSON object with funder_id, name and aliases, or the file is the JSON of a ROR dump (schema 2), "
    "or the Funder Registry as RDF, as CSV or as its API answers"
)


def _rows(path: Path) -> Iterator[Row]:
    path.stat()
    for number, row in read_records(path):
        if BAD_ROW in row:
            raise ValueError(f"record {number} cannot be read: {str(row[BAD_ROW]).rstrip('.')}")
        yield row


def _entries(row: Row) -> Iterator[Entry]:
    """The funders of one record, whichever registry it is of; none of one that is withdrawn or was replaced."""
    if "message" in row:  # an answer of the Crossref API
        items = row["message"].get("items", [row["message"]])
        for item in items:
            yield from _entries(item)
    elif "funder_id" in row:
        aliases = row.get("aliases") or ()
        if not isinstance(aliases, list | tuple):
            raise ValueError(f"the aliases of {row['funder_id']} are no list: {str(aliases)[:40]!r}")
        names = (_funder_doi(str(row["funder_id"])), str(row["name"]), *map(str, aliases))
        yield Entry(names, _text(row.get("country")))
    elif "names" in row:
        if row.get("status", "active") == "active":
            yield _ror(row)
    elif "uri" in row:
        replaced = row.get("replaced-by") or next((row[key] for key in row if key.startswith("replaced")), None)
        if not replaced:
            name = row["name"] if "name" in row else row["primary_name_display"]
            names = (_funder_doi(row["uri"]), str(name), *map(str, row.get("alt-names") or ()))
            yield Entry(names, _text(row.get("location")))
    elif "ror.org" in str(row.get("id")):
        old, csv = "acronyms" in row or "labels" in row, not any(isinstance(v, list | dict) for v in row.values())
        version = "it is a ROR dump " + ("of schema 1" if old else "as CSV" if csv else "of a schema that is not known")
        raise ValueError(f"{version}; take the JSON of schema 2, whose name ends in _schema_v2.json or, later, .json")
    else:
        raise KeyError("funder_id")


def _ror(row: Row) -> Entry:
    names = sorted(row["names"], key=lambda name: "ror_display" not in name["types"])
    places = [place.get("geonames_details") or {} for place in row.get("locations") or ()]
    country = next((place["country_code"] for place in places if place.get("country_code")), None)
    return Entry((str(row["id"]), *dict.fromkeys(str(name["value"]) for name in names)), _text(country))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _rdf(path: Path) -> Iterator[Entry]:
    """The Funder Registry's own form: SKOS concepts, whose labels are SKOS-XL."""
    for concept in children(parse(path), "Concept"):
        if next(children(concept, "isReplacedBy"), None) is not None:
            continue
        preferred, others = (
            [text_of(form) for label in children(concept, tag) for form in children(label, "literalForm")]
            for tag in ("prefLabel", "altLabel")
        )
        if preferred:
            address = concept.find("address/PostalAddress/addressCountry")
            country = None if address is None else text_of(address).strip()
            yield Entry((_funder_doi(concept.get("about", "")), *preferred, *others), country)


def _funder_doi(uri: str) -> str:
    """The DOI of a funder, from its address."""
    return uri.rpartition("doi.org/")[2]
