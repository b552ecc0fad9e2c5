"""Where the strings of a record stand in the text of their row."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final, Literal, NamedTuple

from adapters.data.quoted import Path, quoted_strings
from adapters.rewards.grounding import Found, Place, Text

Grounded = Literal["strict", "flag", "off"]
"""`strict`: a record with a string that is not in the text is an error. `flag`: it is said. `off`: nobody looks."""

_WHOLE: Final = {"type": "integer"}
SCHEMA: Final = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "value": {"type": "string"},
            "start": _WHOLE,
            "end": _WHOLE,
            "match": {"type": "string"},
            "score": {"type": "number"},
            "mentions": {"type": "array", "items": {"type": "array", "items": _WHOLE}},
        },
    },
}
"""JSON schema of `spans`."""


class _String(NamedTuple):
    path: Path
    value: str
    found: Found


def spans(record: Any, schema: Mapping[str, Any], text: str) -> list[dict[str, Any]]:
    """The place of every string of a record, in its order. Offsets are code points of the text.

    `schema` is the record's JSON schema: a string with `enum`, `const`, `format` or `x-grounded: false` is not looked
    for. Of several mentions `start` and `end` are the one nearest to the strings beside it in the record (those of the
    same list or object, else of the one around it, and so on), the first of equally near ones. A mention that lies
    within a longer string's is the choice only where there is no other.
    """
    within = Text(text)
    strings = [_String(path, value, within.find(value)) for path, value in quoted_strings(record, schema)]
    places = _chosen(strings)
    return [
        {
            "path": ".".join(map(str, path)),
            "value": value,
            "start": place and place[0],
            "end": place and place[1],
            "match": found.match,
            "score": found.score,
            "mentions": [list(mention) for mention in found.mentions],
        }
        for (path, value, found), place in zip(strings, places, strict=True)
    ]


def standing(record: Any, schema: Mapping[str, Any], text: str) -> Any:
    """A record without the items (of an object, the fields) that hold a string which is not in the text."""
    within = Text(text)
    absent = {path[0] for path, value in quoted_strings(record, schema) if path and not within.has(value)}
    if isinstance(record, list):
        return [item for n, item in enumerate(record) if n not in absent]
    return {name: value for name, value in record.items() if name not in absent} if absent else record


def _chosen(strings: Sequence[_String]) -> list[Place | None]:
    """The mention of each string that is nearest to its neighbours; None for a string without one."""
    inside = _covered(strings)
    free = {s.value: [m for m in s.found.mentions if m not in inside] or list(s.found.mentions) for s in strings}
    groups: dict[Path, set[str]] = {}
    for string in strings:
        for length in range(len(string.path)) if free[string.value] else ():
            groups.setdefault(string.path[:length], set()).add(string.value)

    @cache
    def nearest(value: str, group: Path) -> Place:
        beside = [free[other] for other in groups[group] if other != value]
        if not beside and group:
            return nearest(value, group[:-1])
        sure = [mentions for mentions in beside if len(mentions) == 1] or beside
        anchors = sorted(mention for mentions in sure for mention in mentions)
        return min(free[value], key=lambda mention: (_distance(mention, anchors), mention))

    return [nearest(s.value, s.path[:-1]) if s.found.mentions else None for s in strings]


def _covered(strings: Sequence[_String]) -> set[Place]:
    """The mentions that lie within a longer one of another string."""
    out: set[Place] = set()
    widest: Place = (-1, -1)
    for mention in sorted({m for s in strings for m in s.found.mentions}, key=lambda m: (m[0], -m[1])):
        if mention[1] <= widest[1]:
            out.add(mention)
        else:
            widest = mention
    return out


def _distance(mention: Place, anchors: Sequence[Place]) -> int:
    """Characters between a mention and the nearest of the sorted anchors."""
    at = bisect_left(anchors, mention)
    gaps = (max(a - mention[1], mention[0] - b, 0) for a, b in anchors[max(at - 1, 0) : at + 1])
    return min(gaps, default=0)


def ungrounded(spans: Iterable[Mapping[str, Any]] | None) -> str | None:
    """Why a record is refused: its first string that is not in the text, or no text (None). None where all are."""
    if spans is None:
        return "not grounded: the row has no text to look in"
    absent = next((span for span in spans if span["match"] == "absent"), None)
    if absent is None:
        return None
    return f"not grounded: {absent['path']}: {absent['value']!r:.80} is not in the text"
