"""What an answer may say: JSON of the task's schema, or also no string that is not in the row's text.

It is a grammar (`adapters.backends.grammar`), which the local decoder and vLLM take.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal

from adapters.backends.grammar import FREE, ConstraintError, Layout, layout_of, place_of, rules
from adapters.errors import KeyPath, UserError

Constrain = Literal["schema", "source", "off"]
"""`schema`: answers are JSON of the task's schema. `source`: and every string that quotes the text stands in it."""


@dataclass(frozen=True)
class Constraint:
    """What the answers of a task may say. `schema` marks strings that the text need not hold (`data.quoted`)."""

    how: Literal["schema", "source"]
    schema: Mapping[str, Any]
    layout: Layout = FREE

    def grammar(self, text: str | None) -> str:
        """The grammar of the answers to a text. Without a text `source` allows no string that quotes it."""
        return self._rules if self.how == "schema" else f"{self._rules}\n{place_of(text or '')}"

    @cached_property
    def _rules(self) -> str:
        return rules(self.schema, self.layout, quoting=self.how == "source")


def constraint(
    task: Any,
    how: Constrain,
    *,
    answers: Iterable[str] = (),
    thinking: bool = False,
    local: bool = True,
    at: KeyPath = (),
) -> Constraint | None:
    """The constraint of a task; None for `off`. `answers` show how the task writes its JSON.

    `local`: llguidance gets the schema; vLLM and servers have libraries of their own for it.

    Raises UserError for a task whose answers are not JSON alone, and for a schema that the constraint cannot express.
    """
    if how == "off":
        return None
    schema = getattr(task, "answer_schema", lambda: None)()
    if schema is None or thinking:
        why = "the model thinks before it answers" if thinking else "the task's answers are not JSON alone"
        raise UserError(f"constrain: {how} needs answers that are JSON and nothing else, and {why}. Say off.", at=at)
    marked = task.record_schema()
    schema = marked if _unmarked(marked) == schema else schema
    made = Constraint(how, schema, layout_of([*answers, *_example_answers(task)]))
    try:
        if local or how == "source":
            _check(made)
    except ConstraintError as error:
        remedy = "off" if how == "schema" else "schema, or off"
        raise UserError(f"constrain: {how} cannot express the task's schema: {error}. Say {remedy}.", at=at) from None
    return made


def _unmarked(schema: Any) -> Any:
    """A schema without this project's mark of strings that need not be in the text."""
    if isinstance(schema, list):
        return [_unmarked(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {name: _unmarked(value) for name, value in schema.items() if name != "x-grounded"}


def _example_answers(task: Any) -> list[str]:
    row = getattr(task, "example_row", None)
    rows = getattr(task, "example_rows", ()) or ([row] if row is not None else [])
    return [answer for row in rows if (answer := task.example(row).completion)]


def _check(made: Constraint) -> None:
    grammar = made.grammar("a text")
    if find_spec("llguidance") is None:
        return  # a server may have it
    from llguidance import LLMatcher

    failed, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(grammar))
    if failed:
        raise ConstraintError(_reason(messages[0]))


def _reason(message: str) -> str:
    """The first line of llguidance's message, without the place in the grammar, which is not the user's."""
    return message.partition("\n")[0].rpartition("JSON schema: ")[2].rstrip(". ")


def needs_llguidance(at: KeyPath = ()) -> None:
    """Raise UserError where the library that constrains the local decoder is not installed."""
    if find_spec("llguidance") is None:
        remedy = "pip install -c constraints.txt -e '.[constrain]' in the repository"
        raise UserError(f"constrain needs llguidance, which is not installed: {remedy}, or say off.", at=at)
