"""Samples that the report shows: the worst and the most changed."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from adapters.evaluation.alignment import of_sample
from adapters.evaluation.metrics import main_mode
from adapters.pipeline.run_folder import EvaluatedModel
from adapters.report.reward_weights import weighted
from adapters.types import QUESTION, Aligned, Counts

WORST, CHANGED = 12, 8
SAME = 1e-9
MOST_ROWS = 60
"""Rows that a card shows: a model that repeats itself would fill pages."""


class Line(NamedTuple):
    """A labelled or predicted value, with each model's prediction."""

    field: str
    depth: int
    gold: str | None
    preds: tuple[Aligned | None, ...]


class Card(NamedTuple):
    """One sample under all models."""

    id: str
    source: str
    question: str
    text: str
    scores: tuple[float | None, ...]
    answers: tuple[Mapping[str, Any], ...]
    lines: tuple[Line, ...]
    left_out: int
    gold: Any

    @property
    def change(self) -> float | None:
        """Score of the last model minus that of the one before."""
        last = self.scores[-2:]
        return last[1] - last[0] if len(last) == 2 and None not in last else None  # type: ignore[operator]


def score(sample: Mapping[str, Any], weights: Mapping[str, float]) -> float | None:
    """The score that a sample is ranked by: its weighted rewards, else its F1."""
    rewards, total = sample.get("rewards"), _total(sample)
    if isinstance(rewards, dict) and (value := weighted(rewards, weights)) is not None:
        return value
    return None if total is None else total.f() if total.gold or total.pred else 1.0


def worst(models: Sequence[EvaluatedModel], task: Any, weights: Mapping[str, float]) -> list[Card]:
    """The last model's samples of lowest score, those with more errors first."""
    ranked = ((score(s, weights) or 0.0, -_errors(s), n) for n, s in enumerate(models[-1].samples))
    return _cards(models, [n for value, _, n in heapq.nsmallest(WORST, ranked) if value < 1], task, weights)


def most_changed(
    models: Sequence[EvaluatedModel], task: Any, weights: Mapping[str, float]
) -> tuple[list[Card], list[Card]]:
    """The samples whose score fell most and rose most between the last two models."""
    known = sorted(_changes(models, weights), key=lambda c: c[0])
    lost = [n for change, n in known[:CHANGED] if change < -SAME]
    gained = [n for change, n in known[: -CHANGED - 1 : -1] if change > SAME]
    return _cards(models, lost, task, weights), _cards(models, gained, task, weights)


def moved(models: Sequence[EvaluatedModel], weights: Mapping[str, float]) -> tuple[int, int, int] | None:
    """How many samples the last model answers worse, equally and better."""
    if len(models) < 2:
        return None
    known = [change for change, _ in _changes(models, weights)]
    worse, better = sum(c < -SAME for c in known), sum(c > SAME for c in known)
    return worse, len(known) - worse - better, better


def _changes(models: Sequence[EvaluatedModel], weights: Mapping[str, float]) -> list[tuple[float, int]]:
    """By how much the last model's samples are scored higher than those of the one before, and their numbers."""
    if len(models) < 2:
        return []
    before = {key: score(s, weights) for key, s in _keyed(models[-2].samples)}
    pairs = ((before.get(key), score(s, weights), n) for n, (key, s) in enumerate(_keyed(models[-1].samples)))
    return [(now - then, n) for then, now, n in pairs if then is not None and now is not None]


def _keyed(samples: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Samples with what tells them apart: the questions and variants of a text share its id."""
    seen = Counter[tuple[Any, ...]]()
    for sample in samples:
        key = (sample.get("id"), sample.get(QUESTION))
        seen[key] += 1
        yield (*key, seen[key]), sample


def _cards(
    models: Sequence[EvaluatedModel], numbers: Sequence[int], task: Any, weights: Mapping[str, float]
) -> list[Card]:
    """Cards of the last model's samples of these numbers."""
    wanted = set(numbers)
    chosen = {n: pair for n, pair in enumerate(_keyed(models[-1].samples)) if n in wanted} if wanted else {}
    keys = {key for key, _ in chosen.values()}
    by_key = [{key: s for key, s in _keyed(m.samples) if key in keys} for m in models] if keys else []
    out = []
    for key, sample in (chosen[n] for n in numbers):
        answers = tuple(side.get(key, {}) for side in by_key)
        compared = [of_sample({**a, "gold": sample["gold"]}, task) if a and "gold" in sample else None for a in answers]
        lines, text = merge(compared), sample.get("text")
        card = Card(
            id=str(sample.get("id")),
            source=str(sample.get("source") or ""),
            question=str(sample.get(QUESTION) or ""),
            text=text if isinstance(text, str) else "",
            scores=tuple(score(a, weights) if a else None for a in answers),
            answers=answers,
            lines=tuple(lines[:MOST_ROWS]),
            left_out=max(0, len(lines) - MOST_ROWS),
            gold=sample.get("gold"),
        )
        out.append(card)
    return out


def merge(compared: Sequence[Sequence[Aligned] | None]) -> list[Line]:
    """The comparisons of several models with the same gold as one table.

    A value that only models predicted keeps its place after a gold value; models that predicted the same share its row.
    """
    golds = [[(r.field, r.depth, r.gold) for r in rows if r.gold is not None] for rows in compared if rows is not None]
    if not golds:
        return []
    nothing = (None,) * len(compared)
    slots = [[], *([Line(*gold, nothing)] for gold in golds[0])]
    for m, rows in enumerate(compared):
        at = 0
        for row in rows or ():
            if row.gold is not None and at + 1 < len(slots):
                at += 1
                slots[at][0] = _with(slots[at][0], m, row)
            elif row.gold is None:
                k = next((k for k, line in enumerate(slots[at]) if _same_extra(line, m, row)), len(slots[at]))
                line = slots[at][k] if k < len(slots[at]) else Line(row.field, row.depth, None, nothing)
                slots[at][k : k + 1] = [_with(line, m, row)]
    return [line for slot in slots for line in slot]


def _with(line: Line, model: int, row: Aligned) -> Line:
    return line._replace(preds=(*line.preds[:model], row, *line.preds[model + 1 :]))


def _same_extra(line: Line, model: int, row: Aligned) -> bool:
    predicted = {p.pred for p in line.preds if p is not None}
    free = line.gold is None and line.preds[model] is None
    return free and (line.field, line.depth) == (row.field, row.depth) and predicted == {row.pred}


def _total(sample: Mapping[str, Any]) -> Counts | None:
    counts = sample.get("counts")
    if not isinstance(counts, dict) or not counts:
        return None
    try:
        return sum((Counts(*map(float, c)) for c in counts[main_mode(counts)].values()), Counts(0, 0, 0))
    except (AttributeError, TypeError, ValueError):
        return None


def _errors(sample: Mapping[str, Any]) -> float:
    total = _total(sample)
    return total.gold + total.pred - 2 * total.matched if total else 0.0
