"""Gold and predicted objects compared, value by value: what metrics, reward and reports are all made of."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.rewards.grounding import Text
from adapters.rewards.records_schema import Node
from adapters.rewards.records_values import is_empty, key, number, scalars
from adapters.types import Counts

ALL: Final = "(all)"
"""Field of the sum over all others."""
OUTSIDE: Final = "(not in the schema)"
"""Field of predicted values that stand where the schema has no value: unknown keys, an object for a text."""
MAX_TEXT: Final = 1_000_000
"""Longer completions are not read; 4,096 tokens are under 20,000 characters."""
MAX_ITEMS: Final = 256
"""Objects of a list that are assigned to each other; of more, those that equal none count as unmatched."""


class Pair(NamedTuple):
    """A gold value and the predicted one that it was compared with; one of them may be None."""

    path: str
    gold: Any
    pred: Any
    matched: bool = False


class Reading(NamedTuple):
    """The object of a completion; None, with the reason, where there is none to read."""

    value: dict[str, Any] | None
    problem: str | None = None


def read(completion: str) -> Reading:
    """The one JSON object of a completion; thought, a code fence and prose around it are left out. Never raises.

    Not read: a second object or a list beside it, an object that is not complete, a key that stands twice, NaN.
    """
    if len(completion) > MAX_TEXT:
        return Reading(None, f"longer than {MAX_TEXT:,} characters")
    text = completion.rpartition("</think>")[2]
    start = text.find("{")
    if start < 0:
        return Reading(None, "not JSON: there is no object")
    if "[" in text[:start]:
        return Reading(None, "wrong shape: a list, not an object")
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        return Reading(None, "not JSON: nested too deeply")
    except ValueError as error:
        return Reading(None, f"not JSON: {error}")
    if "{" in (rest := text[end:]) or "[" in rest:
        return Reading(None, "wrong shape: more than one object")
    return Reading(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        repeated = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {repeated!r} stands in one object twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def compare(node: Node, gold: Any, pred: Any, path: str = "") -> Iterator[Pair]:
    """Every gold and every predicted value once, in the order of the schema and of gold."""
    if node.kind == "object":
        yield from _fields(node, gold, pred, path)
    elif node.item is not None:
        members = _objects if node.item.kind == "object" else _values
        yield from members(node.item, _filled(gold), _filled(pred), f"{path}[]")
        yield from () if isinstance(pred, list | tuple) else _outside(pred)
    else:
        inside = not isinstance(pred, Mapping | list | tuple)
        predicted = pred if inside and not is_empty(pred) else None
        labelled = None if is_empty(gold) else gold
        if labelled is not None or predicted is not None:
            yield Pair(path, labelled, predicted, same(node, labelled, predicted))
        yield from () if inside else _outside(pred)


def _fields(node: Node, gold: Any, pred: Any, path: str) -> Iterator[Pair]:
    for name, inner in node.fields.items():
        yield from compare(inner, _get(gold, name), _get(pred, name), f"{path}.{name}" if path else name)
    if isinstance(pred, Mapping):
        pred = [value for name, value in pred.items() if name not in node.fields]
    yield from _outside(pred)


def _filled(value: Any) -> list[Any]:
    return [item for item in value if not is_empty(item)] if isinstance(value, list | tuple) else []


def _outside(value: Any) -> Iterator[Pair]:
    return (Pair(OUTSIDE, None, inner) for inner in scalars(value))


def same(node: Node, gold: Any, pred: Any) -> bool:
    """Whether two values of a field count as one."""
    gold_key, pred_key = _key(node, gold), _key(node, pred)
    if gold_key is None or pred_key is None:
        return False
    return gold_key == pred_key or (node.tolerance > 0 and _near(node, gold, pred))


def _key(node: Node, value: Any) -> str | None:
    return key(value, node.kind, node.normaliser)


def _near(node: Node, gold: Any, pred: Any) -> bool:
    gold_number, pred_number = number(gold), number(pred)
    if gold_number is None or pred_number is None:
        return False
    return abs(gold_number - pred_number) <= node.tolerance * (1 + 1e-9)


def _values(node: Node, gold: Sequence[Any], pred: Sequence[Any], path: str) -> Iterator[Pair]:
    """The values of two lists without order, each matched once."""
    spare: dict[str | None, list[int]] = defaultdict(list)
    misplaced = [n for n, value in enumerate(pred) if isinstance(value, Mapping | list | tuple)]
    for n in range(len(pred) - 1, -1, -1):
        if not isinstance(pred[n], Mapping | list | tuple):
            spare[_key(node, pred[n])].append(n)
    partners: dict[int, int] = {}
    for n, value in enumerate(gold):
        key = _key(node, value)
        if key is not None and spare[key]:
            partners[n] = spare[key].pop()
    left = sorted(n for indices in spare.values() for n in indices)
    if node.tolerance:
        partners |= _nearest(node, gold, pred, [n for n in range(len(gold)) if n not in partners], left)
    for n, value in enumerate(gold):
        partner = partners.get(n)
        yield Pair(path, value, None if partner is None else pred[partner], partner is not None)
    taken = set(partners.values())
    yield from (Pair(path, None, pred[n]) for n in left if n not in taken)
    yield from _outside([pred[n] for n in misplaced])


def _nearest(
    node: Node, gold: Sequence[Any], pred: Sequence[Any], missed: Sequence[int], left: Sequence[int]
) -> dict[int, int]:
    """Most pairs within the tolerance: both sides sorted, each with the first that it reaches."""
    labelled = sorted((value, n) for n in missed if (value := number(gold[n])) is not None)
    predicted = sorted((value, n) for n in left if (value := number(pred[n])) is not None)
    partners, at = dict[int, int](), 0
    for value, n in labelled:
        while at < len(predicted) and predicted[at][0] < value and not _near(node, value, predicted[at][0]):
            at += 1
        if at < len(predicted) and _near(node, value, predicted[at][0]):
            partners[n] = predicted[at][1]
            at += 1
    return partners


def _objects(node: Node, gold: Sequence[Any], pred: Sequence[Any], path: str) -> Iterator[Pair]:
    """The objects of two lists without order, paired so that the values they share are most."""
    objects = [n for n, item in enumerate(pred) if isinstance(item, Mapping)]
    partners = assigned(node, gold, [pred[n] for n in objects])
    for n, item in enumerate(gold):
        partner = partners.get(n)
        yield from compare(node, item, None if partner is None else pred[objects[partner]], path)
    taken = {objects[n] for n in partners.values()}
    for n, item in enumerate(pred):
        if n not in taken:
            yield from compare(node, None, item, path)


def assigned(node: Node, gold: Sequence[Any], pred: Sequence[Any]) -> dict[int, int]:
    """Gold index -> predicted index of the best one-to-one assignment.

    Two objects agree by the number of values that both have at one path, nested lists included. Objects that agree in
    everything are paired at once, which no assignment betters. Ties are broken by content, so that the order of
    neither list counts.
    """
    gold_signatures, pred_signatures = ([_signature(node, item) for item in side] for side in (gold, pred))
    spare: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for n in range(len(pred_signatures) - 1, -1, -1):
        spare[pred_signatures[n]].append(n)
    partners: dict[int, int] = {}
    for n, signature in enumerate(gold_signatures):
        if signature and spare[signature]:
            partners[n] = spare[signature].pop()
    taken = set(partners.values())
    rows = [n for n in range(len(gold)) if n not in partners and gold_signatures[n]]
    rows = sorted(rows, key=lambda n: gold_signatures[n])[:MAX_ITEMS]
    columns = [n for n in range(len(pred)) if n not in taken and pred_signatures[n]]
    columns = sorted(columns, key=lambda n: pred_signatures[n])[:MAX_ITEMS]
    if not rows or not columns:
        return partners
    from scipy.optimize import linear_sum_assignment

    agreement = _agreement([gold_signatures[n] for n in rows], [pred_signatures[n] for n in columns])
    agreement += _within_tolerance(node, [gold[n] for n in rows], [pred[n] for n in columns])
    chosen = zip(*(side.tolist() for side in linear_sum_assignment(agreement, maximize=True)), strict=True)
    return partners | {rows[i]: columns[j] for i, j in chosen if agreement[i, j]}


def _signature(node: Node, item: Any) -> tuple[str, ...]:
    """The values of an object as sorted texts of path, value and, of equal ones, a count."""
    seen: Counter[str] = Counter()
    texts = []
    for path, value, leaf in _leaves(node, item, ""):
        found = _key(leaf, value)
        if found is not None:
            text = f"{path}\0{found}"
            texts.append(f"{text}\0{seen[text]}")
            seen[text] += 1
    return tuple(sorted(texts))


def _leaves(node: Node, value: Any, path: str) -> Iterator[tuple[str, Any, Node]]:
    """The values that stand where the schema has them."""
    if node.kind == "object":
        for name, inner in node.fields.items() if isinstance(value, Mapping) else ():
            yield from _leaves(inner, value.get(name), f"{path}.{name}")
    elif node.item is not None:
        for item in value if isinstance(value, list | tuple) else ():
            yield from _leaves(node.item, item, f"{path}[]")
    elif not isinstance(value, Mapping | list | tuple) and not is_empty(value):
        yield path, value, node


def _agreement(gold: Sequence[tuple[str, ...]], pred: Sequence[tuple[str, ...]]) -> Any:
    """How many texts each pair of signatures shares."""
    import numpy as np
    from scipy.sparse import csr_array

    columns = {text: n for n, text in enumerate(dict.fromkeys(text for side in gold for text in side))}

    def matrix(signatures: Sequence[tuple[str, ...]]) -> Any:
        places = [(row, columns[text]) for row, side in enumerate(signatures) for text in side if text in columns]
        at = np.array(places, dtype=int).reshape(-1, 2).T
        return csr_array((np.ones(at.shape[1]), (at[0], at[1])), shape=(len(signatures), len(columns)))

    return (matrix(gold) @ matrix(pred).T).toarray()


def _within_tolerance(node: Node, gold: Sequence[Any], pred: Sequence[Any]) -> Any:
    """How many numbers of each pair are unequal, but within their field's tolerance; numbers in nested lists are not
    looked at.
    """
    import numpy as np

    out = np.zeros((len(gold), len(pred)))
    for name, inner in node.fields.items():
        if inner.kind == "object":
            out += _within_tolerance(inner, [_get(item, name) for item in gold], [_get(item, name) for item in pred])
        elif inner.tolerance and inner.kind in ("number", "integer"):
            numbers = ([number(_get(item, name)) for item in side] for side in (gold, pred))
            a, b = (np.array([np.nan if value is None else value for value in side]) for side in numbers)
            apart = np.abs(a[:, None] - b[None, :])
            with np.errstate(invalid="ignore"):
                out += (apart <= inner.tolerance * (1 + 1e-9)) & (apart > np.abs(a)[:, None] * 1e-12)
    return out


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else None


def grounded(node: Node, pairs: Iterable[Pair], text: Text) -> Iterator[Pair]:
    """The pairs, without a match for a string that is not in the text; `x-grounded: false` excepts a field."""
    looked_for = {path for path, leaf in node.leaves() if leaf.kind == "string" and leaf.grounded}
    for pair in pairs:
        if pair.matched and pair.path in looked_for:
            value = pair.pred if isinstance(pair.pred, str) else json.dumps(pair.pred)
            yield pair._replace(matched=text.has(value))
        else:
            yield pair


def tally(node: Node, pairs: Iterable[Pair]) -> dict[str, Counts]:
    """Counts of every field of the schema, and of what stands outside it."""
    sums = {path: [0, 0, 0] for path in (*(path for path, _ in node.leaves()), OUTSIDE)}
    for pair in pairs:
        of_field = sums[pair.path]
        of_field[0] += pair.gold is not None
        of_field[1] += pair.pred is not None
        of_field[2] += pair.matched
    return {path: Counts(*counts) for path, counts in sums.items()}


def total(counts: Mapping[str, Counts]) -> Counts:
    """The sum over fields."""
    return sum(counts.values(), Counts(0, 0, 0))
