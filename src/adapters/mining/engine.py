"""A program as the engine of an extraction: each step is asked of all texts of a block that are left."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adapters.data.row_forms import asked_text
from adapters.data_aug.mine.words import Question, Span
from adapters.errors import UserError
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import WINDOW, Answer, Request
from adapters.extraction.files import blocks
from adapters.mining.expression import holds
from adapters.mining.program import MOST_ITEMS, Ask, Each, First, Keep, Program, Step, rendered
from adapters.mining.sample import order
from adapters.types import Message, Row


class Proxy:
    """An adapter of kind token_classification, which answers the two questions that a program may ask.

    `batch_size`: windows at a time; None: by their length.
    """

    def __init__(self, tagger: Any, batch_size: int | None = None) -> None:
        self.tagger, self.batch_size = tagger, batch_size

    def scores(self, questions: Sequence[Question]) -> list[float]:
        """How likely the statement of each question is, from 0 to 1."""
        return list(self.tagger.scores(questions, self.batch_size))

    def spans(self, questions: Sequence[Question]) -> list[tuple[list[Span], float]]:
        """What each question finds in its text, by its start, not overlapping; and how sure that is, from 0 to 1.

        The second is the difference of the two likeliest answers.
        """
        return list(self.tagger.sure_spans(questions, self.batch_size))

    def sub_words(self, questions: Sequence[Question]) -> list[int]:
        """Sub-words that are read for each question; 0 where its instruction leaves no room for the text."""
        return [self._sub_words(question) for question in questions]

    def _sub_words(self, question: Question) -> int:
        try:
            return sum(len(piece.ids) for piece in self.tagger.encoder.read(question).pieces)
        except UserError:
            return 0


def load_proxy(source: Source, batch_size: int | None) -> Proxy:
    """The proxy of an adapter."""
    from adapters.backends.local.tagger import Tagger  # it imports torch

    return Proxy(Tagger.load(source.adapter, base=source.model.base), batch_size)


def labels(proxy: Proxy, texts: Sequence[str], instruction: str, threshold: float) -> list[bool]:
    """Whether a statement is true of each text."""
    return [score > threshold for score in proxy.scores([Question("label", instruction, text) for text in texts])]


def check_proxy(source: Source, given: str, verb: str) -> None:
    """Raise UserError for an adapter that is no proxy."""
    if not source.tags_words:
        raise UserError(
            f"{given} is a causal adapter; {verb} needs one of kind token_classification. For its own task: "
            "adapters extract."
        )


@dataclass(frozen=True, slots=True)
class ProgramTask:
    """The task of a program, as extraction sees one: the text alone is the prompt, the record is the answer."""

    program: Program
    text_field: str = "text"

    def request(self, row: Row) -> tuple[Message, ...]:
        """The text of a row. Raises ValueError for a row without one."""
        return ({"role": "user", "content": asked_text(row, self.text_field)},)

    def record(self, answer: Any) -> Any:
        """The record, as the engine made it."""
        return answer

    def answer_schema(self) -> None:
        """Nothing is constrained."""

    def record_schema(self) -> dict[str, Any]:
        """JSON schema of the program's records."""
        properties = _properties(self.program.steps, self.program.scores)
        return {"type": "object", "properties": {"kept": {"type": "boolean"}, **properties}}


