"""The `mine` task: one question about a text, answered by spans of it or by true or false."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from adapters.data.row_forms import row_text
from adapters.data_aug.mine.words import (
    KINDS,
    LABELS,
    Place,
    Question,
    occurrences,
    prompt_of,
    question_words,
    spans_of,
    words,
)
from adapters.data_aug.noise import Label
from adapters.tasks import mine_answers
from adapters.types import QUESTION, Aligned, Attribute, Counts, Entity, Example, Fact, Message, Row


@dataclass(frozen=True)
class MineTask:
    """Rows have a `text`, a `kind` (span or label), an `instruction`, `gold` and an `annotator`.

    `gold` of a span row is [[start, end], …] in code points, or strings, which are then looked up in the text; of a
    label row true or false. A row for training alone may be `words` and `ner` (B, I or O for each word) instead.
    `instruction` is a label name or a question, of a label row a topic or a statement. `annotator` is `human` where a
    row does not say it. `kind` and `instruction` of the task stand in for rows without them. A label is true when its
    score is above `threshold`.
    """

    threshold: float = 0.5
    kind: Literal["span", "label"] | None = None
    instruction: str = ""
    text_field: str = "text"
    grounded: ClassVar[bool] = True  # words are counted in the text
    example_rows: ClassVar[tuple[Row, ...]] = mine_answers.ROWS
    example_row: ClassVar[Row] = example_rows[0]
    modes: ClassVar[dict[str, str]] = {
        "word": "spans count by the words in them",
        "span": "a span counts when it begins and ends at the same places",
        "accuracy": "the share of labels that are right",
    }
    form_fields: ClassVar[tuple[str, ...]] = ("accuracy",)
    field_meanings: ClassVar[dict[str, str]] = {
        "span": "what a question about a text finds in it: its words, or its places",
        "label": "statements that are true of their text",
        "accuracy": "labels, true and false",
    }
    request_fields: ClassVar[tuple[str, ...]] = ("kind", "instruction")
    structures: ClassVar[tuple[str, ...]] = ("gold", "words", "ner")
    notes: ClassVar[tuple[str, ...]] = ("row", "source", "error")  # columns of `annotate` that are for people

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, not {self.threshold}")

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """One question with its gold. Raises ValueError for a row without one, or whose gold is no part of its text."""
        question = self._question(row)
        gold = self.gold(row)
        prompt = prompt_of(question)
        meta = {"text": question.text, QUESTION: prompt[0]["content"], "annotator": _annotator(row)}
        return Example(id, source, prompt, self._answer(gold, question.text), gold=gold, meta=meta)

    def gold(self, row: Row) -> dict[str, Any]:
        """{"spans": [[start, end], …]} or {"label": true}. Raises ValueError."""
        if "ner" in row:
            joined, of_words = _nte(row)
            return {"spans": [[s.start, s.end] for s in spans_of(row["ner"], of_words, joined)]}
        given, text = row.get("gold"), row.get(self.text_field)
        if self._kind(row) == "label":
            if not isinstance(given, bool):
                raise ValueError(f"gold of a label must be true or false, not {given!r:.80}")
            return {"label": given}
        if not isinstance(given, list | tuple):
            raise ValueError(f"gold of a span must be a list of [start, end], not {given!r:.80}")
        if given and all(isinstance(item, str) for item in given):
            return {"spans": _looked_up(text, given)}
        return {"spans": _checked(given, len(text) if isinstance(text, str) else None)}

    def labels(self, row: Row) -> Iterator[Label]:
        """The strings of the gold spans, for noise to respect."""
        text = row.get(self.text_field)
        if isinstance(text, str) and "ner" not in row and self._kind(row) == "span":
            for start, end in self.gold(row)["spans"]:
                yield Label((), "exact", text[start:end])

    def moved(self, row: Row, noisy: Row, place: Callable[[int, int], Place]) -> Row:
        """The noisy row with the gold spans of `row` where `place` puts them; what is lost is left out."""
        if "ner" in row or self._kind(row) != "span":
            return noisy
        gold: list[list[int]] = []
        for start, end in (place(*span) for span in self.gold(row)["spans"]):
            start = max(start, gold[-1][1] if gold else 0)  # an edit between two spans may touch both
            gold += [[start, end]] if start < end else []
        return {**noisy, "gold": gold}

    def empty_answer(self, example: Example) -> str:
        """The answer that finds nothing."""
        return json.dumps({"label": False} if "label" in example.gold else {"spans": []})

    def counts(self, gold: Any, completion: str, text: str | None = None) -> dict[str, Mapping[str, Counts]]:
        """Words in spans, whole spans, true labels, right labels. Never raises.

        A span without places counts at every free-standing place of its string; one that the text does not hold, by
        its words.
        """
        return mine_answers.counts(gold, completion, text or "")

    def align(self, gold: Any, completion: str, text: str | None = None) -> list[Aligned]:
        """Gold and predicted spans by place, or both labels."""
        return mine_answers.align(gold, completion, text or "")

    def is_well_formed(self, completion: str) -> bool:
        """Whether the answer is an object with a list `spans`, or with a `label` of true or false."""
        return mine_answers.read(completion, "") is not None

    def request(self, row: Row) -> tuple[Message, ...]:
        """The prompt for a row without gold. Raises ValueError for a bad row."""
        try:
            return prompt_of(self._question(row))
        except ValueError as error:
            raise ValueError(f"no question: {error}") from None

    def check_columns(self, columns: Collection[str]) -> None:
        """Raises ValueError when a corpus with these columns does not say what to ask."""
        for name in self.request_fields:
            if not getattr(self, name) and name not in columns:
                raise ValueError(f"there is no column {name}. Add it, or give one for all rows with --set {name}=…")

    def record(self, answer: Any) -> list[dict[str, Any]]:
        """The spans, each with text, start and end, or the one label with its score. Raises ValueError."""
        return mine_answers.record(answer)

    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        return mine_answers.ANSWER

    def graph(self, record: Sequence[Mapping[str, Any]], row: Row) -> Iterator[Fact]:
        """Spans as entities whose type is the row's instruction; a label as an attribute of the document."""
        name = str(row.get("instruction") or self.instruction)
        for item in record:
            if item["label"] is not None:
                yield Attribute(name, item["label"])
            else:
                start, end = item["start"], item["end"]
                yield Entity(name, item["text"], None if start is None or end is None else (start, end))

    def record_schema(self) -> dict[str, Any]:
        """JSON schema of what `record` returns."""
        return mine_answers.RECORD

    def _answer(self, gold: Mapping[str, Any], text: str) -> str:
        if "label" in gold:
            return json.dumps(gold)
        spans = [{"text": text[start:end], "start": start, "end": end} for start, end in gold["spans"]]
        return json.dumps({"spans": spans}, ensure_ascii=False)

    def _question(self, row: Row) -> Question:
        if "ner" in row:
            return Question("words", "", _nte(row)[0])
        text, instruction = row_text(row, self.text_field), row.get("instruction") or self.instruction
        if not isinstance(instruction, str) or not words(instruction):
            raise ValueError("instruction is missing or empty")
        return Question(self._kind(row), " ".join(instruction.split()), text)

    def _kind(self, row: Row) -> Literal["span", "label"]:
        given: Any = row.get("kind") or self.kind
        if given not in KINDS[:2]:
            raise ValueError(f"kind must be span or label, not {given!r}")
        kind: Literal["span", "label"] = given
        return kind


