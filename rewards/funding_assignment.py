"""One-to-one matching of texts and of award ids, and merging of similar funders.

Inputs are normalised strings, outputs are indices. Bounds keep the cost of an absurd prediction to about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar

from rapidfuzz.distance import Levenshtein

from adapters.rewards.funding_similarity import MODES, Mode, likenesses

MAX_MATCHED = 256
"""Of a longer list of names, schemes, titles or unequal ids, the rest counts as unmatched."""
MAX_MATCHED_CHARS = 16_000
"""The same for the total length of names, schemes or titles."""

_NEAR_ID_LENGTH = 6
_REMEMBERED_NAMES = 16
"""What longer lists give is not kept, so that the caches stay under some tens of megabytes."""

T = TypeVar("T")
Pairs = tuple[tuple[int, int], ...]
Groups = tuple[tuple[int, ...], ...]


def _assign(scores: Mapping[tuple[int, int], float], rows: int, columns: int) -> Pairs:
    """The pairs of the best assignment; only pairs with a score count.

    Where every row and column has at most one candidate, all candidates are taken, and that optimum is unique. Ties
    beyond that are broken as scipy breaks them. Rows of the result ascend if those of the candidates do.
    """
    if len({i for i, _ in scores}) == len(scores) == len({j for _, j in scores}):
        return tuple(scores)
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    matrix = np.zeros((rows, columns))
    for pair, score in scores.items():
        matrix[pair] = score
    chosen = linear_sum_assignment(-matrix)
    return tuple([(i, j) for i, j in zip(*(side.tolist() for side in chosen), strict=True) if matrix[i, j]])


def _remember_small(function: Callable[..., T]) -> Callable[..., T]:
    """Memoise a function of few names: rollouts of a group repeat each other's."""
    cached = lru_cache(maxsize=1 << 12)(function)

    @wraps(function)
    def call(*args: Any) -> T:
        return cached(*args) if sum(map(len, args[:-1])) <= _REMEMBERED_NAMES else function(*args)

    return call


@_remember_small
def match_texts(gold: tuple[str, ...], pred: tuple[str, ...], threshold: float) -> Mapping[Mode, Pairs]:
    """In every mode the best pairs (gold index, pred index) at or above the threshold."""
    gold, pred = gold[: _bound(gold)], pred[: _bound(pred)]
    alike = {
        (i, j): scores
        for i, a in enumerate(gold)
        for j, b in enumerate(pred)
        if (scores := likenesses(a, b, threshold))
    }
    return _in_modes(alike, lambda scores: _assign(scores, len(gold), len(pred)))


def _in_modes(
    alike: Mapping[tuple[int, int], tuple[float, ...]], solve: Callable[[dict[tuple[int, int], float]], T]
) -> dict[Mode, T]:
    """Solve the pairs of each mode; equal ones in a row are solved once."""
    solutions: dict[Mode, T] = {}
    last = None
    for n, mode in enumerate(MODES):
        scores = {pair: likeness[n] for pair, likeness in alike.items() if likeness[n]}
        if scores != last:
            last, solved = scores, solve(scores)
        solutions[mode] = solved
    return solutions


def _bound(texts: Sequence[str]) -> int:
    """How many leading strings of a list can match."""
    if len(texts) <= MAX_MATCHED and sum(map(len, texts)) <= MAX_MATCHED_CHARS:
        return len(texts)
    total = 0
    for n, text in enumerate(texts[:MAX_MATCHED]):
        total += len(text)
        if total > MAX_MATCHED_CHARS:
            return n
    return min(len(texts), MAX_MATCHED)


def match_ids(gold: Sequence[str], pred: Sequence[str], soft: bool = False) -> float:
    """How many normalised ids match one to one; if soft, a near pair counts half.

    Near means one edit apart, both of six or more characters; equal ids are matched first. As equal ids are
    interchangeable and near pairs all weigh the same, counting gives what two optimal assignments would.
    """
    if gold == pred:
        return len(gold)
    spare: dict[str, int] = {}
    for award_id in pred:
        spare[award_id] = spare.get(award_id, 0) + 1
    missed = []
    for award_id in gold:
        if spare.get(award_id):
            spare[award_id] -= 1
        else:
            missed.append(award_id)
    exact = len(gold) - len(missed)
    if not soft or not missed or exact == len(pred):
        return exact
    rows = [award_id for award_id in missed if len(award_id) >= _NEAR_ID_LENGTH][:MAX_MATCHED]
    columns = [award_id for award_id, n in spare.items() if len(award_id) >= _NEAR_ID_LENGTH for _ in range(n)]
    columns = columns[:MAX_MATCHED]
    near = {
        (i, j): 0.5
        for i, a in enumerate(rows)
        for j, b in enumerate(columns)
        if Levenshtein.distance(a, b, score_cutoff=1) == 1
    }
    return exact + 0.5 * len(_assign(near, len(rows), len(columns)))


def merge_identical(names: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Indices of equal names together, in order of first appearance."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name, []).append(i)
    return [tuple(group) for group in groups.values()]


@_remember_small
def merge_similar(names: tuple[str, ...], threshold: float) -> Mapping[Mode, Groups]:
    """Merge similar names in each mode; a group keeps the name of its first index.

    Names beyond the bound are merged only if identical.
    """
    groups: list[tuple[int, ...]] = [(i,) for i in range(len(names))]
    surplus: list[tuple[int, ...]] = []
    if _bound(names) < len(names):
        groups = merge_identical(names)
        bound = _bound([names[group[0]] for group in groups])
        groups, surplus = groups[:bound], groups[bound:]
    first = [names[group[0]] for group in groups]
    alike = {(j, i): s for i, b in enumerate(first) for j in range(i) if (s := likenesses(first[j], b, threshold))}
    return _in_modes(alike, lambda scores: (*_merge_in_rounds(groups, scores), *surplus))


def _merge_in_rounds(groups: list[tuple[int, ...]], scores: Mapping[tuple[int, int], float]) -> list[tuple[int, ...]]:
    """Merge round by round, as the published harness does.

    In pairs of `scores` the smaller place is first. A round takes the pairs of an optimal assignment of the names to
    each other, earlier rows first, and moves what it merged to the front. So where A resembles B and B resembles C but
    A and C differ, the outcome depends on their order.
    """
    place = {group[0]: n for n, group in enumerate(groups)}
    while scores:
        now = {place[group[0]]: n for n, group in enumerate(groups)}
        alike = {(now[i], now[j]): score for (i, j), score in scores.items() if i in now and j in now}
        alike |= {(j, i): score for (i, j), score in alike.items()}
        pairs = sorted([(i, j) for i, j in _assign(alike, len(groups), len(groups)) if i < j])
        if not pairs:
            break
        groups = _merge(groups, pairs)
    return groups


def _merge(groups: list[tuple[int, ...]], pairs: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """Merged groups in the order of their pairs, then the others; each merges once."""
    merged, taken = [], set[int]()
    for i, j in pairs:
        if i not in taken and j not in taken:
            merged.append(groups[i] + groups[j])
            taken |= {i, j}
    return merged + [group for i, group in enumerate(groups) if i not in taken]
