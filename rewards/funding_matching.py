"""Matches predicted funders, award ids, schemes and titles with gold ones.

The figures of the model card cometadata/funding-extraction-qwen3.5-9B-artifact-data-mix-grpo-mixed-reward come from a
published harness. The scorer `published` counts exactly as that harness does; `corrected` differs where the harness
gives credit or blame that nobody intended:

| what                          | published                            | corrected                                |
|-------------------------------|--------------------------------------|------------------------------------------|
| funders of one side merge     | if their names are similar (0.80)    | if their normalised names are identical  |
| names equal on both sides     | compete with merely similar ones     | are paired first                         |
| name that normalises to ""    | is a funder                          | is the unnamed funder                    |
| ids repeated under one funder | count each time                      | count once, after normalisation          |
| id that normalises to ""      | is an id                             | is not an id                             |
| Unicode dashes, backslashes   | are part of an id                    | are separators like the hyphen           |
| unreadable text, empty gold   | reward 1                             | reward 0                                 |
| no ids on either side         | both id terms of the reward are 1    | they take the value of the funder term   |

The first two belong together: once National Science Foundation and National Natural Science Foundation of China stay
apart, a tie between them must not swap their awards. The same in both: case, acronyms without a gold
expansion, and half credit for near ids (`soft_ids: false` turns it off).

Both scorers are bounded, against outputs that no label resembles: a completion has at most MAX_TEXT characters, of a
name, scheme or title MAX_CHARS are compared, and of a list of them (or of unequal ids) the first MAX_MATCHED, together
MAX_MATCHED_CHARS long, can match; the rest counts as unmatched. Within the bounds `published` is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapters.rewards.funding_assignment import Pairs, match_ids, match_texts, merge_identical, merge_similar
from adapters.rewards.funding_records import (
    Award,
    Funder,
    Parsed,
    Scorer,
    normalise_award_id,
    normalise_text,
    parse,
    read_funders,
)
from adapters.rewards.funding_similarity import MODES, Mode, similarity
from adapters.types import Counts

__all__ = [
    "FIELDS",
    "MODES",
    "SCORERS",
    "THRESHOLD",
    "Award",
    "Funder",
    "Mode",
    "Parsed",
    "Scorer",
    "Side",
    "counts",
    "counts_in",
    "group",
    "match_ids",
    "match_texts",
    "normalise_award_id",
    "normalise_text",
    "paired",
    "parse",
    "read_funders",
    "similarity",
    "with_unnamed",
]

SCORERS: tuple[Scorer, ...] = ("published", "corrected")
FIELDS = ("funder", "award_id", "scheme", "title")
THRESHOLD = 0.8

_Texts = tuple[list[tuple[str, ...]], list[tuple[str, ...]]]


class Side(NamedTuple):
    """The funders of a gold label or of a prediction, merged and normalised.

    `awards` and `ids` (normalised) have one entry per name, and one more at the end for the unnamed funder if any.
    """

    names: tuple[str, ...]
    awards: tuple[tuple[Award, ...], ...]
    ids: tuple[tuple[str, ...], ...]

    @property
    def id_count(self) -> int:
        """Number of ids under all funders."""
        return sum(map(len, self.ids))


def group(funders: Sequence[Funder], mode: Mode, scorer: Scorer, threshold: float = THRESHOLD) -> Side:
    """Merge the funders of one side and normalise their names and ids."""
    return _merged(_normalised(funders, scorer), scorer, threshold)[mode]


def _normalised(funders: Sequence[Funder], scorer: Scorer) -> Side:
    """One side with normalised names and ids; only unnamed funders are merged."""
    names: list[str] = []
    awards: list[tuple[Award, ...]] = []
    unnamed: list[Award] = []
    has_unnamed = False
    for funder in funders:
        name = normalise_text(funder.funder_name) if funder.funder_name else ""
        if name or (funder.funder_name and scorer == "published"):
            names.append(name)
            awards.append(funder.awards)
        else:
            unnamed.extend(funder.awards)
            has_unnamed = True
    if has_unnamed:
        awards.append(tuple(unnamed))
    return _side(names, awards, scorer)


def _side(names: Sequence[str], awards: Sequence[tuple[Award, ...]], scorer: Scorer) -> Side:
    return Side(tuple(names), tuple(awards), tuple([_ids(group, scorer) for group in awards]))


def _ids(awards: tuple[Award, ...], scorer: Scorer) -> tuple[str, ...]:
    ids = [normalise_award_id(award_id, scorer) for award in awards for award_id in award.award_ids]
    return tuple(dict.fromkeys(filter(None, ids))) if scorer == "corrected" else tuple(ids)


def _merged(side: Side, scorer: Scorer, threshold: float) -> Mapping[Mode, Side]:
    """The side in each mode: itself where no two names are one funder's."""
    if len(side.names) < 2:
        return dict.fromkeys(MODES, side)
    if scorer == "corrected":
        return dict.fromkeys(MODES, _joined(side, merge_identical(side.names), scorer))
    groups = merge_similar(side.names, threshold)
    if min(map(len, groups.values())) == len(side.names):
        return dict.fromkeys(MODES, side)
    joined = {merged: _joined(side, merged, scorer) for merged in set(groups.values())}
    return {mode: joined[merged] for mode, merged in groups.items()}


