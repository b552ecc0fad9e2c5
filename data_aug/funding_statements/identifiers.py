"""Award identifiers in the shapes that funders use; the digits are random."""

from __future__ import annotations

import re
from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules

_PLACE = re.compile("[#%?]")
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
_GRAMMAR = Grammar(read_rules("id_shapes.txt"))


def identifier(rng: Random, shape: str) -> str:
    """An identifier of a shape in `id_shapes.txt`; KeyError for another shape."""

    def place(match: re.Match[str]) -> str:
        char = match[0]
        if char == "#":
            return str(int(rng.random() * 10))
        if char == "%":
            return str(1 + int(rng.random() * 9))
        return _LETTERS[int(rng.random() * 23)]

    award_id = _PLACE.sub(place, _GRAMMAR.say(rng, shape))
    if rng.random() < 0.05 and "-" in award_id:
        # Line breaks and typists leave blanks beside hyphens; the label keeps them, as hand-made labels do.
        award_id = award_id.replace("-", "- " if rng.random() < 0.4 else " ", 1)
    return award_id


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
