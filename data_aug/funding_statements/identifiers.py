"""Award identifiers in the shapes that funders use; the digits are random."""

from __future__ import annotations

import re
from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules

_PLACE = re.compile("[#%?]")
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_GRAMMAR = Grammar({**read_rules("wording.txt"), **read_rules("id_shapes.txt")})


def identifier(rng: Random, shape: str) -> str:
    """An identifier of a shape in `id_shapes.txt`, as a text may write it; KeyError for another shape."""
    pattern = _GRAMMAR.say(rng, shape)
    while ("-" in pattern or "/" in pattern or " " in pattern) and rng.random() < _AGAIN:
        pattern = _GRAMMAR.say(rng, shape)
    award_id = _filled(rng, pattern)
    roll = rng.random()
    if roll < 0.04 and "-" in award_id:
        # Line breaks and typists leave blanks beside hyphens; the label keeps them, as hand-made labels do.
        return award_id.replace("-", "- " if rng.random() < 0.4 else " ", 1)
    if roll > 0.945 and shape not in ("eu", "erc", "fp"):
        return _odd(rng, award_id, roll)
    if roll > 0.84 and shape in ("eu", "erc", "fp"):
        return f"{award_id}-{_GRAMMAR.say(rng, 'project')}" if roll < 0.9 else f"{award_id} ({_project(rng)})"
    return award_id


_AGAIN = 0.66
"""Chance to draw an id with a hyphen, slash or blank again: published ids have them less often than the shapes."""


def _filled(rng: Random, pattern: str) -> str:
    def place(match: re.Match[str]) -> str:
        char = match[0]
        if char == "#":
            return str(int(rng.random() * 10))
        if char == "%":
            return str(1 + int(rng.random() * 9))
        return _LETTERS[int(rng.random() * 23)]

    return _PLACE.sub(place, pattern)


def _project(rng: Random) -> str:
    name = _GRAMMAR.say(rng, "project")
    return name.title() if rng.random() < 0.4 else name


def _odd(rng: Random, award_id: str, roll: float) -> str:
    """What published labels hold besides plain ids: lower case, brackets, a word that was kept, letters alone."""
    if roll < 0.965:
        return award_id.lower() if len(award_id) > 4 and not award_id.isdigit() else award_id
    if roll < 0.973:
        return _filled(rng, _GRAMMAR.say(rng, "bracketed"))
    if roll < 0.982:
        return f"{_GRAMMAR.say(rng, 'kept')} {_GRAMMAR.say(rng, 'greek')}-{1 + int(rng.random() * 9)}"
    if roll < 0.988:
        return f"{award_id} ({_project(rng)})"
    if roll < 0.994:
        return _GRAMMAR.say(rng, "letters")
    return f"{award_id} - {_project(rng)}"


def identifiers(rng: Random, shape: str, count: int) -> list[str]:
    """Distinct identifiers of one shape; some differ in the last two digits only."""
    first = identifier(rng, shape)
    distinct = [first]
    for _ in range(4 * count):
        if len(distinct) >= count:
            break
        new = identifier(rng, shape)
        if first[-2:].isdigit() and len(first) > 6 and rng.random() < 0.1:
            new = first[:-2] + f"{int(rng.random() * 100):02d}"
        if new not in distinct:
            distinct.append(new)
    return distinct