def _properties(steps: Sequence[Step], scores: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    items: dict[str, dict[str, Any]] = {}
    for step in steps:
        if isinstance(step, Ask) and step.kind == "label":
            out[step.name] = {"type": "boolean"}
            if scores:
                out[f"{step.name}_score"] = {"type": "number"}
        elif isinstance(step, Ask):
            fields = {"text": {"type": "string"}, "start": {"type": "integer"}, "end": {"type": "integer"}}
            items[step.name] = {"type": "object", "properties": fields}
            out[step.name] = {"type": "array", "items": items[step.name]}
        elif isinstance(step, First):
            out[step.name] = {"anyOf": [items[step.name], {"type": "null"}]}
        elif isinstance(step, Each):
            items[step.name]["properties"] |= _properties(step.steps, scores)
    return out


@dataclass(slots=True)
class _Item:
    """A text, or a span of an `each`, with the answers of the steps so far."""

    row: _Outcome
    values: dict[str, Any]
    seen: Mapping[str, Any]
    """All names that an expression may use here."""
    given: Mapping[str, str]
    """The texts of the spans around, by their names."""


@dataclass(slots=True)
class _Outcome:
    """What became of a text. `asked` and `found` are by the number of the question."""

    text: str
    record: dict[str, Any] = field(default_factory=lambda: {"kept": True})
    asked: list[int] = field(default_factory=list)
    found: list[int] = field(default_factory=list)
    clipped: int = 0
    tokens: int = 0
    margins: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ProgramEngine:
    """An engine. See `adapters.extraction.engine.Engine`."""

    program: Program
    proxy: Proxy
    threshold: float = 0.5
    uncertain: bool = False
    """Whether the mean margin of a text is told too."""
    seed: ClassVar[int] = 0

    def __call__(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """The record of each text as JSON, a block of texts at a time."""
        for block in blocks(requests, WINDOW):
            for request, done in zip(block, self.read([r.prompt[0]["content"] for r in block]), strict=True):
                extra: dict[str, Any] = {"asked": done.asked, "found": done.found, "clipped": done.clipped}
                if self.uncertain:
                    margin = sum(done.margins) / len(done.margins) if done.margins else 1.0
                    extra |= {"margin": round(margin, 4), "order": order(done.text, self.seed)}
                text = json.dumps(done.record, ensure_ascii=False)
                yield Answer(request.row, text, done.tokens, extra=extra)

    def read(self, texts: Sequence[str]) -> list[_Outcome]:
        """Run the program over texts."""
        numbers = {path: n for n, (path, _, _) in enumerate(self.program.asks)}
        outcomes = [_Outcome(text, asked=[0] * len(numbers), found=[0] * len(numbers)) for text in texts]
        items = [_Item(o, o.record, o.record, {}) for o in outcomes]
        left = {id(item) for item in self._run(self.program.steps, items, "", numbers)}
        for item in items:
            item.values["kept"] = id(item) in left
        return outcomes

    def _run(self, steps: Sequence[Step], items: list[_Item], at: str, numbers: Mapping[str, int]) -> list[_Item]:
        """Run steps for items. Returns those that no `keep` drops."""
        for step in steps:
            if isinstance(step, Ask):
                self._ask(step, items, numbers[at + step.name])
            elif isinstance(step, Keep):
                items = [item for item in items if holds(step.test, item.seen)]
            elif isinstance(step, First):
                for item in items:
                    item.values[step.name] = min(item.values[step.name], key=_start, default=None)
            else:
                self._each(step, items, at, numbers)
        return items

    def _each(self, step: Each, items: Sequence[_Item], at: str, numbers: Mapping[str, int]) -> None:
        inner: list[list[_Item]] = []
        for item in items:
            value = item.values[step.name]
            spans = value if isinstance(value, list) else [value] if value else []
            item.row.clipped += len(spans[MOST_ITEMS:])
            inner.append(
                [
                    _Item(item.row, span, ChainMap(span, *_maps(item.seen)), {**item.given, step.name: span["text"]})
                    for span in spans[:MOST_ITEMS]
                ]
            )
        flat = [one for several in inner for one in several]
        left = {id(one) for one in self._run(step.steps, flat, f"{at}{step.name}.", numbers)}
        for item, several in zip(items, inner, strict=True):
            kept = [one.values for one in several if id(one) in left]
            single = not isinstance(item.values[step.name], list)
            item.values[step.name] = next(iter(kept), None) if single else kept

    def _ask(self, step: Ask, items: Sequence[_Item], number: int) -> None:
        questions = [Question(step.kind, rendered(step.instruction, item.given), item.row.text) for item in items]
        read = self.proxy.sub_words(questions)
        asked = [n for n, item in enumerate(items) if read[n] or not item.given]
        for n in set(range(len(items))).difference(asked):  # the span is too long to stand in an instruction
            item = items[n]
            item.values |= {step.name: False if step.kind == "label" else []}
            item.row.clipped += 1
        if asked:
            self._answer(step, [items[n] for n in asked], [questions[n] for n in asked], number)
        for item, size in zip(items, read, strict=True):
            item.row.tokens += size

    def _answer(self, step: Ask, items: Sequence[_Item], questions: Sequence[Question], number: int) -> None:
        if step.kind == "label":
            scores = self.proxy.scores(questions)
            margins = [abs(2 * score - 1) for score in scores]
            answers: list[dict[str, Any]] = [self._label(step.name, score) for score in scores]
        else:
            found = self.proxy.spans(questions)
            margins = [margin for _, margin in found]
            answers = [{step.name: [span._asdict() for span in spans]} for spans, _ in found]
        for n, (item, answer) in enumerate(zip(items, answers, strict=True)):
            item.values |= answer
            item.row.asked[number] += 1
            item.row.found[number] += bool(answer[step.name])
            item.row.margins += margins[n : n + 1]

    def _label(self, name: str, score: float) -> dict[str, Any]:
        of_score = {f"{name}_score": round(score, 4)} if self.program.scores else {}
        return {name: score > self.threshold, **of_score}


def _maps(seen: Mapping[str, Any]) -> list[Any]:
    return seen.maps if isinstance(seen, ChainMap) else [seen]


def _start(span: Mapping[str, Any]) -> int:
    return int(span["start"])
