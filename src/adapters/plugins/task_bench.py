"""Test a task: all that it promises, tried on rows of its own before anything is trained.

Every method is called on the gold answer, the empty one, and text that no task expects: garbage, lone surrogates, NUL,
100 kB, deep nesting, NaN, and the gold answer with other types in it. `counts` must give gold an F of 1 and the
answer that finds nothing 0, and must not count anything where there is nothing. Fields that a task names in
`form_fields` are checks of an answer's form instead of labelled values: gold may fail them.

No call may take more than `task_calls.LIMIT` seconds: a timer (SIGALRM) interrupts what runs in Python. There is no
timer on Windows and outside the main thread, and none that ends a call inside a C extension.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

from adapters.errors import KeyPath, UserError, hint
from adapters.plugins.rewards import GARBAGE
from adapters.plugins.task_calls import own_rows, say, time_limit
from adapters.types import Aligned, Counts, Example, Extracting, Row, Task, counts_of, grounding_text

ROWS = 20
LATER_ROWS = 5
"""Rows of each further source of a recipe."""
SECONDS = 20.0
"""After this time no further row of `ROWS` is begun; more rows have more time."""
KINDS = ("exact", "fixed", "id", "name", "scheme", "title")
"""Kinds of labels that the noise policies know."""
LONG = 100_000
METHODS = {
    "example": "row",
    "gold": "row",
    "labels": "row",
    "counts": "gold, completion",
    "is_well_formed": "completion",
}
HOSTILE = {
    "empty text": "",
    "garbage": GARBAGE,
    "a lone surrogate": '["\ud800"]',
    "NUL": '["\0"]',
    "NaN": "[NaN, Infinity, 1e999]",
    "JSON null": "null",
    "a JSON number": "17",
    "JSON of other types": '[null, 1, [], {}, {"a": [null]}, "x"]',
    "a JSON object of other types": '{"a": null, "b": 1, "c": [[]], "d": {"e": {}}}',
    "nested JSON": "[" * 900 + "]" * 900,
}
HUGE = {
    "100 kB of one letter": "a" * LONG,
    "100 kB of brackets": "[" * LONG,
    "100 kB of objects": '{"a":' * (LONG // 5),
}
TOLERANCE = 1e-9
_FAILED = object()


@dataclass
class TaskTest:
    """Result of testing a task: with `errors` nothing should be trained, `warnings` are for its author."""

    name: str
    rows: int = 0
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_is_task(task: Any, name: str, at: KeyPath = ()) -> None:
    """Raise UserError for what has not the parts of a task, such as a reward."""
    missing = [f"{method}({takes})" for method, takes in METHODS.items() if not callable(getattr(task, method, None))]
    if not isinstance(getattr(task, "text_field", None), str):
        missing.insert(0, "text_field")
    if not missing:
        return
    if len(missing) > len(METHODS) // 2:
        kind = "a function" if not hasattr(type(task), "__dataclass_fields__") and hasattr(task, "__code__") else None
        kind = kind or ("a reward" if callable(task) else None)
        is_no = f"is {kind} and no task" if kind else "is no task"
        raise UserError(f"{name} {is_no}: it has no {', '.join(missing[:-1])} and {missing[-1]}.", at=at)
    raise UserError(f"the task {name} has no {' and no '.join(missing)}.", at=at)


def try_task(task: Task, name: str, rows: Sequence[tuple[Row, Example]]) -> TaskTest:
    """Try every method of a task on rows and on their examples. Pairs of the recipe's own form are left out."""
    pairs = [(row, example) for row, example in rows if example.rejected is None]
    trial = _Trial(task, TaskTest(name, len(pairs)))
    start, seconds = time.monotonic(), SECONDS * max(1, len(pairs) / ROWS)
    for n, (row, example) in enumerate(pairs):
        if (taken := time.monotonic() - start) > seconds:
            trial.result.rows = n
            trial.result.warnings.append(
                f"the task {name}: tried on {n} of {len(pairs)} rows, which took {taken:.0f} s"
            )
            break
        trial.row(row, example, first=n == 0)
    return trial.result


