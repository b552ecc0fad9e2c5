"""Alignment of a prediction with its gold: by the task when a run evaluates, else by JSON value."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from rapidfuzz import fuzz, process

from adapters.types import Aligned, grounding_text

NEAR = 60.0
"""Similarity (0 to 100) from which unequal values are shown side by side."""
MOST_VALUES = 200
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


STORED = "aligned"
"""Key of a stored sample: the rows of its task's `align`, or None where the task has none or it fails."""


def by_task(task: Any, gold: Any, completion: str, text: Any = None) -> list[Aligned] | None:
    """What the task's `align` compares; None without that method, and where it fails."""
    try:
        return [Aligned(*row) for row in task.align(gold, completion, **grounding_text(task, text))]
    except Exception:  # a missing method, or any error of plug-in code
        return None


def align(task: Any, gold: Any, completion: str) -> list[Aligned]:
    """Gold beside predicted values: by the task's `align`, else by value."""
    rows = by_task(task, gold, completion)
    return compare_values(gold, read_value(completion)) if rows is None else rows


def of_sample(sample: Mapping[str, Any], task: Any = None) -> list[Aligned]:
    """Gold beside predicted values as the evaluation stored them; in samples of older versions by `task`.

    A stored row of the wrong form is left out: the file may come from anywhere.
    """
    if isinstance(stored := sample.get(STORED), list):
        return [row for row in map(_checked, stored) if row is not None]
    return align(None if STORED in sample else task, sample.get("gold"), str(sample.get("completion", "")))


def _checked(row: Any) -> Aligned | None:
    match row:
        case [str(field), str() | None as gold, str() | None as pred, bool(matched), int(depth)]:
            return Aligned(field, gold, pred, matched, depth)
    return None


def compare_values(gold: Any, pred: Any) -> list[Aligned]:
    """Leaves of two JSON values, matched by path (without positions) and value.

    Unequal leaves of one path stand side by side when they look alike or are the only ones left.
    """
    spare: dict[str, list[str]] = defaultdict(list)
    for path, text in islice(_leaves(pred), MOST_VALUES):
        spare[path].append(text)
    leaves = list(islice(_leaves(gold), MOST_VALUES))
    rows = [Aligned(path, text, None) for path, text in leaves]
    for i, (path, text) in enumerate(leaves):
        if text in spare[path]:
            spare[path].remove(text)
            rows[i] = Aligned(path, text, text, matched=True)
    for i, (path, text) in enumerate(leaves):
        if not rows[i].matched and spare[path]:
            alone = len(spare[path]) == 1 and all(later != path for later, _ in leaves[i + 1 :])
            best = process.extractOne(text, spare[path], scorer=fuzz.ratio, score_cutoff=0 if alone else NEAR)
            if best is not None:
                spare[path].remove(best[0])
                rows[i] = Aligned(path, text, best[0])
    return [*rows, *(Aligned(path, None, text) for path, texts in spare.items() for text in texts)]


def read_value(completion: str) -> Any:
    """JSON of a completion (answer tag, code fence or whole), else its text."""
    for text in (*_ANSWER.findall(completion)[-1:], *_FENCE.findall(completion)[-1:], completion):
        try:
            return json.loads(text.strip())
        except (ValueError, RecursionError):
            continue
    return completion.strip()


def _leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and depth < 20:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list | tuple) and depth < 20:
        for item in value:
            yield from _leaves(item, path, depth + 1)
    elif value is not None and value != "":
        try:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        except RecursionError:
            text = "(nested too deeply)"
        yield path or "answer", text
