"""Answers of the task `mine`: read, counted, aligned with gold, and as records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from adapters.backends.json_stop import first_value
from adapters.data_aug.mine.words import Place, words
from adapters.rewards.grounding import free_places
from adapters.types import Aligned, Counts, Row

_TEXT: Final = "Aspirin did not help against the chronic headache of the patient."
ROWS: Final[tuple[Row, ...]] = (
    {"id": "1", "text": _TEXT, "kind": "span", "instruction": "disease", "gold": [[33, 49]], "annotator": "human"},
    {"id": "1", "text": _TEXT, "kind": "span", "instruction": "Who is named?", "gold": [], "annotator": "human"},
    {"id": "1", "text": _TEXT, "kind": "label", "instruction": "medicine", "gold": True, "annotator": "human"},
)
_NUMBER: Final = {"type": ["integer", "null"]}
_SPAN: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "start": _NUMBER, "end": _NUMBER},
    "required": ["text", "start", "end"],
    "additionalProperties": False,
}
ANSWER: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"spans": {"type": "array", "items": _SPAN}},
            "required": ["spans"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"label": {"type": "boolean"}, "score": {"type": "number"}},
            "required": ["label"],
            "additionalProperties": False,
        },
    ]
}
RECORD: Final[dict[str, Any]] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "text": {"type": ["string", "null"]},
            "start": _NUMBER,
            "end": _NUMBER,
            "label": {"type": ["boolean", "null"]},
            "score": {"type": ["number", "null"]},
        },
        "required": ["text", "start", "end", "label", "score"],
        "additionalProperties": False,
    },
}


class Reading(NamedTuple):
    """An answer: a label, or the places of spans and the strings that the text does not hold."""

    label: bool | None
    places: frozenset[Place]
    absent: tuple[str, ...] = ()


def read(completion: str, text: str) -> Reading | None:
    """An answer about a text; None for what is none."""
    try:
        answer = first_value(completion)
    except ValueError:
        return None
    if not isinstance(answer, Mapping):
        return None
    if isinstance(answer.get("label"), bool):
        return Reading(answer["label"], frozenset())
    given = answer.get("spans")
    return _spans(given, text) if isinstance(given, list) else None


def _spans(given: list[Any], text: str) -> Reading:
    places: set[Place] = set()
    absent: dict[str, None] = {}
    for item in given:
        string = item.get("text") if isinstance(item, Mapping) else item
        if not isinstance(string, str) or not string.strip():
            continue
        start = item.get("start") if isinstance(item, Mapping) else None
        end = item.get("end") if isinstance(item, Mapping) else None
        if type(start) is int and type(end) is int and 0 <= start < end and text[start:end] == string:
            places.add((start, end))
        elif free := free_places(text, [string]):
            places.update(free)
        else:
            absent[string] = None
    return Reading(None, frozenset(places), tuple(absent))


def counts(gold: Any, completion: str, text: str) -> dict[str, Mapping[str, Counts]]:
    """Counts by mode and field; see `MineTask.counts`."""
    found = read(completion, text) or Reading(None, frozenset())
    wanted = gold if isinstance(gold, Mapping) else {}
    none, label, right = Counts(0, 0, 0), Counts(0, 0, 0), Counts(0, 0, 0)
    if (true := wanted.get("label")) is not None or found.label is not None:
        label = Counts(bool(true), bool(found.label), bool(true and found.label))
        right = Counts(1, 1, true == found.label) if true is not None else none
        if true is not None:
            return _modes(none, none, label, right)
    places = frozenset((start, end) for start, end in wanted.get("spans", ()))
    gold_words, pred_words = _words(places, text), _words(found.places, text)
    invented = sum(len(words(string)) for string in found.absent)
    of_words = Counts(len(gold_words), len(pred_words) + invented, len(gold_words & pred_words))
    of_spans = Counts(len(places), len(found.places) + len(found.absent), len(places & found.places))
    return _modes(of_words, of_spans, label, right)


def _modes(of_words: Counts, of_spans: Counts, label: Counts, right: Counts) -> dict[str, Mapping[str, Counts]]:
    return {
        "word": {"span": of_words, "label": label},
        "span": {"span": of_spans, "label": label},
        "accuracy": {"accuracy": right},
    }


def _words(places: frozenset[Place], text: str) -> frozenset[int]:
    """Starts of the words that are inside a place, in part at least; of characters where there is no text."""
    if not places:
        return frozenset()
    if not text:
        return frozenset(n for start, end in places for n in range(start, end))
    ordered, out, first = sorted(places), set(), 0
    for word in words(text):
        while first < len(ordered) and ordered[first][1] <= word.start:
            first += 1
        if any(start < word.end and word.start < end for start, end in ordered[first:] if start < word.end):
            out.add(word.start)
    return frozenset(out)


def align(gold: Any, completion: str, text: str) -> list[Aligned]:
    """Gold and prediction for people to look at; see `MineTask.align`."""
    found = read(completion, text) or Reading(None, frozenset())
    wanted = gold if isinstance(gold, Mapping) else {}
    if (true := wanted.get("label")) is not None:
        shown = None if found.label is None else str(found.label).lower()
        return [Aligned("label", str(true).lower(), shown, true == found.label)]
    places = {(start, end) for start, end in wanted.get("spans", ())}
    rows = []
    for start, end in sorted(places | found.places):
        string = text[start:end] or f"{start}–{end}"
        both = (start, end) in places and (start, end) in found.places
        mine = string if (start, end) in places else None
        rows.append(Aligned("span", mine, string if (start, end) in found.places else None, both))
    return rows + [Aligned("span", None, string) for string in found.absent]


def record(answer: Any) -> list[dict[str, Any]]:
    """A decoded answer as rows; see `MineTask.record`. Raises ValueError."""
    empty = dict.fromkeys(RECORD["items"]["required"])
    if isinstance(answer, Mapping) and isinstance(answer.get("label"), bool):
        score = answer.get("score")
        number = float(score) if isinstance(score, int | float) and not isinstance(score, bool) else None
        return [{**empty, "label": answer["label"], "score": number}]
    given = answer.get("spans") if isinstance(answer, Mapping) else None
    if not isinstance(given, list):
        raise ValueError("wrong shape: an object with spans, or with a label of true or false, is wanted")
    out = []
    for item in given:
        item = {"text": item} if isinstance(item, str) else item
        if not isinstance(item, Mapping) or not isinstance(item.get("text"), str):
            raise ValueError("wrong shape: each span must have a text")
        places = {key: item[key] if type(item.get(key)) is int else None for key in ("start", "end")}
        out.append({**empty, "text": item["text"], **places})
    return out
