"""Award identifiers in the shapes that funders really give out; the digits are random."""

from __future__ import annotations

import re
from random import Random

from adapters.data_aug.funding_statements.grammar import Grammar, read_rules

_PLACE = re.compile("[#%?]")
_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


_GRAMMAR = Grammar(read_rules("id_shapes.txt"))


def identifier(rng: Random, shape: str) -> str:
    """One identifier of a shape named in ``id_shapes.txt``; an unknown shape raises KeyError."""

    def place(found: re.Match[str]) -> str:
        char = found[0]
        if char == "#":
            return str(int(rng.random() * 10))
        if char == "%":
            return str(1 + int(rng.random() * 9))
        return _LETTERS[int(rng.random() * 23)]

    made = _PLACE.sub(place, _GRAMMAR.say(rng, shape))
    if rng.random() < 0.05 and "-" in made:
        # Line breaks and typists leave blanks beside hyphens; the label keeps them, as hand-made labels do.
        made = made.replace("-", "- " if rng.random() < 0.4 else " ", 1)
    return made


def identifiers(rng: Random, shape: str, count: int) -> list[str]:
    """Distinct identifiers of one shape, some of them neighbours that differ in the last two digits only."""
    first = identifier(rng, shape)
    found = [first]
    for _ in range(4 * count):
        if len(found) >= count:
            break
        new = identifier(rng, shape)
        if first[-2:].isdigit() and len(first) > 6 and rng.random() < 0.1:
            new = first[:-2] + f"{int(rng.random() * 100):02d}"
        if new not in found:
            found.append(new)
    return found
