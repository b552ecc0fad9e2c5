"""Gold values that may be wrong are left out on both sides: neither found nor missed, and no false positive.

A gold funder lists them under `uncertain`: ids, schemes and titles, or its own name, which leaves out the funder with
all its awards. Predicted ids, schemes and titles equal to such a value are left out under any funder, because it is the
link that is uncertain. A funder without a name of which nothing is left is left out too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.rewards.funding_records import Award, Funder, Scorer, normalise_award_id, normalise_text, read_funders
from adapters.rewards.funding_similarity import similarity

THRESHOLD = 0.8
"""Balanced similarity from which a predicted name is that of an uncertain funder."""


def uncertain_values(gold: Any) -> list[str]:
    """The uncertain values of gold funders."""
    if not isinstance(gold, list | tuple):
        return []
    return [value for funder in gold if isinstance(funder, Mapping) for value in funder.get("uncertain", ())]


def compared(gold: Any, pred: Sequence[Funder], scorer: Scorer) -> tuple[Sequence[Funder], Sequence[Funder]]:
    """Gold and predicted funders without the values that the gold is not sure of."""
    funders = read_funders(gold)
    values = uncertain_values(gold)
    if not values:
        return funders, pred
    names = [normalise_text(f.funder_name) for f in funders if f.funder_name and f.funder_name in values]
    sure = [normalise_text(f.funder_name) for f in funders if f.funder_name and f.funder_name not in values]
    ids = {normalise_award_id(value, scorer) for value in values}
    texts = {normalise_text(value) for value in values}

    def left(funder: Funder) -> Funder:
        return Funder(funder.funder_name, tuple([_award(award, ids, texts, scorer) for award in funder.awards]))

    def likeness(name: str, others: Sequence[str]) -> float:
        return max((similarity(name, other, "balanced") for other in others), default=0.0)

    def is_sure(funder: Funder) -> bool:
        """Whether a name is not that of an uncertain funder, or more like that of a sure one."""
        name = normalise_text(funder.funder_name or "")
        return likeness(name, names) < THRESHOLD or likeness(name, sure) >= likeness(name, names)

    def says_anything(funder: Funder) -> bool:
        return bool(funder.funder_name) or any(award != Award() for award in funder.awards)

    sides = [
        filter(says_anything, [left(f) for f in side])
        for side in ([f for f in funders if f.funder_name not in values], [f for f in pred if is_sure(f)])
    ]
    return list(sides[0]), list(sides[1])


def _award(award: Award, ids: set[str], texts: set[str], scorer: Scorer) -> Award:
    return Award(
        tuple([i for i in award.award_ids if normalise_award_id(i, scorer) not in ids]),
        tuple([t for t in award.funding_scheme if normalise_text(t) not in texts]),
        tuple([t for t in award.award_title if normalise_text(t) not in texts]),
    )
