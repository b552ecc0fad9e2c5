"""Predicted funding values that are not in the text can match nothing: they stay predictions, and are false positives.

Each is replaced by a mark that is like no other text, so that every scorer and mode counts it in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from adapters.rewards.funding_records import Award, Funder
from adapters.rewards.grounding import Text

_FIRST, _MARKS, _LENGTH = 0xF0000, 0xFFFD, 4
"""Characters of Unicode's private plane 15; four of one kind are more than an edit away from any id."""


def marked(funders: Sequence[Funder], text: Text) -> tuple[list[Funder], Mapping[str, str]]:
    """The funders with marks for values that are not in the text, and the value of each mark."""
    marks: dict[str, str] = {}

    def mark(value: str) -> str:
        if text.has(value):
            return value
        return marks.setdefault(value, chr(_FIRST + len(marks) % _MARKS) * _LENGTH)

    def award(of: Award) -> Award:
        fields = (of.award_ids, of.funding_scheme, of.award_title)
        return Award(*(tuple([mark(value) for value in values]) for values in fields))

    out = [Funder(f.funder_name and mark(f.funder_name), tuple([award(a) for a in f.awards])) for f in funders]
    return out, {mark: value for value, mark in marks.items()}
