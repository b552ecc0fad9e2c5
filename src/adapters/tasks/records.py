"""The `records` task: the object that a JSON Schema describes, from a text."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from adapters.data.row_forms import asked_text, row_text
from adapters.data_aug.noise import Label
from adapters.rewards import records_match
from adapters.rewards.grounding import needed
from adapters.rewards.records_schema import RECEIPT, Node, compiled, problem
from adapters.rewards.records_values import NORMALISERS, is_empty, spellings
from adapters.tasks import records_answers
from adapters.types import Aligned, Counts, Example, Message, Row, SchemaParameter

SYSTEM = (
    "Extract the record from the text as JSON. Leave out what the text does not say. The form of the record:\n{schema}"
)
MAX_SHOWN = 6000
"""Characters of a schema in the prompt, at most."""
MOST_ALIGNED = 200


@dataclass(frozen=True)
class RecordsTask:
    """Rows have a `text` and its object: a column `object` (or `gold`), or a column for each field of the schema.

    `schema` is the JSON Schema of the objects: a file beside the recipe, a class that pydantic can describe
    (`./models.py:Invoice`), or the schema itself. Without one it is that of the synthetic receipts. The templates hold
    {schema}, the schema in one line, and {text}; a `system` without {schema} is for models that need not see it.

    The target is the object as compact JSON in the order of the schema. A field without a value (null, blank text, an
    empty list) is left out unless the schema requires it.

    `normalise` is the normaliser of strings without `x-normalise` in the schema: exact, text, name or id. `grounded`: a
    string that is not in the text never counts as found, unless its field has `x-grounded: false`.
    """

    schema: SchemaParameter = field(default_factory=lambda: RECEIPT)
    system: str = SYSTEM
    user: str = "{text}"
    normalise: str = "text"
    text_field: str = "text"
    grounded: bool = False
    modes: ClassVar[dict[str, str]] = {
        "values": "a value counts at its path, lists without order; `(all)` is their sum",
        "objects": "a whole object counts when all its values match and no other is said",
    }

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISERS:
            raise ValueError(f"normalise must be one of {', '.join(NORMALISERS)}, got {self.normalise!r}")
        if "{text}" not in self.user:
            raise ValueError("user must contain {text}, where the text goes")
        shown = self.node.shown()
        if "{schema}" in self.system + self.user and len(shown) > MAX_SHOWN:
            raise ValueError(
                f"the schema takes {len(shown):,} characters in the prompt; the limit is {MAX_SHOWN:,}. Shorten its "
                "descriptions, or write a system prompt without {schema}"
            )

    @property
    def node(self) -> Node:
        """The schema as a tree."""
        return compiled(self.schema, self.normalise)

    @property
    def example_rows(self) -> tuple[Row, ...]:
        """Made-up rows; none where the schema is another than that of the receipts."""
        return records_answers.ROWS if self.schema == RECEIPT else ()

    @property
    def example_row(self) -> Row | None:
        """The first of them, for a model card."""
        return next(iter(self.example_rows), None)

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """One row with its object. Raises ValueError for a row without text, or whose object does not fit."""
        gold, text = self.gold(row), row_text(row, self.text_field)
        meta = {"text": text, "record_schema": self.schema, "normalise": self.normalise}
        return Example(id, source, self.prompt(text), self.answer(gold), gold=gold, meta=meta)

    def gold(self, row: Row) -> dict[str, Any]:
        """The object of a row in the order of the schema. Raises ValueError with the place that does not fit."""
        node = self.node
        gold: dict[str, Any] = node.canonical(records_answers.of_row(node, row))
        if fault := problem(node, gold):
            which = " of receipts, which the task reads without the parameter schema" * (self.schema is RECEIPT)
            raise ValueError(f"the object does not fit the schema{which}: {fault}")
        if odd := next((pair for pair in records_match.compare(node, gold, gold) if not pair.matched), None):
            raise ValueError(f"the object has a value that no answer could match: {odd.path}: {odd.gold!r:.80}")
        return gold

    def labels(self, row: Row) -> Iterator[Label]:
        """Strings, and the spellings of numbers and dates, for noise to respect; none of an object as JSON text."""
        given = records_answers.column(self.node, row)
        start, value = ((given,), row[given]) if given else ((), row)
        yield from _labels(self.node, value, start)

    def prompt(self, text: str) -> tuple[Message, ...]:
        """The messages that ask for the object of a text."""
        shown = self.node.shown()
        # Cut at the text's place first: a text may hold "{schema}".
        before, after = (part.replace("{schema}", shown) for part in self.user.split("{text}", 1))
        user: Message = {"role": "user", "content": before + text + after}
        system = self.system.replace("{schema}", shown)
        return ({"role": "system", "content": system}, user) if system else (user,)

    def answer(self, gold: Mapping[str, Any]) -> str:
        """The target text for an object."""
        return json.dumps(gold, ensure_ascii=False, separators=(",", ":"))

    def empty_answer(self, example: Example) -> str:
        """The answer that finds nothing: the baseline of every reward."""
        return "{}"

    def adversarial(self, example: Example) -> dict[str, str]:
        """Plausible wrong answers, for testing rewards."""
        wrong = records_answers.wrong(self.node, example.gold)
        return {name: self.answer(gold) for name, gold in wrong.items()}

    def align(self, gold: Any, completion: str, text: str | None = None) -> list[Aligned]:
        """Every gold and every predicted value, as the scorer paired them."""
        pairs = self._pairs(gold, completion, text)
        found = [next(pairs, None) for _ in range(MOST_ALIGNED)]
        return [Aligned(p.path, _shown(p.gold), _shown(p.pred), p.matched) for p in found if p is not None]

    def counts(self, gold: Any, completion: str, text: str | None = None) -> dict[str, Mapping[str, Counts]]:
        """Values by path and in all, and whole objects. Never raises."""
        of_field = records_match.tally(self.node, self._pairs(gold, completion, text))
        whole = records_match.total(of_field)
        readable = records_match.read(completion).value is not None
        right = readable and whole.gold == whole.pred == whole.matched
        return {
            "values": {records_match.ALL: whole, **of_field},
            "objects": {"object": Counts(int(isinstance(gold, Mapping)), int(readable), int(right))},
        }

    def is_well_formed(self, completion: str) -> bool:
        """Whether the answer holds one JSON object."""
        return records_match.read(completion).value is not None

    def findings(self, golds: Sequence[Mapping[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
        """The fields that no object fills."""
        filled = Counter(p.path for gold in golds for p in {p.path: p for p in self._all(gold)}.values())
        never = [path for path, _ in self.node.leaves() if not filled[path]]
        return [(f"the field {path} is filled in none of {len(golds):,} training rows", _place(path)) for path in never]

    def request(self, row: Row) -> tuple[Message, ...]:
        """The prompt for a row without labels. Raises ValueError for a row without text."""
        return self.prompt(asked_text(row, self.text_field))

    def decode(self, completion: str) -> dict[str, Any]:
        """The object of a completion, as the scorer reads it. Raises ValueError."""
        reading = records_match.read(completion)
        if reading.value is None:
            raise ValueError(reading.problem)
        return reading.value

    def record(self, answer: Any) -> dict[str, Any]:
        """A decoded answer in the order and the types of the schema. Raises ValueError when it does not fit it."""
        if not isinstance(answer, Mapping):
            raise ValueError(f"wrong shape: an object is wanted, not {type(answer).__name__}")
        found: dict[str, Any] = self.node.canonical(records_answers.typed(self.node, answer))
        if fault := problem(self.node, found):
            raise ValueError(f"wrong shape: {fault}")
        return found

    def answer_schema(self) -> dict[str, Any]:
        """The schema without references and without this project's keywords, closed to other keys."""
        return self.node.schema()

    def record_schema(self) -> dict[str, Any]:
        """The same, but with `x-grounded`: a record is an answer."""
        return self.node.schema(marked=True)

    def _pairs(self, gold: Any, completion: str, text: str | None) -> Iterator[records_match.Pair]:
        pairs = records_match.compare(self.node, gold, records_match.read(completion).value)
        return records_match.grounded(self.node, pairs, needed(text)) if self.grounded else pairs

    def _all(self, gold: Any) -> Iterator[records_match.Pair]:
        return records_match.compare(self.node, gold, None)


def _labels(node: Node, value: Any, path: tuple[Any, ...]) -> Iterator[Label]:
    if node.kind == "object":
        for name, inner in node.fields.items() if isinstance(value, Mapping) else ():
            yield from _labels(inner, value.get(name), (*path, name))
    elif node.item is not None:
        for n, item in enumerate(value) if isinstance(value, list | tuple) else ():
            yield from _labels(node.item, item, (*path, n))
    elif node.kind in ("string", "enum") and isinstance(value, str):
        # An enum's value is one of a few: noise may not write another.
        kind = "fixed" if node.kind == "enum" else "id" if node.normaliser == "id" else "exact"
        yield Label(path if node.kind == "string" else (), kind, value)
    elif not is_empty(value):
        for text in sorted(spellings(value)):
            yield Label((), "fixed", text)


def _place(path: str) -> tuple[str, ...]:
    """The place of a field in a schema without references: `items[].price` is below properties.items.items."""
    parts = path.split(".")
    steps = [("properties", name.rstrip("[]"), *["items"] * name.count("[]")) for name in parts]
    return ("schema", *(step for of_name in steps for step in of_name))


def _shown(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
