"""Likeness of two names, schemes or titles in the three published modes."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from rapidfuzz import fuzz

from adapters.rewards.funding_records import normalise_text

Mode = Literal["permissive", "balanced", "strict"]
"""How alike two names must be: `strict` compares sorted tokens, `balanced` adds acronyms and contained names that are
long enough, `permissive` adds any contained part."""

MODES: tuple[Mode, ...] = ("permissive", "balanced", "strict")

_ACRONYM = re.compile(r"\(([^)]*)\)")
_TOKEN = re.compile(r"[^\s/\-,]+")


def similarity(a: str, b: str, mode: Mode = "balanced") -> float:
    """Likeness in [0, 1] of two names, schemes or titles as written."""
    scores = likenesses(normalise_text(a), normalise_text(b), 0.0)
    return scores[MODES.index(mode)] if scores else 0.0


@lru_cache(maxsize=1 << 14)
def _shape(name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The acronyms in parentheses and the lower-case tokens of a normalised name."""
    inside = (acronym.strip() for acronym in _ACRONYM.findall(name))
    acronyms = tuple(acronym.upper() for acronym in inside if acronym.isupper() and len(acronym) <= 10)
    return acronyms, frozenset(_TOKEN.findall(name.lower()))


def likenesses(a: str, b: str, least: float) -> tuple[float, ...]:
    """Likeness of normalised strings in each of MODES, 0 under `least`; () if all are.

    All modes at once, as they share most of the work. Not quite symmetric: of two equally long strings the first is
    "the shorter" of the balanced mode.
    """
    return _likenesses(a, b, least) if len(a) <= len(b) else _likenesses(b, a, least)


@lru_cache(maxsize=1 << 15)
def _likenesses(a: str, b: str, least: float) -> tuple[float, ...]:
    if a == b:
        return (1.0, 1.0, 1.0) if a else (1.0, 0.0, 1.0)
    cutoff = max(100 * least - 1e-6, 0.0)  # lets rapidfuzz give up early; what passes is compared exactly
    tokens = fuzz.token_ratio(a, b, score_cutoff=cutoff)  # the better of token_sort_ratio and token_set_ratio
    partial = fuzz.partial_ratio(a, b, score_cutoff=cutoff)
    contained = _contained(a, b) if a else 0.0
    if not (tokens or partial or contained):
        return ()
    strict = fuzz.token_sort_ratio(a, b, score_cutoff=cutoff) / 100
    scores = max(tokens, partial) / 100, max(strict, contained) if a else 0.0, strict
    return tuple([score if score >= least else 0.0 for score in scores]) if max(scores) >= least else ()


def _contained(shorter: str, longer: str) -> float:
    """0.90 for an acronym that the longer name gives, 0.85 for a long part of it."""
    acronyms, tokens = _shape(longer)
    if acronyms:
        upper = shorter.upper()
        if any(fuzz.ratio(upper, acronym) >= 90 for acronym in acronyms):
            return 0.90
    if len(shorter) / len(longer) < 0.45:
        return 0.0
    contained = _shape(shorter)[1]
    return 0.85 if contained and contained <= tokens else 0.0
