"""The records of a text's parts as one: what a task gets that has no `merge` of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.rewards.grounding import fold


def merge(records: Sequence[Any]) -> Any:
    """One record of those of overlapping parts, in the order of the text.

    Of objects each field is merged. Of single values the first that is said stays. Of lists each item stays that the
    list before does not have: strings are equal without case, white space and dashes (`grounding.fold`), and an
    object is joined with one whose values it repeats and completes. Items of one record stay apart.
    """
    merged = None
    for record in records:
        merged = _joined(merged, record)
    return merged


def _joined(value: Any, more: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(more, Mapping):
        return {name: _joined(value.get(name), more.get(name)) for name in {**value, **more}}
    if isinstance(value, list) and isinstance(more, list):
        return _united(value, more)
    return more if _is_blank(value) else value


def _united(items: list[Any], more: list[Any]) -> list[Any]:
    """Both lists, in order. An item of one is at most one of the other."""
    out, free = list(items), list(range(len(items)))
    for item in more:
        same = next((n for n in free if _folded(out[n]) == _folded(item)), None)
        if same is None:
            same = next((n for n in free if _completes(out[n], item)), None)
        if same is None:
            out.append(item)
        else:
            out[same] = _joined(out[same], item)
            free.remove(same)
    return out


def _completes(value: Any, more: Any) -> bool:
    """Whether two objects share a text and differ in no text or number that both have."""
    if not isinstance(value, Mapping) or not isinstance(more, Mapping):
        return False
    said, also = ({name: v for name, v in side.items() if not _is_blank(v)} for side in (value, more))
    both = [name for name in said if name in also and not isinstance(said[name], list | Mapping)]
    equal = all(_folded(said[name]) == _folded(also[name]) for name in both)
    return equal and any(isinstance(said[name], str) for name in both)


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, Mapping):
        return {name: _folded(inner) for name, inner in value.items() if not _is_blank(inner)}
    return list(map(_folded, value)) if isinstance(value, list) else value


def _is_blank(value: Any) -> bool:
    return value is None or value in ("", [], {})
