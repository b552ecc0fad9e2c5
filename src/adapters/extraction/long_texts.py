"""Rows whose texts are asked about in parts: their requests, and one line of all their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.extraction import grounding
from adapters.extraction.chunks import Cutter, Place, Prompt
from adapters.extraction.confidence import Confidence
from adapters.extraction.engine import Answer, Request
from adapters.tasks import merging

Line = dict[str, Any]


@dataclass
class Asked:
    """A row that waits for answers. `parts` are the places of its text with the pass that asks, from 0."""

    start: Line
    text: Any
    parts: Sequence[tuple[int, Place]]
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass
class OpenRows:
    """The rows that wait for answers. Part n of row r is the request r + n * `total`, so that each has its number."""

    total: int
    cutter: Cutter | None = None
    waiting: dict[int, Asked] = field(default_factory=dict)

    def requests(self, start: Line, text: Any, prompt: Prompt, ask: Callable[[str], Prompt]) -> Iterator[Request]:
        """The requests of a row. `prompt` is that of the whole text, `ask` makes those of its parts."""
        number = start["row"]
        whole = (0, len(text)) if isinstance(text, str) else (0, 0)
        passes = self.cutter.places(text, ask) if self.cutter and isinstance(text, str) else [[whole]]
        parts = [(n, place) for n, places in enumerate(passes) for place in places]
        self.waiting[number] = Asked(start, text, parts)
        for n, (_, place) in enumerate(parts):
            part = text[slice(*place)] if isinstance(text, str) else None
            asked = prompt if part is None or place == whole else ask(part)
            yield Request(number + n * self.total, tuple(asked), part)

    def add(self, answer: Answer) -> Asked | None:
        """The row of an answer, once it has all."""
        part, row = divmod(answer.row - 1, self.total)
        asked = self.waiting[row + 1]
        asked.answers[part] = answer
        return self.waiting.pop(row + 1) if len(asked.answers) == len(asked.parts) else None


def line(
    asked: Asked,
    task: Any,
    record: Callable[[Line, Answer], Line],
    grounded: Callable[[Line, Any, str | None], Line],
    sure: Confidence | None = None,
) -> Line:
    """The line of a row: of several parts, the task's merge of their records.

    A pass after the first adds what stands in its part. A row some of whose parts have no record says so in `error`;
    one whose parts all have none has the error of the first.
    """
    if len(asked.parts) == 1:  # it may begin behind blanks, and places are those in the whole text
        [answer] = asked.answers.values()
        only = {**grounded(record(asked.start, answer), asked.text, answer.text), "chunks": 1}
        return sure.added(only, answer, asked.text) if sure else only
    lines = [
        grounded(record(asked.start, asked.answers[n]), _text(asked, place), asked.answers[n].text)
        for n, (_, place) in enumerate(asked.parts)
    ]
    schema = task.record_schema()
    found = [
        grounding.standing(part["record"], schema, _text(asked, place)) if again else part["record"]
        for (again, place), part in zip(asked.parts, lines, strict=True)
        if part["record"] is not None
    ]
    failed = next((part for part in lines if part["record"] is None), None)
    whole = {
        **asked.start,
        "record": getattr(task, "merge", merging.merge)(found) if found else None,
        "error": _incomplete(asked, lines) if found and failed else failed and failed["error"],
        "tokens": sum(part["tokens"] for part in lines),
        "chunks": len(lines),
        "completion": failed and failed["completion"],
    }
    placed = grounded(whole, asked.text, whole["completion"])
    if placed["record"] is None and whole["record"] is not None:
        # Strict: what stands in a part, at its edge, may be a piece of a longer word of the whole text.
        whole["record"] = grounding.standing(whole["record"], schema, asked.text)
        whole["error"] = whole["error"] or "incomplete: a value at the edge of a part stands in no whole word"
        placed = grounded(whole, asked.text, whole["completion"])
    whole = placed
    if sure is None:
        return whole
    parts = [(part, asked.answers[n], _text(asked, asked.parts[n][1])) for n, part in enumerate(lines)]
    return sure.of_parts(whole, parts)


def _text(asked: Asked, place: Place) -> Any:
    return asked.text[slice(*place)] if isinstance(asked.text, str) else asked.text


def _incomplete(asked: Asked, lines: Sequence[Mapping[str, Any]]) -> str:
    failed = [n for n, part in enumerate(lines) if part["record"] is None]
    start, end = asked.parts[failed[0]][1]
    which = f"{len(failed)} of {len(lines)} parts have no record"
    return f"incomplete: {which}, first characters {start:,} to {end:,}: {lines[failed[0]]['error']}"
