"""Labels of the `funding` task that may be wrong: the column `uncertain`, and where they stand in the target."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from adapters.data.json_text import from_text

FIELDS = ("funding_scheme", "award_ids", "award_title")
_FIELD = re.compile(r'"(funding_scheme|award_ids|award_title)":\s*\[')
_DECODE = json.JSONDecoder().raw_decode


class Uncertain(NamedTuple):
    """Of one funder: its uncertain values, and the fields of which it is uncertain that they are empty."""

    values: list[str]
    empty: set[str]


def read(row: Mapping[str, Any], funders: Sequence[Mapping[str, Any]]) -> dict[int, Uncertain]:
    """What the paths of a row lead to, by funder. Raises ValueError for a path that leads to no label.

    A path is dotted: `funders.0.awards.1.award_ids.0` is one id, and what is shorter means all values below it.
    """
    paths = row.get("uncertain")
    if isinstance(paths, str):
        paths = from_text("uncertain", paths)
    found: dict[int, Uncertain] = defaultdict(lambda: Uncertain([], set()))
    for path in paths if paths is not None else ():
        number, last, node = _followed(str(path), funders)
        values = list(_texts(node))
        found[number].values.extend(values)
        if not values:
            found[number].empty.update(FIELDS if last == "awards" else (last,))
    return dict(found)


def _followed(path: str, funders: Sequence[Mapping[str, Any]]) -> tuple[int, str, Any]:
    """The funder's number, the last name of a path, and what is there: None for awards that the row leaves out."""
    match = re.fullmatch(r"funders\.(\d{1,6})((?:\.\w+)*)", path)
    if match and int(match[1]) < len(funders):
        parts = match[2].split(".")[1:]
        last = parts[-1] if parts else ""
        node: Any = funders[int(match[1])]
        try:
            for part in parts:
                node = node[part] if isinstance(node, Mapping) else node[int(part)]
            return int(match[1]), last, node
        except (LookupError, ValueError, TypeError):
            if last in (*FIELDS, "awards"):
                return int(match[1]), last, None
    raise ValueError(f"uncertain: {path!r} leads to no label; a path is such as funders.0.awards.0.award_ids.1")


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _texts(value)
    elif node not in (None, ""):
        yield str(node)


def masked(completion: str, uncertain: Mapping[int, Uncertain], compact: bool) -> list[tuple[int, int]]:
    """Spans of the target, in code points, that hold uncertain labels or tell of an uncertain absence."""
    spans: list[tuple[int, int]] = []
    end = 1
    for number in range(max(uncertain, default=-1) + 1):
        start = completion.index("{", end)
        name, name_end = _DECODE(completion, completion.index(":", start) + (1 if compact else 2))
        funder, end = _DECODE(completion, start)
        if number not in uncertain:
            continue
        values, empty = uncertain[number]
        if name in values or (name is None and values and set(_texts(funder)) <= set(values)):
            spans.append((start, end))
            continue
        last, there = name_end, set()
        for match in _FIELD.finditer(completion, name_end, end):
            items, last = _items(completion, match.end())
            there.update([match[1]] if items else [])
            spans += _of_field(completion, match, items, last, values, compact)
            if not items and match[1] in empty:
                spans.append((match.end() - 1, last))
        if compact and empty - there:
            spans.append((last, last + 1))
    return spans


def _items(text: str, at: int) -> tuple[list[tuple[int, int, str]], int]:
    """The strings of a JSON list with their places, and the end of the list."""
    items = []
    while text[at] != "]":
        if text[at] == '"':
            value, end = _DECODE(text, at)
            items.append((at, end, value))
            at = end
        else:
            at += 1
    return items, at + 1


def _of_field(
    text: str, match: re.Match[str], items: list[tuple[int, int, str]], end: int, values: Sequence[str], compact: bool
) -> Iterator[tuple[int, int]]:
    """Spans of uncertain values with a comma each; of all of them, the list, and its name where that may be absent."""
    unsure = [(start, stop) for start, stop, value in items if value in values]
    if unsure and len(unsure) == len(items):
        yield (match.start() - 1 if compact else match.end() - 1), end
        return
    for start, stop in unsure:
        yield (start, stop + 1) if text[stop] == "," else (text.rindex(",", 0, start), stop)