class _Trial:
    """The calls of a test; of each method the first fault of a kind is noted."""

    def __init__(self, task: Task, result: TaskTest) -> None:
        self.task, self.result = task, result
        self.id = ""
        self.fields: Mapping[str, Sequence[str]] | None = None
        self.form_fields = frozenset(getattr(task, "form_fields", ()))
        self._noted: set[tuple[str, str]] = set()

    def row(self, row: Row, example: Example, *, first: bool) -> None:
        """Everything on one row; what depends on the row little, on the first alone."""
        self.id = example.id
        self._gold(row, example)
        self._labels(row)
        empty = self._empty_answer(example)
        texts = _texts(example, empty) | (HUGE if first else {})
        if example.completion is None:
            self._no_completion(example)
        gold = self._counts(example, "gold", example.completion) if example.completion is not None else None
        for what, text in texts.items():
            well_formed = self._call("is_well_formed", what, partial(self.task.is_well_formed, text))
            self._well_formed(what, well_formed)
            self._judge(what, gold if what == "gold" else self._counts(example, what, text))
        for what in ("gold", "empty text", "garbage", "a lone surrogate", "JSON of other types", "nested JSON"):
            self._align(example, what, texts.get(what, ""))
        self._adversarial(example)
        if isinstance(self.task, Extracting):
            self._extract(row, example, texts)
        if first:
            self._other_rows(row)
            bare = replace(example, gold=[])
            self._call("counts", "a prediction without gold ([])", lambda: counts_of(self.task, bare, ""), mild=True)

    def fault(self, method: str, kind: str, text: str, *, mild: bool = False) -> None:
        """Note a fault of a method, unless one of its kind stands there."""
        if (method, kind) not in self._noted:
            self._noted.add((method, kind))
            sentence = f"the task {self.result.name}: {method} {text}"
            (self.result.warnings if mild else self.result.errors).append(sentence)

    def _call(self, method: str, what: str, call: Callable[[], Any], *, may: bool = False, mild: bool = False) -> Any:
        """The result, or _FAILED. With `may`, ValueError is an answer."""
        with time_limit(f"the task {self.result.name}: {method}", f"{what} of row {self.id!r}"):
            try:
                return call()
            except (Exception, SystemExit) as error:
                if not (may and isinstance(error, ValueError)):
                    self.fault(method, "fails", f"fails on {what} of row {self.id!r}: {say(error)}", mild=mild)
        return _FAILED

    def _gold(self, row: Row, example: Example) -> None:
        gold = self._call("gold", "the labels", lambda: self.task.gold(row))
        if gold is not _FAILED and not _same(gold, example.gold):
            self.fault("gold", "differs", f"returns another value than example's gold for row {self.id!r}")

    def _no_completion(self, example: Example) -> None:
        """A row without labels may lack its target."""
        counts = self._counts(example, "empty text", "") or {}
        if labelled := sum(c.gold for (_, name), c in counts.items() if name not in self.form_fields):
            text = f"gives no completion, which SFT trains on, for row {self.id!r} with {labelled:g} labelled values"
            self.fault("example", "completion", text)

    def _labels(self, row: Row) -> None:
        labels = self._call("labels", "the labels", lambda: list(self.task.labels(row)))
        for label in () if labels is _FAILED else labels:
            parts = label if isinstance(label, tuple) and len(label) == 3 else (None, None, None)
            path, kind, text = parts
            if not (isinstance(path, tuple) and isinstance(kind, str) and isinstance(text, str)):
                self.fault("labels", "type", f"gives {label!r} for row {self.id!r}, not Label(path, kind, text)")
                continue
            if kind not in KINDS:
                known = hint(kind, KINDS).strip() or f"Known: {', '.join(KINDS)}."
                self.fault("labels", "kind", f"gives the unknown kind {kind!r} for row {self.id!r}. {known[:-1]}")
            if path:
                self._place(row, path, text)

    def _place(self, row: Row, path: tuple[Any, ...], text: str) -> None:
        """Whether a label stands where noise would write it anew."""
        value: Any = row
        try:
            for step in path:
                value = value[step]
        except (LookupError, TypeError):
            self.fault("labels", "path", f"gives the path {path!r} for row {self.id!r}, which has nothing there")
            return
        if str(value).split() != text.split():
            shown = f"gives the text {text!r} for row {self.id!r}, which has {value!r} at {path!r}"
            self.fault("labels", "text", shown)

    def _empty_answer(self, example: Example) -> str | None:
        make = getattr(self.task, "empty_answer", None)
        empty = self._call("empty_answer", "the example", lambda: make(example)) if make else None
        if make and empty is not _FAILED and not isinstance(empty, str):
            self.fault("empty_answer", "type", f"returns {type(empty).__name__} for row {self.id!r}, not a text")
        return empty if isinstance(empty, str) else None

    def _well_formed(self, what: str, value: Any) -> None:
        if value is _FAILED:
            return
        if not isinstance(value, bool):
            text = f"returns {type(value).__name__} for {what} of row {self.id!r}, not True or False"
            self.fault("is_well_formed", "type", text)
        elif what in ("gold", "the empty answer") and not value:
            self.fault("is_well_formed", what, f"is False for {what} of row {self.id!r}")

    def _counts(self, example: Example, what: str, text: str) -> dict[tuple[str, str], Counts] | None:
        counts = self._call("counts", what, lambda: counts_of(self.task, example, text))
        if counts is _FAILED:
            return None
        try:
            flat = {(mode, name): Counts(*c) for mode, fields in counts.items() for name, c in fields.items()}
            sound = bool(flat) and all(
                math.isfinite(n) and n >= 0 for c in flat.values() for n in c
            )  # a value that is no number raises TypeError
        except (TypeError, AttributeError, ValueError):
            flat, sound = {}, False
        where = f"for {what} of row {self.id!r}"
        if not sound:
            shown = str(counts)
            shown = shown if len(shown) <= 100 else f"{shown[:100]}…"
            self.fault("counts", "type", f"gives {shown} {where}, not {{mode: {{field: Counts}}}} of finite numbers")
            return None
        for (_, name), c in flat.items():
            if c.matched > min(c.gold, c.pred) + TOLERANCE:
                text = f"matches {c.matched:g} of {c.gold:g} labelled and {c.pred:g} predicted values in {name} {where}"
                self.fault("counts", "more", text)
        fields: dict[str, list[str]] = {}
        for mode, name in flat:
            fields.setdefault(mode, []).append(name)
        self.fields = self.fields or fields
        if {k: set(v) for k, v in fields.items()} != {k: set(v) for k, v in self.fields.items()}:
            self.fault("counts", "fields", f"has other modes or fields {where} than before: {_list(fields)}")
            return None
        self._modes(fields)
        return flat

    def _judge(self, what: str, counts: Mapping[tuple[str, str], Counts] | None) -> None:
        """Whether an answer counts as it should in the fields of labelled values."""
        for (mode, name), c in (counts or {}).items():
            if name in self.form_fields:
                continue
            where = f"{what} of row {self.id!r}"
            shown = f"{c.gold:g} labelled, {c.pred:g} predicted, {c.matched:g} matched in {name} ({mode})"
            # With `grounded`, a label that its text does not hold cannot be found.
            may_miss = getattr(self.task, "grounded", False)
            whole = abs(c.gold - c.matched) < TOLERANCE and abs(c.pred - c.matched) < TOLERANCE
            if what == "gold" and not (may_miss or whole):
                self.fault("counts", what, f"gives {where} less than F = 1: {shown}")
            elif what in ("the empty answer", "empty text") and (c.matched > 0 or (c.pred > 0 and not c.gold)):
                self.fault("counts", what, f"finds something in {where}: {shown}")
            elif what == "garbage" and c.gold and c.matched >= max(c.gold, c.pred) - TOLERANCE:
                self.fault("counts", what, f"gives {where} F = 1: {shown}")

    def _modes(self, fields: Mapping[str, Sequence[str]]) -> None:
        modes = getattr(self.task, "modes", None)
        if modes is not None and (unknown := [mode for mode in fields if mode not in modes]):
            self.fault("modes", "lacks", f"says nothing about the matching mode {unknown[0]!r} of counts", mild=True)

    def _align(self, example: Example, what: str, text: str) -> None:
        align = getattr(self.task, "align", None)
        if align is None:
            return
        call = partial(align, example.gold, text, **grounding_text(self.task, example.meta.get("text")))
        rows = self._call("align", what, lambda: [Aligned(*row) for row in call()], mild=True)
        if rows is not _FAILED and any(not isinstance(row.field, str) for row in rows):
            self.fault("align", "type", f"gives rows without a field's name for {what} of row {self.id!r}", mild=True)

    def _adversarial(self, example: Example) -> None:
        make = getattr(self.task, "adversarial", None)
        wrong = self._call("adversarial", "the example", lambda: dict(make(example))) if make else {}
        if wrong is not _FAILED and not all(isinstance(part, str) for item in wrong.items() for part in item):
            self.fault("adversarial", "type", f"must give texts by their names for row {self.id!r}")

    def _extract(self, row: Row, example: Example, texts: Mapping[str, str]) -> None:
        task: Any = self.task
        own = getattr(task, "decode", None)
        bare = {key: value for key, value in row.items() if key in (task.text_field, *_request_fields(task))}
        self._call("request", "the text", lambda: task.request(bare), may=True)
        for what, text in texts.items():
            may = what != "gold"
            answer = self._call("decode", what, partial(own, text), may=may) if own else _parse(text)
            if answer is not _FAILED:
                self._call("record", what, partial(task.record, answer), may=may)
        for method in ("answer_schema", "record_schema"):
            schema = self._call(method, "the task", getattr(task, method))
            if schema is not _FAILED and not (isinstance(schema, dict) or (schema is None and method[0] == "a")):
                self.fault(method, "type", f"returns {type(schema).__name__}, not a JSON schema")

    def _other_rows(self, row: Row) -> None:
        """Rows that no file should have, the task's own example rows, and its other prompts."""
        for what, text in (*HOSTILE.items(), ("no text", None), ("a number for the text", 3)):
            bad = {**row, self.task.text_field: text}
            self._call("example", f"{what} in {self.task.text_field}", partial(self.task.example, bad), may=True)
        for method in ("example", "gold"):
            read = getattr(self.task, method)
            self._call(method, "no columns at all in place", partial(read, {}), may=True, mild=True)
        for own in own_rows(self.task):
            self._call("example_rows", "its own row in place", partial(self.task.example, own))
        if rephrase := getattr(self.task, "rephrase", None):
            self._call("rephrase", "n = 1 in place", lambda: rephrase(1).example(row))
        if vary := getattr(self.task, "vary", None):
            self._call("vary", "the labels", lambda: self.task.example(vary(row, Random(0))))


def _texts(example: Example, empty: str | None) -> dict[str, str]:
    gold = example.completion
    texts = {} if gold is None else {"gold": gold}
    texts |= {} if empty is None else {"the empty answer": empty}
    texts |= HOSTILE
    if gold is None:
        return texts
    texts |= {"half of gold": gold[: len(gold) // 2], "gold in a fence": f"```json\n{gold}\n```"}
    value = _parse(gold)
    if value is _FAILED:
        return texts
    leaves: dict[str, Any] = {"null": None, "numbers": 1.5, "lists": [], "objects": {}, "NaN": math.nan}
    for what, leaf in leaves.items():
        texts[f"gold with {what} for its texts"] = json.dumps(_with_leaves(value, leaf))
    return texts


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _FAILED


def _with_leaves(value: Any, leaf: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_leaves(item, leaf) for key, item in value.items()}
    return [_with_leaves(item, leaf) for item in value] if isinstance(value, list) else leaf


def _request_fields(task: Any) -> Sequence[str]:
    return tuple(getattr(task, "request_fields", ()))


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:  # values of a plug-in, such as arrays
        return True


def _list(fields: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{mode}: {' '.join(map(str, names))}" for mode, names in fields.items())