def _joined(side: Side, groups: Sequence[tuple[int, ...]], scorer: Scorer) -> Side:
    if len(groups) == len(side.names):
        return side
    awards = [tuple([award for i in members for award in side.awards[i]]) for members in groups]
    awards += side.awards[len(side.names) :]
    return _side([side.names[members[0]] for members in groups], awards, scorer)


def paired(gold: Side, pred: Side, scorer: Scorer, threshold: float = THRESHOLD) -> Mapping[Mode, Pairs]:
    """Pairs of gold and predicted funders, as indices into `names`, in every mode."""
    if scorer == "published":
        return match_texts(gold.names, pred.names, threshold)
    where = {name: j for j, name in enumerate(pred.names)}
    same = {i: where[name] for i, name in enumerate(gold.names) if name in where}
    rows = [i for i in range(len(gold.names)) if i not in same]
    columns = sorted(set(range(len(pred.names))).difference(same.values()))
    rest = match_texts(tuple([gold.names[i] for i in rows]), tuple([pred.names[j] for j in columns]), threshold)
    return {mode: (*same.items(), *((rows[i], columns[j]) for i, j in pairs)) for mode, pairs in rest.items()}


def with_unnamed(pairs: Pairs, gold: Side, pred: Side) -> Pairs:
    """The pairs of named funders, and the unnamed one if both sides have it."""
    if len(gold.awards) > len(gold.names) and len(pred.awards) > len(pred.names):
        return (*pairs, (len(gold.names), len(pred.names)))
    return pairs


def counts(
    gold: Sequence[Funder],
    pred: Sequence[Funder],
    mode: Mode = "balanced",
    scorer: Scorer = "published",
    threshold: float = THRESHOLD,
) -> Mapping[str, Counts]:
    """Counts of one example per field; summed over a corpus they give micro averages.

    An award counts as matched only under a matched funder; elsewhere it is a miss on the gold side and a false
    positive on the predicted side. Which scheme belongs to which id is not compared.
    """
    return counts_in((mode,), gold, pred, scorer, threshold)[mode]


def counts_in(
    modes: Sequence[Mode],
    gold: Sequence[Funder],
    pred: Sequence[Funder],
    scorer: Scorer = "published",
    threshold: float = THRESHOLD,
) -> dict[str, Mapping[str, Counts]]:
    """`counts` in several modes; work that modes share is done once."""
    left, right = _normalised(gold, scorer), _normalised(pred, scorer)
    texts = _texts(left), _texts(right)
    comparable = all(any(map(any, fields)) for fields in texts)
    golds, preds = _merged(left, scorer, threshold), _merged(right, scorer, threshold)
    by_mode: dict[str, Mapping[str, Counts]] = {}
    sides: tuple[Side, Side] | None = None
    for mode in modes:
        if (golds[mode], preds[mode]) != sides:
            a, b = sides = golds[mode], preds[mode]
            compared = texts[0] if a is left else _texts(a), texts[1] if b is right else _texts(b)
            pairs, named = paired(a, b, scorer, threshold), None
        if comparable or pairs[mode] != named:
            named = pairs[mode]
            counted = _counted(a, b, named, *compared, mode, threshold)
        by_mode[mode] = counted
    return by_mode


def _counted(
    left: Side, right: Side, named: Pairs, a: _Texts, b: _Texts, mode: Mode, threshold: float
) -> Mapping[str, Counts]:
    pairs = with_unnamed(named, left, right)
    ids = sum([match_ids(left.ids[i], right.ids[j]) for i, j in pairs])
    by_field = {
        "funder": Counts(len(left.names), len(right.names), len(named)),
        "award_id": Counts(left.id_count, right.id_count, ids),
    }
    for field, gold, pred in zip(("scheme", "title"), a, b, strict=True):
        matched = sum([len(match_texts(gold[i], pred[j], threshold)[mode]) for i, j in pairs if gold[i] and pred[j]])
        by_field[field] = Counts(sum(map(len, gold)), sum(map(len, pred)), matched)
    return by_field


def _texts(side: Side) -> _Texts:
    """Normalised schemes, and titles, of each funder."""
    schemes = [tuple([normalise_text(t) for award in group for t in award.funding_scheme]) for group in side.awards]
    titles = [tuple([normalise_text(t) for award in group for t in award.award_title]) for group in side.awards]
    return schemes, titles