def _annotator(row: Row) -> str:
    name = row.get("annotator")
    return name if isinstance(name, str) and name else "human"


def _nte(row: Row) -> tuple[str, list[Any]]:
    """The text of a published row of words and tags, and its words with their places."""
    given, tags = row.get("words"), row.get("ner")
    if not isinstance(given, list) or not given or not all(isinstance(w, str) and w.split() == [w] for w in given):
        raise ValueError("words must be a list of words without white space")
    if not isinstance(tags, list) or len(tags) != len(given) or not all(tag in LABELS for tag in tags):
        raise ValueError(f"ner must name B, I or O for each of the {len(given)} words")
    text = " ".join(given)
    return text, question_words(Question("words", "", text))


def _looked_up(text: Any, strings: list[str] | tuple[str, ...]) -> list[list[int]]:
    places, missing = occurrences(text if isinstance(text, str) else "", strings)
    if missing:
        raise ValueError(f"gold: {missing[0]!r} does not stand in the text")
    return [list(place) for place in places]


def _checked(given: list[Any] | tuple[Any, ...], length: int | None) -> list[list[int]]:
    """Places in the text, sorted. Raises ValueError."""
    for item in given:
        whole = isinstance(item, list | tuple) and len(item) == 2
        if not whole or not all(isinstance(n, int) and not isinstance(n, bool) for n in item):
            raise ValueError(f"gold of a span must be a list of [start, end], not {item!r:.80}")
    places = sorted((start, end) for start, end in given)
    for start, end in places:
        if not 0 <= start < end or (length is not None and end > length):
            limits = "" if length is None else f" (0 to {length})"
            raise ValueError(f"gold: {start}–{end} is no stretch of the text{limits}")
    for (start, end), (later, its_end) in pairwise(places):
        if later < end:
            raise ValueError(f"gold: {start}–{end} and {later}–{its_end} overlap")
    return [list(place) for place in places]
