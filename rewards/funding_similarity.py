"""How alike two names, schemes or titles are, in the three modes of the published funding figures."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from rapidfuzz import fuzz

from rewards.funding_records import normalise_text

Mode = Literal["permissive", "balanced", "strict"]
"""How alike two names must be: `strict` compares sorted tokens, `balanced` adds acronyms and contained names that are
long enough, `permissive` adds any contained part."""

MODES: tuple[Mode, ...] = ("permissive", "balanced", "strict")

_ACRONYM = re.compile(r"\(([^)]*)\)")
_TOKEN = re.compile(r"[^\s/\-,]+")


def similarity(a: str, b: str, mode: Mode = "balanced") -> float:
    """Likeness in [0, 1] of two names, schemes or titles as written."""
    return likeness(normalise_text(a), normalise_text(b), mode)


@lru_cache(maxsize=1 << 14)
def _shape(name: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """The acronyms in parentheses and the lower-case tokens of a normalised name."""
    inside = (acronym.strip() for acronym in _ACRONYM.findall(name))
    acronyms = tuple(acronym.upper() for acronym in inside if acronym.isupper() and len(acronym) <= 10)
    return acronyms, frozenset(_TOKEN.findall(name.lower()))


@lru_cache(maxsize=1 << 15)
def likeness(a: str, b: str, mode: Mode) -> float:
    """Likeness of two normalised strings. Not quite symmetric: of two equally long ones the first is "the shorter"."""
    if mode == "balanced" and not (a and b):
        return 0.0
    if a == b:
        return 1.0
    sort = fuzz.token_sort_ratio(a, b)
    if mode == "strict":
        return sort / 100
    if mode == "permissive":
        return max(fuzz.partial_ratio(a, b), sort, fuzz.token_set_ratio(a, b)) / 100
    shorter, longer = (a, b) if len(a) <= len(b) else (b, a)
    acronyms, tokens = _shape(longer)
    upper = shorter.upper()
    if any(fuzz.ratio(upper, acronym) >= 90 for acronym in acronyms):
        return max(sort / 100, 0.90)
    contained = _shape(shorter)[1]
    if len(shorter) / len(longer) >= 0.45 and contained and contained <= tokens:
        return max(sort / 100, 0.85)
    return sort / 100
