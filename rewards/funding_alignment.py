"""Gold and predicted funding values, paired as the scorer pairs them, for reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapters.rewards.funding_matching import (
    THRESHOLD,
    Award,
    Funder,
    Mode,
    Scorer,
    group,
    match_ids,
    match_texts,
    normalise_award_id,
    normalise_text,
    paired,
    with_unnamed,
)
from adapters.types import Aligned

TEXTS = {"scheme": "funding_scheme", "title": "award_title"}


def align(
    gold: Sequence[Funder],
    pred: Sequence[Funder],
    mode: Mode = "balanced",
    scorer: Scorer = "published",
    threshold: float = THRESHOLD,
) -> list[Aligned]:
    """Every value of both sides once: gold funders with their awards, then the others.

    A field has as many rows, matched, labelled and predicted, as `funding_matching.counts` counts. Ids are shown as
    written, names, schemes and titles normalised. Ids one edit apart stand side by side, unmatched.
    """
    left, right = group(gold, mode, scorer, threshold), group(pred, mode, scorer, threshold)
    where = dict(with_unnamed(paired(left, right, scorer, threshold)[mode], left, right))
    out: list[Aligned] = []
    for i, awards in enumerate(left.awards):
        j = where.get(i)
        named = i < len(left.names)
        if named:
            out.append(Aligned("funder", left.names[i], None if j is None else right.names[j], j is not None))
        out += _awards(awards, () if j is None else right.awards[j], mode, scorer, threshold, int(named))
    for j in sorted(set(range(len(right.awards))).difference(where.values())):
        named = j < len(right.names)
        if named:
            out.append(Aligned("funder", None, right.names[j]))
        out += _awards((), right.awards[j], mode, scorer, threshold, int(named))
    return out


def _awards(
    gold: Sequence[Award], pred: Sequence[Award], mode: Mode, scorer: Scorer, threshold: float, depth: int
) -> Iterator[Aligned]:
    yield from _ids(_written(gold, scorer), _written(pred, scorer), depth)
    for field, attribute in TEXTS.items():
        a, b = (
            tuple([normalise_text(text) for award in side for text in getattr(award, attribute)])
            for side in (gold, pred)
        )
        where = dict(match_texts(a, b, threshold)[mode]) if a and b else {}
        for i, text in enumerate(a):
            yield Aligned(field, text, b[where[i]] if i in where else None, i in where, depth)
        yield from (Aligned(field, None, b[j], False, depth) for j in range(len(b)) if j not in where.values())


def _written(awards: Sequence[Award], scorer: Scorer) -> list[tuple[str, str]]:
    """Ids as (normalised, written), those that the scorer counts."""
    ids = [(normalise_award_id(written, scorer), written) for award in awards for written in award.award_ids]
    if scorer == "published":
        return ids
    first: dict[str, tuple[str, str]] = {}
    for key, written in ids:
        if key:
            first.setdefault(key, (key, written))
    return list(first.values())


def _ids(gold: list[tuple[str, str]], pred: list[tuple[str, str]], depth: int) -> Iterator[Aligned]:
    spare = list(pred)
    taken: dict[int, tuple[str, str]] = {}
    for near in (False, True):
        for i, (key, _) in enumerate(gold):
            if i not in taken and (match := next((p for p in spare if match_ids([key], [p[0]], near)), None)):
                taken[i] = match
                spare.remove(match)
    for i, (key, written) in enumerate(gold):
        other = taken.get(i, (None, None))
        yield Aligned("award_id", written, other[1], key == other[0], depth)
    yield from (Aligned("award_id", None, written, False, depth) for _, written in spare)
