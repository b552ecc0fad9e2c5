"""Entities and relations as sets of items: reading them from gold and from model text, and counting what they share.

The published description of the reward leaves much open. Every such question is a field of `Reading`, whose defaults
are this project's choice; the reward and the task's metrics both are a `Reading`, so they cannot disagree.

Nothing here raises on any text, and every step is linear in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from string import ascii_letters
from typing import Any, Literal, get_args, get_type_hints

from adapters.types import Counts

Item = tuple[str, str] | tuple[str, str, str]
"""An entity as (type, text), or a relation as (relation, head, tail)."""

Gold = Mapping[str, Any]
"""The labels of a text: {type: [text, …]} or {relation: [{"head", "tail"}, …]}; its keys are the schema."""

MAX_TEXT = 1_000_000
"""Longer completions are not read; 4,096 tokens are under 20,000 characters."""

_TAG = re.compile("</?(?:think|answer)>")
_FENCE = "```"


class _Repeated(tuple[Any, ...]):
    """The values of a key that an object holds several times."""


class _RefusedError(ValueError):
    """JSON that Python reads and this project does not."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a completion says.

    `think` and `answer` tell whether the tags earn their part of the reward, `tags` how many tag marks there are.
    `json` is "object", "other" (well-formed, but no object) or None (nothing readable). `problem` says why there is no
    object.
    """

    think: bool
    answer: bool
    tags: int
    json: Literal["object", "other"] | None
    items: frozenset[Item] = frozenset()
    problem: str | None = None


@dataclass(frozen=True)
class Reading:
    """How a completion is read. Each field answers one question that the published description leaves open.

    `form`: presence asks for a complete pair of tags anywhere; strict for exactly one pair of each, think first, and
    nothing around them. `max_tags`: a text with more tag marks than this is stuffed with them and says nothing.
    `several`: of several complete answers the last or the first is read, or none; strict form reads none.
    `no_answer`: a text without a complete answer says nothing, or is read as a whole (what follows its thought).
    `parsing`: lenient strips a code fence, and takes a single string or object in the place of a list as a list of
    one; exact does neither. `constants`: NaN and Infinity, which are not JSON. `duplicate_keys`: merge counts the
    values of all of them, so that none hides another; reject makes the JSON unreadable.
    `out_of_schema`: predictions of a type that was not asked for are false positives (count) or dropped (ignore).
    `casefold`: whether case is ignored; white space is always stripped and collapsed.
    `relation_keys`: how a relation's ends are called. `symmetric`: relations without a direction.
    """

    form: Literal["presence", "strict"] = "presence"
    max_tags: int = 16
    several: Literal["last", "first", "none"] = "last"
    no_answer: Literal["nothing", "whole"] = "nothing"
    parsing: Literal["exact", "lenient"] = "exact"
    constants: Literal["reject", "accept"] = "reject"
    duplicate_keys: Literal["merge", "reject"] = "merge"
    out_of_schema: Literal["count", "ignore"] = "count"
    casefold: bool = False
    relation_keys: Literal["both", "head_tail", "subject_object"] = "both"
    symmetric: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError that names the field and what it may be."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            allowed = get_args(hints[field.name])
            value = getattr(self, field.name)
            if allowed and all(isinstance(a, str) for a in allowed) and value not in allowed:
                raise ValueError(f"{field.name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.max_tags < 4:
            raise ValueError(f"max_tags must be at least 4, the tags of one good answer, got {self.max_tags}")
        if isinstance(self.symmetric, str):
            raise ValueError("symmetric must be a list of relation names")

    def read(self, completion: str, schema: Iterable[str] = ()) -> Prediction:
        """Read a completion. Never raises; what cannot be read is an empty prediction.

        `schema` is only looked at where `out_of_schema` is "ignore".
        """
        if len(completion) > MAX_TEXT:
            return Prediction(False, False, 0, None, problem=f"longer than {MAX_TEXT:,} characters")
        marks = list(_TAG.finditer(completion))
        if len(marks) > self.max_tags:
            return Prediction(False, False, len(marks), None, problem=f"{len(marks)} tags")
        thoughts, answers = _pairs(completion, marks, "think"), _pairs(completion, marks, "answer")
        think, answer = bool(thoughts), bool(answers)
        if self.form == "strict":
            think = answer = _strictly_formed(completion, marks)
        text = self._answer_text(completion, answers)
        if text is None:
            problem = "several answers" if answers else "no complete <answer>"
            return Prediction(think, answer, len(marks), None, problem=problem)
        try:
            value = self._parse(text)
        except RecursionError:
            return Prediction(think, answer, len(marks), None, problem="nested too deeply")
        except ValueError as error:
            return Prediction(think, answer, len(marks), None, problem=f"not JSON: {error}")
        if not isinstance(value, dict):
            problem = f"JSON, but {type(value).__name__} instead of an object"
            return Prediction(think, answer, len(marks), "other", problem=problem)
        items = self.items(value)
        if self.out_of_schema == "ignore":
            known = {self._text(label) for label in schema}
            items = frozenset(item for item in items if item[0] in known)
        return Prediction(think, answer, len(marks), "object", items)

    def items(self, labels: Mapping[str, Any]) -> frozenset[Item]:
        """The set of items of `{type: [text, …]}` or `{relation: [{head, tail}, …]}`.

        Whatever has another shape is left out: keys without a list, list entries that are neither text nor a pair,
        texts of blanks only. The string entries are entities and the objects relations, whatever was asked for.
        """
        found: set[Item] = set()
        for label, value in labels.items():
            for one in value if isinstance(value, _Repeated) else (value,):
                if isinstance(one, str | dict) and self.parsing == "lenient":
                    one = [one]
                if isinstance(one, list | tuple):
                    found.update(item for entry in one if (item := self._item(label, entry)))
        return frozenset(found)

    def _item(self, label: str, entry: object) -> Item | None:
        label = self._text(label)
        if isinstance(entry, str):
            text = self._text(entry)
            return (label, text) if text else None
        if not isinstance(entry, dict):
            return None
        head, tail = self._ends(entry)
        if not (isinstance(head, str) and isinstance(tail, str)):
            return None
        head, tail = self._text(head), self._text(tail)
        if not head or not tail:
            return None
        if label in map(self._text, self.symmetric):
            head, tail = sorted((head, tail))
        return label, head, tail

    def _ends(self, entry: Mapping[str, Any]) -> tuple[object, object]:
        if self.relation_keys != "subject_object" and ("head" in entry or self.relation_keys == "head_tail"):
            return entry.get("head"), entry.get("tail")
        return entry.get("subject"), entry.get("object")

    def _text(self, text: str) -> str:
        text = " ".join(text.split())
        return text.casefold() if self.casefold else text

    def _answer_text(self, completion: str, answers: list[str]) -> str | None:
        if not answers:
            return completion.rpartition("</think>")[2] if self.no_answer == "whole" else None
        if len(answers) > 1 and (self.several == "none" or self.form == "strict"):
            return None
        return answers[0 if self.several == "first" else -1]

    def _parse(self, text: str) -> Any:
        text = text.strip()
        if self.parsing == "lenient" and text.startswith(_FENCE) and text.endswith(_FENCE):
            text = text[len(_FENCE) : -len(_FENCE)].lstrip(ascii_letters)
        constant = _refuse_constant if self.constants == "reject" else None
        return json.loads(text, object_pairs_hook=self._object, parse_constant=constant)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        if self.duplicate_keys == "reject":
            raise _RefusedError("a key stands in an object twice")
        all_values: dict[str, list[Any]] = {}
        for key, one in pairs:
            all_values.setdefault(key, []).append(one)
        return {key: ones[0] if len(ones) == 1 else _Repeated(ones) for key, ones in all_values.items()}


def is_empty(gold: Gold) -> bool:
    """Whether there is nothing to find."""
    return not any(gold.values())


def entities(items: frozenset[Item]) -> frozenset[Item]:
    """The entities among the items."""
    return frozenset(item for item in items if len(item) == 2)


def relations(items: frozenset[Item]) -> frozenset[Item]:
    """The relations among the items."""
    return frozenset(item for item in items if len(item) == 3)


def unlabelled(items: frozenset[Item]) -> frozenset[tuple[str, ...]]:
    """The items without their types: what was found, whatever it was called."""
    return frozenset(item[1:] for item in items)


def overlap(gold: frozenset[Any], pred: frozenset[Any]) -> Counts:
    """Counts of two sets."""
    return Counts(len(gold), len(pred), len(gold & pred))


def _pairs(completion: str, marks: list[re.Match[str]], tag: str) -> list[str]:
    """The insides of complete pairs, each from the opening tag nearest to its closing tag."""
    found: list[str] = []
    start: int | None = None
    for mark in marks:
        if mark[0] == f"<{tag}>":
            start = mark.end()
        elif mark[0] == f"</{tag}>" and start is not None:
            found.append(completion[start : mark.start()])
            start = None
    return found


def _strictly_formed(completion: str, marks: list[re.Match[str]]) -> bool:
    if [mark[0] for mark in marks] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    _, end, begin, last = marks
    around = completion[: marks[0].start()] + completion[end.end() : begin.start()] + completion[last.end() :]
    return not around.strip()


def _refuse_constant(name: str) -> Any:
    raise _RefusedError(f"{name} is not JSON")
