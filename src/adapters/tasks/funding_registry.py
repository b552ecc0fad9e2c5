"""Clean-up of extracted funders and award ids, and matching with a funder registry."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
from rapidfuzz import fuzz, process, utils

from adapters.errors import UserError
from adapters.rewards.funding_records import normalise_award_id

CUTOFF = 0.9
"""Lowest similarity of a match: token-sorted ratio, without case, accents and punctuation."""
SHORTEST = 8
"""Shorter names, which are mostly acronyms, match only when they are equal."""
_QUERIES = 256
_REMEMBERED = 200_000

_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d", "-") | {"\u00ad": None})
_WORDS = r"grants?|awards?|contracts?|projects?|agreements?|fellowships?|numbers?|num|nos?|nr|n[°º]|ids?|ref(?:erence)?"
_PREFIX = re.compile(rf"^(?:(?:{_WORDS})\b[\s.:#]*|\#\s*)+(?=\S*\d)", re.IGNORECASE)
_LAST_BRACKET = re.compile(r"\s*\([^()]*\)$")  # "National Science Foundation (NSF)"
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

    A registry is a .jsonl file with `funder_id`, `name` and `aliases` (the Crossref Funder Registry, say). `match` is
    `name` or `alias` for an equal one, `fuzzy` for one at least CUTOFF alike, `ambiguous` when several funders fit
    equally well (they are the `candidates`), or null. `score` is the likeness. Raises UserError for a bad registry.
    """

    schema: Mapping[str, Any] = {"type": "array", "items": {"type": "object", "properties": _FUNDER}}

    def __init__(self, registry: Path | None) -> None:
        self.funders: list[tuple[str, ...]] = _read(registry) if registry else []
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
            key, short = _key(name), _key(_LAST_BRACKET.sub("", name))
            equal = self._equal.get(key) or self._equal.get(short)
            self._matches[name] = self._match(equal, 1.0) if equal else _NO_MATCH
            if not equal and len(short or key) >= SHORTEST:
                unknown.append((name, short or key))
        for block in (unknown[start : start + _QUERIES] for start in range(0, len(unknown), _QUERIES)):
            # Keys hold their words in order, so the plain ratio of two keys is the token-sorted one.
            queries = [key for _, key in block]
            scores = process.cdist(queries, self._keys, scorer=fuzz.ratio, score_cutoff=100 * CUTOFF, dtype=np.float32)
            for (name, _), row, best in zip(block, scores, scores.max(axis=1).tolist(), strict=True):
                if best > 0:
                    like = {n: "fuzzy" for i in np.flatnonzero(row == best) for n in self._equal[self._keys[i]]}
                    self._matches[name] = self._match(like, best / 100)

    def _match(self, owners: dict[int, str], score: float) -> dict[str, Any]:
        named = [n for n, how in owners.items() if how == "name"] or list(owners)
        score = round(score, 4)
        if len(named) > 1:
            ids = [self.funders[n][0] for n in named[:10]]
            return {**_NO_MATCH, "match": "ambiguous", "score": score, "candidates": ids}
        funder_id, name, *_ = self.funders[named[0]]
        match = {"funder_id": funder_id, "registry_name": name, "match": owners[named[0]], "score": score}
        return _NO_MATCH | match


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


def _key(name: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    words = utils.default_process(plain).split()
    return " ".join(sorted(words[1:] if words[:1] == ["the"] and len(words) > 1 else words))


def _read(path: Path) -> list[tuple[str, ...]]:
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file if line.strip()]
        return [(str(r["funder_id"]), str(r["name"]), *map(str, r.get("aliases") or ())) for r in rows]
    except OSError as error:
        raise UserError(f"--registry {path} cannot be read: {error.strerror}.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"--registry {path}: every line is a JSON object with funder_id, name and aliases ({error!r})."
        raise UserError(text) from None
