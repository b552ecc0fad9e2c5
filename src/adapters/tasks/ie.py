"""The `ie` task: named entities and relations from a text and a schema of labels."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from adapters.data.json_text import from_text
from adapters.data.row_forms import asked_text, row_text
from adapters.data_aug.ie.vary import VARIATIONS, Variation, vary
from adapters.data_aug.noise import Label
from adapters.rewards.ie_records import AnswerReader, Item, entities, overlap, relations, unlabelled
from adapters.tasks import ie_answers
from adapters.types import Aligned, Counts, Example, Message, OldParameters, Row, SchemaParameter

# The system prompt and the entity template of the published adapter, to the letter. Its card only describes the
# relation template; this one is its entity template with IEPile's instruction for relations.
SYSTEM = (
    "You are an expert in information extraction. Given a task instruction with schema definitions and input text, "
    "extract the required information.\n\n"
    "You should think step by step about the extraction task, then provide your answer in JSON format.\n\n"
    "Format your response as:\n<think>\nYour step-by-step reasoning...\n</think>\n"
    "<answer>\nYour JSON extraction result here\n</answer>"
)
_REPLY = (
    "Please think step by step and respond in the following format:\n"
    "<think>\nYour reasoning process...\n</think>\n<answer>\nYour JSON extraction result\n</answer>"
)
NER_USER = (
    "You are an expert in named entity recognition. Please extract entities that match the schema definition from the "
    "input. Return an empty list if the entity type does not exist. Please respond in the format of a JSON "
    "dictionary.\n\nEntity types to extract: {labels}\n\nInput text: {text}\n\n" + _REPLY
)
RE_USER = (
    "You are an expert in relationship extraction. Please extract relationship triples that match the schema "
    "definition from the input. Return an empty list for relationships that do not exist. Please respond in the "
    "format of a JSON dictionary.\n\nRelation types to extract: {labels}\n\nInput text: {text}\n\n" + _REPLY
)


@dataclass(frozen=True)
class IeTask(AnswerReader):
    """Rows have a `text`, a `schema` (label names), a `task` (NER or RE) and `gold`.

    `gold` is {type: [text, …]} or {relation: [{"head", "tail"}, …]}; labels of the schema that it leaves out are
    empty. `target` is the form of the answer to learn: `tagged` is the published one (the thought is the row's
    `reasoning`, or empty), `bare` its JSON alone, `compact` that without absent labels and white space, for small
    models. The last two need `missing_answer: whole`, so that text without tags is read. The templates hold {labels},
    the JSON list of the schema, and {text}. `descriptions` says what labels mean, in the recipe or in a JSON file, and
    a row may have its own: {labels} is then an object from labels to descriptions. `variations` are what a stage's
    `vary` may do to labels (`adapters.data_aug.ie.vary`). `label_order` is the seed of another label order, one for
    all rows of a schema; None keeps the rows' own. `schema` and `kind` stand in for rows without `schema` or `task`:
    labels to ask for, and NER or RE. The other fields are those of `adapters.rewards.ie_records.AnswerReader`.
    """

    target: Literal["tagged", "bare", "compact"] = "tagged"
    system: str = SYSTEM
    ner_user: str = NER_USER
    re_user: str = RE_USER
    label_order: int | None = None
    schema: tuple[str, ...] = ()
    kind: Literal["NER", "RE"] | None = None
    descriptions: SchemaParameter = field(default_factory=dict)  # read from a file, as schemas are
    variations: tuple[Variation, ...] = VARIATIONS
    text_field: str = "text"
    old_parameters: ClassVar[OldParameters] = {**AnswerReader.old_parameters, "order": ("label_order", {})}
    example_rows: ClassVar[tuple[Row, ...]] = ie_answers.ROWS
    example_row: ClassVar[Row] = example_rows[0]
    modes: ClassVar[dict[str, str]] = {
        "labelled": "an item counts with its label",
        "unlabelled": "an item counts by its text alone",
    }
    field_meanings: ClassVar[dict[str, str]] = {
        "entity": "a piece of the text and its label, each pair once in a text; it is found when the answer has the "
        "same piece (white space collapsed; case counts unless `casefold` is set)",
        "relation": "head and tail, two pieces of the text, and the label of their relation, likewise; it is found "
        "when head and tail are both the same, and in this order",
    }
    request_fields: ClassVar[tuple[str, ...]] = ("schema", "task", "descriptions")
    structures: ClassVar[tuple[str, ...]] = ("gold", "schema", "descriptions")
    graph = staticmethod(ie_answers.graph)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schema:
            _schema(self.schema)
        _check_descriptions(self.descriptions)
        for name in ("ner_user", "re_user"):
            if missing := [part for part in ("{labels}", "{text}") if part not in getattr(self, name)]:
                raise ValueError(f"{name} must contain {missing[0]}")
        if self.target != "tagged" and self.missing_answer != "whole":
            raise ValueError(f"target {self.target} writes no <answer> tags, so it needs missing_answer: whole")

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """One row with its gold. Raises ValueError for a row without text, schema or readable labels."""
        text = row_text(row, self.text_field)
        gold = self.gold(row)
        if self.label_order is not None:
            gold = _permuted(gold, self.label_order)
        prompt = self.prompt(text, gold, self._kind(row, gold), self._descriptions(row))
        completion = self.answer(gold, str(row.get("reasoning") or ""))
        return Example(id, source, prompt, completion, gold=gold, meta={"text": text})

    def gold(self, row: Row) -> dict[str, list[Any]]:
        """The labels of a row in the order of its schema, an empty list for each label that is absent."""
        gold, schema = (_from_json(row, name) for name in ("gold", "schema"))
        if not isinstance(gold, Mapping) or not all(isinstance(items, list | tuple | None) for items in gold.values()):
            raise ValueError("gold must be an object from labels to lists")
        schema = _schema(self.schema or list(gold) if schema is None else schema)
        if unknown := [label for label, items in gold.items() if items and label not in schema]:
            raise ValueError(f"gold has the label {unknown[0]!r}, which is not in the schema")
        return {label: [_entry(label, entry) for entry in gold.get(label) or ()] for label in schema}

    def labels(self, row: Row) -> Iterator[Label]:
        """Mentions, and the ends of relations, for noise to respect; none of gold as JSON text."""
        gold = row.get("gold")
        for label, items in gold.items() if isinstance(gold, Mapping) else ():
            for n, item in enumerate(items or ()):
                if isinstance(item, str):
                    yield Label(("gold", label, n), "exact", item)
                for end, text in item.items() if isinstance(item, Mapping) else ():
                    if isinstance(text, str):
                        yield Label(("gold", label, n, end), "exact", text)

    def vary(self, row: Row, rng: random.Random) -> Row:
        """The row with its labels asked for in another way.

        A row that says itself what its labels mean keeps them: they change their order, or are masked. Those of a row
        with `reasoning`, which names them, change their order alone.
        """
        gold, meant = self.gold(row), self._descriptions(row)
        kept = ("order", "mask") if meant is not self.descriptions else VARIATIONS
        use = [name for name in self.variations if name in (("order",) if row.get("reasoning") else kept)]
        kind, text = self._kind(row, gold), str(row.get(self.text_field) or "")
        said = vary(text, kind, gold, rng, use=use, descriptions=meant)
        new = {"task": said.kind, "schema": list(said.gold), "gold": said.gold, "descriptions": said.descriptions}
        return {name: value for name, value in row.items() if name != "spans"} | new  # spans have the old labels

    def prompt(
        self,
        text: str,
        schema: Mapping[str, Any],
        kind: Literal["NER", "RE"],
        descriptions: Mapping[str, str] | None = None,
    ) -> tuple[Message, ...]:
        """The messages that ask for a schema's labels in a text."""
        template = self.ner_user if kind == "NER" else self.re_user
        said = self.descriptions if descriptions is None else descriptions
        described = {label: said.get(label) or "" for label in schema}
        labels = json.dumps(described if any(described.values()) else list(schema), ensure_ascii=False)
        # Cut at the text's place first: a text may hold "{labels}", and a label "{text}".
        before, after = (part.replace("{labels}", labels) for part in template.split("{text}", 1))
        user: Message = {"role": "user", "content": before + text + after}
        return ({"role": "system", "content": self.system}, user) if self.system else (user,)

    def answer(self, gold: Mapping[str, Any], reasoning: str = "") -> str:
        """The target text for gold."""
        if self.target == "compact":
            present = {label: items for label, items in gold.items() if items}
            return json.dumps(present, ensure_ascii=False, separators=(",", ":"))
        text = json.dumps(gold, ensure_ascii=False)
        return text if self.target == "bare" else f"<think>\n{reasoning}\n</think>\n<answer>\n{text}\n</answer>"

    def empty_answer(self, example: Example) -> str:
        """The answer that finds nothing: the baseline of every reward."""
        return self.answer(dict.fromkeys(example.gold, ()))

    def adversarial(self, example: Example) -> dict[str, str]:
        """Plausible wrong answers, for testing rewards."""
        return {name: self.answer(labels) for name, labels in ie_answers.wrong(self, example.gold).items()}

    def align(self, gold: Any, completion: str, text: str | None = None) -> list[Aligned]:
        """Gold and predicted items by label, paired."""
        return ie_answers.align(self, gold, completion, text)

    def rephrase(self, n: int) -> IeTask:
        """The same task with the labels of every schema in another order."""
        return replace(self, label_order=n + (self.label_order or 0))

    def counts(self, gold: Any, completion: str, text: str | None = None) -> dict[str, Mapping[str, Counts]]:
        """Sets of entities and of relations, with labels and without. Never raises."""
        # A prediction without gold comes with an empty list.
        labels: Mapping[str, Any] = gold if isinstance(gold, Mapping) else {}
        wanted, predicted = self.items(labels), self.read(completion).items
        sides = wanted, predicted, self.findable(predicted, text)
        of_kind = {"entity": [*map(entities, sides)], "relation": [*map(relations, sides)]}
        return {
            "labelled": {kind: overlap(*items) for kind, items in of_kind.items()},
            "unlabelled": {kind: overlap(*map(unlabelled, items)) for kind, items in of_kind.items()},
        }

    def is_well_formed(self, completion: str) -> bool:
        """Whether the answer is a JSON object; otherwise it counts as a parse error."""
        return self.read(completion).json == "object"

    def _kind(self, row: Row, gold: Mapping[str, Any]) -> Literal["NER", "RE"]:
        kind = row.get("task")
        if kind is None and (first := next((item for items in gold.values() for item in items), None)):
            kind = "NER" if isinstance(first, str) else "RE"
        kind = kind or self.kind
        if kind not in ("NER", "RE"):
            raise ValueError(f"task must be NER or RE, not {kind!r}")
        return kind

    def _descriptions(self, row: Row) -> Mapping[str, str]:
        """What labels mean: the row's word, else the task's. A text that is no object is another column's."""
        own = row.get("descriptions")
        if own is None or (isinstance(own, str) and not own.lstrip().startswith("{")):
            return self.descriptions
        said: Mapping[str, str] = _from_json(row, "descriptions")
        _check_descriptions(said)
        return said

    def request(self, row: Row) -> tuple[Message, ...]:
        """The prompt for a row without labels. Raises ValueError for a bad row."""
        text = asked_text(row, self.text_field)
        try:
            own = _from_json(row, "schema")
            labels: dict[str, list[Any]] = {label: [] for label in _schema(self.schema if own in (None, "") else own)}
            kind = self._kind({**row, "task": row.get("task") or self.kind or "NER"}, {})
            said = self._descriptions(row)
        except ValueError as error:
            raise ValueError(f"no schema: {error}") from None
        labels = labels if self.label_order is None else _permuted(labels, self.label_order)
        return self.prompt(text, labels, kind, said)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raises ValueError when a corpus with these columns does not say which labels to look for."""
        if not self.schema and "schema" not in columns:
            raise ValueError(
                "there is no column schema, and the task names no labels. Add the column (a JSON list of labels for "
                "each row), or give the labels of all rows with --set 'schema=[person, place]'"
            )

    def decode(self, completion: str) -> frozenset[Item]:
        """The items of a completion, as the scorer reads them. Raises ValueError."""
        return ie_answers.decode(replace(self, casefold=False), completion)

    def record(self, answer: frozenset[Item]) -> list[dict[str, str | None]]:
        """Entities and relations in one list, by label and text."""
        return ie_answers.record(answer)

    merge = staticmethod(ie_answers.merge)

    def as_gold(self, completion: str) -> dict[str, list[Any]]:
        """The items of a completion by label, as gold has them. Raises ValueError."""
        out: dict[str, list[Any]] = {}
        for label, *ends in sorted(self.decode(completion)):
            out.setdefault(label, []).append(ends[0] if len(ends) == 1 else {"head": ends[0], "tail": ends[1]})
        return out

    def answer_schema(self) -> dict[str, Any] | None:
        """JSON schema of an answer; None where the model thinks first."""
        return None if self.target == "tagged" else ie_answers.ANSWER

    def record_schema(self) -> dict[str, Any]:
        """JSON schema of what `record` returns."""
        return ie_answers.RECORD


def _schema(given: object) -> list[str]:
    if not isinstance(given, list | tuple) or not given or not all(isinstance(s, str) and s.strip() for s in given):
        raise ValueError("schema must be a list of label names with at least one")
    if len(set(given)) < len(given):
        raise ValueError(f"schema names a label twice: {', '.join(given)}")
    return list(given)


def _check_descriptions(given: object) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(said, str | None) for said in given.values()):
        raise ValueError("descriptions must be an object from labels to texts")


def _from_json(row: Row, name: str) -> Any:
    value = row.get(name)
    return from_text(name, value) if isinstance(value, str) else value


def _entry(label: str, entry: object) -> str | dict[str, str]:
    if isinstance(entry, str) and entry.strip():
        return entry
    if isinstance(entry, Mapping):
        for head, tail in (("head", "tail"), ("subject", "object")):
            ends = entry.get(head), entry.get(tail)
            if all(isinstance(end, str) and end.strip() for end in ends):
                return {"head": str(ends[0]), "tail": str(ends[1])}
    raise ValueError(f"gold of {label!r} must be texts or objects with head and tail, not {entry!r}")


def _permuted(gold: dict[str, list[Any]], seed: int) -> dict[str, list[Any]]:
    # All rows of one schema get one order: different orders would cancel out in the mean.
    names = sorted(gold)
    order = random.Random(json.dumps([seed, names])).sample(names, len(names))
    return {label: gold[label] for label in order}
