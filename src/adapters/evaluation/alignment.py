"""Alignment of a prediction with its gold: by the task, else by JSON value."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from rapidfuzz import fuzz, process

from adapters.types import Aligned

NEAR = 60.0
"""Similarity (0 to 100) from which two unequal values of one key are shown side by side."""
MOST_VALUES = 200
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def align(task: Any, gold: Any, completion: str) -> list[Aligned]:
    """Gold beside predicted values: by the task's alignment, unless that fails."""
    own: Callable[[Any, str], list[Aligned]] | None = getattr(task, "align", None)
    if own is not None:
        try:
            return [Aligned(*row) for row in own(gold, completion)]
        except Exception:  # noqa: S110 - plug-in code; the fallback below needs nothing of it
            pass
    return compare_values(gold, read_value(completion))


def compare_values(gold: Any, pred: Any) -> list[Aligned]:
    """Leaves of two JSON values, matched where path and value are equal.

    A path has no list positions. Unequal leaves of one path stand side by side when they look alike or are the only
    ones left.
    """
    left, right = (list(_leaves(value))[:MOST_VALUES] for value in (gold, pred))
    spare: dict[str, list[str]] = defaultdict(list)
    for path, text in right:
        spare[path].append(text)
    matches: dict[int, tuple[str, bool]] = {}
    for i, (path, text) in enumerate(left):
        if text in spare[path]:
            spare[path].remove(text)
            matches[i] = (text, True)
    for i, (path, text) in enumerate(left):
        if i not in matches and spare[path]:
            alone = len(spare[path]) == 1 and not any(p == path and k > i for k, (p, _) in enumerate(left))
            best = process.extractOne(text, spare[path], scorer=fuzz.ratio, score_cutoff=0 if alone else NEAR)
            if best is not None:
                spare[path].remove(best[0])
                matches[i] = (best[0], False)
    out = []
    for i, (path, text) in enumerate(left):
        other, matched = matches.get(i, (None, False))
        out.append(Aligned(path, text, other, matched))
    return [*out, *(Aligned(path, None, text) for path, texts in spare.items() for text in texts)]


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
            yield (
                path or "answer",
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
            )
        except RecursionError:
            yield path or "answer", "(nested too deeply)"
