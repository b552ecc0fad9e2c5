"""Entities and relations as sets of items, read from gold and model text.

The reward and the task's metrics are both an `AnswerReader`, so they cannot disagree. Its fields are the choices that
published scorers make differently; docs/ie.md says which scorer needs which. Nothing here raises on any text, and every
step is linear in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args, get_type_hints
from unicodedata import normalize

from adapters.rewards.grounding import needed
from adapters.types import Counts, OldParameters

Item = tuple[str, str] | tuple[str, str, str]
"""An entity as (type, text), or a relation as (relation, head, tail)."""

Gold = Mapping[str, Any]
"""The labels of a text: {type: [text, …]} or {relation: [{"head", "tail"}, …]}; its keys are the schema."""

MAX_TEXT = 1_000_000
"""Longer completions are not read; 4,096 tokens are under 20,000 characters."""

MAX_TAGS = 16
"""A text with more tags than this counts as empty: repeated tags are a way to game the reward."""

_TAG = re.compile("</?(?:think|answer)>")


class _Repeated(tuple[Any, ...]):
    """The values of a key that an object holds several times."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A completion as it was read.

    `think` and `answer` tell whether the tags earn their part of the reward, `tags` is the number of tags.
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
class AnswerReader:
    """Reads entities and relations from a completion.

    `tags`: `presence` asks for a complete pair of tags anywhere; `strict` for exactly one pair of each, think first,
    and nothing around them. `missing_answer`: a text without a complete answer is empty (`nothing`), or what follows
    its thought is read (`whole`). `casefold`: ignore case; white space is always stripped and collapsed, and
    canonically equal Unicode (one accented letter, or a letter and its mark) is the same text.
    `relation_keys`: the names of a relation's ends. `symmetric`: relations without a direction. `grounded`: an item
    whose text, or an end of which, is not in the row's text (see `grounding`) is a false positive, whatever gold says.

    The same for every scorer: of several complete answers the last is read (none if `tags` is strict); a code fence,
    NaN and Infinity are not JSON; a key that stands twice has the values of both; a value that is no list is left out;
    a label outside the schema is a false positive.
    """

    tags: Literal["presence", "strict"] = "presence"
    missing_answer: Literal["nothing", "whole"] = "nothing"
    casefold: bool = False
    relation_keys: Literal["both", "head_tail", "subject_object"] = "both"
    symmetric: tuple[str, ...] = ()
    grounded: bool = False
    old_parameters: ClassVar[OldParameters] = {"form": ("tags", {}), "no_answer": ("missing_answer", {})}

    def __post_init__(self) -> None:
        """Raises ValueError that names the field and what it may be."""
        hints = get_type_hints(type(self))
        for field in fields(self):
            allowed = get_args(hints[field.name])
            value = getattr(self, field.name)
            if allowed and all(isinstance(a, str) for a in allowed) and value not in allowed:
                raise ValueError(f"{field.name} must be one of {', '.join(allowed)}, got {value!r}")
        if isinstance(self.symmetric, str):
            raise ValueError("symmetric must be a list of relation names")
        if not isinstance(self.grounded, bool):
            raise ValueError(f"grounded must be true or false, got {self.grounded!r}")

    def read(self, completion: str) -> Prediction:
        """Read a completion. Never raises; what cannot be read is an empty prediction."""
        if len(completion) > MAX_TEXT:
            return Prediction(False, False, 0, None, problem=f"longer than {MAX_TEXT:,} characters")
        marks = list(_TAG.finditer(completion))
        if len(marks) > MAX_TAGS:
            return Prediction(False, False, len(marks), None, problem=f"{len(marks)} tags")
        thoughts, answers = _pairs(completion, marks, "think"), _pairs(completion, marks, "answer")
        think, answer = bool(thoughts), bool(answers)
        if self.tags == "strict":
            think = answer = _strictly_formed(completion, marks)
        text = self._answer_text(completion, answers)
        if text is None:
            problem = "several answers" if answers else "no complete <answer>"
            return Prediction(think, answer, len(marks), None, problem=problem)
        try:
            value = json.loads(text.strip(), object_pairs_hook=_object, parse_constant=_refuse_constant)
        except RecursionError:
            return Prediction(think, answer, len(marks), None, problem="nested too deeply")
        except ValueError as error:
            return Prediction(think, answer, len(marks), None, problem=f"not JSON: {error}")
        if not isinstance(value, dict):
            problem = f"JSON, but {type(value).__name__} instead of an object"
            return Prediction(think, answer, len(marks), "other", problem=problem)
        return Prediction(think, answer, len(marks), "object", self.items(value))

    def items(self, labels: Mapping[str, Any]) -> frozenset[Item]:
        """The set of items of `{type: [text, …]}` or `{relation: [{head, tail}, …]}`.

        Whatever has another shape is left out: keys without a list, list entries that are neither text nor a pair,
        texts of blanks only. The string entries are entities and the objects relations, whatever was asked for.
        """
        items: set[Item] = set()
        for label, value in labels.items():
            for entries in value if isinstance(value, _Repeated) else (value,):
                if isinstance(entries, list | tuple):
                    items.update(item for entry in entries if (item := self._item(label, entry)))
        return frozenset(items)

    def findable(self, items: frozenset[Item], text: object) -> frozenset[Item]:
        """The predicted items that may count as found. Raises ValueError if `grounded` and there is no text."""
        if not self.grounded:
            return items
        within = needed(text)
        return frozenset(item for item in items if all(map(within.has, item[1:])))

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
        text = text.casefold() if self.casefold else text
        return text if text.isascii() else normalize("NFC", text)

    def _answer_text(self, completion: str, answers: list[str]) -> str | None:
        if not answers:
            return completion.rpartition("</think>")[2] if self.missing_answer == "whole" else None
        return None if len(answers) > 1 and self.tags == "strict" else answers[-1]


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
    """The items without their types."""
    return frozenset(item[1:] for item in items)


def overlap(gold: frozenset[Any], pred: frozenset[Any], findable: frozenset[Any]) -> Counts:
    """Counts of two sets, and those of the second that may count as found."""
    return Counts(len(gold), len(pred), len(gold & findable))


def _pairs(completion: str, marks: list[re.Match[str]], tag: str) -> list[str]:
    """The insides of complete pairs, from the opening tag nearest to a closing one."""
    insides: list[str] = []
    start: int | None = None
    for mark in marks:
        if mark[0] == f"<{tag}>":
            start = mark.end()
        elif mark[0] == f"</{tag}>" and start is not None:
            insides.append(completion[start : mark.start()])
            start = None
    return insides


def _strictly_formed(completion: str, marks: list[re.Match[str]]) -> bool:
    if [mark[0] for mark in marks] != ["<think>", "</think>", "<answer>", "</answer>"]:
        return False
    _, end, begin, last = marks
    around = completion[: marks[0].start()] + completion[end.end() : begin.start()] + completion[last.end() :]
    return not around.strip()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    decoded = dict(pairs)
    if len(decoded) == len(pairs):
        return decoded
    values: dict[str, list[Any]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: same[0] if len(same) == 1 else _Repeated(same) for key, same in values.items()}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
