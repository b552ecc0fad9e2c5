"""The confidence of a record and of its strings: signals from the model's answers, and the adapter's calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from adapters.errors import UserError
from adapters.evaluation import answer_values, picking
from adapters.evaluation.calibration import FILE, Calibration, Signals, probability
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import Answer
from adapters.extraction.sure_record import says_something, without
from adapters.files import read_json
from adapters.rewards.grounding import fold
from adapters.types import Example

DIGITS: Final = 3
TOKENS: Final = "tokens"
_ABOUT: Final = ("words", "in text", "absent", "field=")
CHOICES: Final[dict[bool, dict[str, dict[str, tuple[str, ...]]]]] = {
    True: {
        "values": {
            **{name: (name,) for name in ("mean", "min", "sum")},
            "some": ("mean", "first", "answer", "field="),
            "all": ("mean", "min", "sum", "lead", "first", "answer", *_ABOUT),
        },
        "rows": {
            **{name: (name,) for name in ("mean", "min", "sum")},
            "all": ("mean", "min", "sum", "values", "absent"),
        },
    },
    False: {
        "values": {"share": ("share",), "all": ("share", "first", "whole", *_ABOUT)},
        "rows": {"whole": ("whole",), "all": ("whole", "share", "values", "absent")},
    },
}
"""Sets of signals between which a calibration chooses, of single answers (True) and of a vote."""
_NUMBER: Final = {"type": "number"}
_LOST: Final = {"path": {"type": "string"}, "value": {"type": "string"}, "confidence": _NUMBER}
_UNSURE: Final = {"type": "array", "items": {"type": "object", "properties": _LOST}}


def way_of(samples: int, pick: str, temperature: float, constrain: str = "off") -> str:
    """The name of a way of answering, of which each has a calibration of its own."""
    way = TOKENS if samples == 1 else f"{pick} of {samples} at {temperature:g}"
    return f"{way}, words of the text" if constrain == "source" else way


_Sure = tuple[list[dict[str, Any]], float | None]
"""Spans with their confidence, and the confidence of the whole."""


class Told(NamedTuple):
    """What the answers to a row say of its values and of the whole; `raw` are probabilities before calibration."""

    values: list[Signals]
    whole: Signals
    raw_values: list[float]
    raw_whole: float


def told(task: Any, answer: Answer, spans: Sequence[Mapping[str, Any]], text: Any) -> Told | None:
    """The signals of an answer whose record has these `spans`; None where the engine gives none."""
    absent = float(any(span["match"] == "absent" for span in spans))
    about = {"values": float(len(spans)), "absent": absent}
    known = [answer_values.span_signals(span) for span in spans]
    at = answer_values.places(answer.text, [span["value"] for span in spans])
    if answer.scores is not None:
        values = _with_first(answer_values.token_signals(answer.scores, at), spans, "mean")
        whole = answer_values.answer_signals(answer.scores)
        raw = [probability(of_value["mean"]) for of_value in values]
        return Told(_joined(values, known), {**whole, **about}, raw, probability(whole["sum"]))
    if not answer.samples:
        return None
    shares, agreeing = _votes(task, answer, at, text)
    mean = sum(shares) / len(shares) if shares else agreeing
    values = _with_first([{"share": share, "whole": agreeing} for share in shares], spans, "share")
    return Told(_joined(values, known), {"whole": agreeing, "share": mean, **about}, shares, agreeing)


def _with_first(values: Sequence[Signals], spans: Sequence[Mapping[str, Any]], name: str) -> list[Signals]:
    """With `first`, a signal of the first value of the same item, to which the others belong: an award's funder."""
    items = [span["path"].partition(".")[0] for span in spans]
    first = {item: of_value[name] for item, of_value in reversed(list(zip(items, values, strict=True)))}
    return [{**of_value, "first": first[item]} for item, of_value in zip(items, values, strict=True)]


def _joined(left: Sequence[Signals], right: Sequence[Signals]) -> list[Signals]:
    return [{**a, **b} for a, b in zip(left, right, strict=True)]


def _votes(task: Any, answer: Answer, at: Sequence[answer_values.Place | None], text: Any) -> tuple[list[float], float]:
    """The share of the samples that have each value, and of those that agree with the whole answer.

    The task's own counts compare, with the other sample in the place of gold. The picked answer is one of the samples.
    """
    votes, agreeing = [0] * len(at), 0
    task = picking.ungrounded(task)
    for sample in answer.samples:
        if (gold := picking.as_gold(task, sample)) is None:
            continue
        example = Example("", "", (), gold=gold[0], meta={"text": text})
        agrees = answer_values.whole_is_right(answer_values.matched(task, example, answer.text))
        agreeing += agrees
        for n, found in enumerate(answer_values.verdicts(task, example, answer.text, at)):
            votes[n] += agrees if found is None else found
    return [count / len(answer.samples) for count in votes], agreeing / len(answer.samples)


def _said(span: Mapping[str, Any]) -> tuple[str, str]:
    """What makes two values of parts one: the field, and the text as the merge of records compares it."""
    return answer_values.field_of(span["path"]), fold(span["value"])


@dataclass(frozen=True)
class Confidence:
    """Adds confidence to lines of an output; with `least`, leaves out what is less sure."""

    task: Any
    way: str
    values: Calibration
    rows: Calibration | None
    made: Mapping[str, Any]
    least: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the column, for the manifest."""
        return {"calibration": self.made, "way": self.way, "least": self.least}

    def columns(self, spans: Mapping[str, Any]) -> dict[str, Any]:
        """JSON schemas of the columns that it adds, and of the one that it changes, `spans`."""
        of_one = spans["items"]
        properties = {**of_one["properties"], "confidence": _NUMBER}
        columns = {"spans": {**spans, "items": {**of_one, "properties": properties}}, "confidence": _NUMBER}
        return columns if self.least is None else {**columns, "unsure": _UNSURE}

    def added(self, line: dict[str, Any], answer: Answer, text: Any) -> dict[str, Any]:
        """The line with `confidence`, of its spans and of the whole; with `least` also `unsure`, what was left out."""
        return self._line(line, self._sure(line, answer, text), answer.text)

    def of_parts(self, line: dict[str, Any], parts: Sequence[tuple[dict[str, Any], Answer, Any]]) -> dict[str, Any]:
        """The line of a text that was asked about in parts, each a line, its answer and its text.

        A value of a field is as sure as in the part that is surest of it. The whole is as sure as the least sure part;
        null where a part has no record, because the whole is not complete then.
        """
        told_apart = [self._sure(*part) for part in parts]
        known = [sure for sure in told_apart if sure is not None]
        if line["spans"] is None or not known:
            return self._line(line, None, "")
        values: dict[tuple[str, str], float] = {}
        for span in (span for spans, _ in known for span in spans):
            values[_said(span)] = max(span["confidence"], values.get(_said(span), 0.0))
        lowest = min(values.values(), default=0.0)
        spans = [{**span, "confidence": values.get(_said(span), lowest)} for span in line["spans"]]
        wholes = [whole for _, whole in known if whole is not None]
        whole = min(wholes) if len(wholes) == len(parts) else None
        return self._line(line, (spans, whole), "\n".join(answer.text for _, answer, _ in parts))

    def _sure(self, line: Mapping[str, Any], answer: Answer, text: Any) -> _Sure | None:
        spans = line["spans"]
        if spans is None or (signals := told(self.task, answer, spans, text)) is None:
            return None
        sure = [round(p, DIGITS) for p in (self.values(signals.values) if spans else ())]
        whole = None if self.rows is None else round(self.rows([signals.whole])[0], DIGITS)
        return [{**span, "confidence": p} for span, p in zip(spans, sure, strict=True)], whole

    def _line(self, line: dict[str, Any], sure: _Sure | None, completion: str) -> dict[str, Any]:
        line = {**line, "confidence": None} | ({} if self.least is None else {"unsure": None})
        if sure is None:
            return line
        line |= {"spans": sure[0], "confidence": sure[1]}
        return line if self.least is None else self._sure_part(line, completion)

    def _sure_part(self, line: dict[str, Any], completion: str) -> dict[str, Any]:
        spans, least = line["spans"], round(self.least or 0.0, DIGITS)
        unsure = {span["path"] for span in spans if span["confidence"] < least}
        record, moved = without(line["record"], unsure, self.task.record_schema())
        kept = [{**span, "path": moved[span["path"]]} for span in spans if span["path"] in moved]
        lost = [{name: span[name] for name in _LOST} for span in spans if span["path"] not in moved]
        line |= {"unsure": lost}
        if not unsure or says_something(record):
            return {**line, "record": record, "spans": kept}
        best = max(span["confidence"] for span in spans)
        error = f"unsure: none of its values has a confidence of {least:g} (the highest: {best:g})"
        if best >= least:
            error = f"unsure: what its other values belong to has no confidence of {least:g}"
        return {**line, "record": None, "spans": None, "error": error, "completion": completion}


def stored(folder: Path, weights: str) -> dict[str, Any]:
    """The calibrations of an adapter by way of answering; empty for a file of other weights, or none."""
    value = read_json(folder / FILE)
    ways = value.get("ways")
    return ways if isinstance(ways, dict) and value.get("adapter") == weights else {}


def of_adapter(source: Source, way: str, least: float | None, *, grounded: bool = True) -> Confidence | None:
    """The adapter's calibration for a way of answering; None without one, which `least` refuses. Raises UserError."""
    if least is not None and not grounded:
        raise UserError("--min-confidence needs the places of the strings; leave out --grounded off.")
    ways = stored(source.adapter, source.weights)
    if way not in ways:
        if least is None:
            return None
        others = f" (it has one for: {', '.join(ways)})" if ways else ""
        stale = (source.adapter / FILE).is_file() and not ways
        of = "other weights than the adapter's" if stale else f"answers by {way}"
        fault = f"{source.adapter / FILE} is of {of}" if stale else f"the adapter has no calibration for {of}{others}"
        raise UserError(f"--min-confidence: {fault}; make one with `adapters calibrate`.")
    if not grounded:
        return None
    try:
        values, rows = ways[way]["values"], ways[way]["rows"]
        read = Calibration.read(values), rows and Calibration.read(rows)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{source.adapter / FILE} is damaged; make it again with `adapters calibrate`.") from None
    return Confidence(source.task, way, *read, made=ways[way].get("made", {}), least=least)
