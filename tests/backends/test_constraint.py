"""Grammars of a task's answers: what they allow, and what cannot be a grammar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.backends.constraint import Constraint, constraint
from adapters.backends.grammar import COMPACT, FREE, SPACED, layout_of
from adapters.errors import UserError
from adapters.rewards.grounding import pieces, searched
from adapters.tasks.chat import ChatTask
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask
from adapters.types import Example

llguidance = pytest.importorskip("llguidance")

UNIQUE = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
TEXT = 'Paid by the "Q\\uoted" Fund\n(GR-12345), 日本学術振興会 👩‍🔬🇩🇪 and NSFC.'


def allows(grammar: str, answer: str) -> bool:
    # As vLLM's guidance backend reads what it is sent as `grammar`.
    read = llguidance.grammar_from("grammar", grammar)
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), read)
    assert not matcher.is_error(), matcher.get_error()
    tokens = list(answer.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def of(schema: dict[str, Any], how: Any = "source", layout: Any = COMPACT) -> Constraint:
    return Constraint(how, schema, layout)


def made(task: Any, how: Any, **options: Any) -> Constraint:
    found = constraint(task, how, **options)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ('the "Q\\uoted" Fund', True),
        ("Fund\n(GR-12345)", True),
        ("日本学術", True),
        ("👩‍🔬🇩🇪", True),
        ("GR-12345", True),
        ("NSFC.", True),
        ("NSF", False),  # another organisation than NSFC
        ("GR-1234", False),  # another number
        ("👩", False),  # a part of one character
        ("the Fund", False),
        ("", False),
        (" ", False),
        (" Fund", False),
        ("nonesuch", False),
    ],
)
def test_a_string_of_source_stands_in_the_text(value: str, allowed: bool) -> None:
    grammar = made(FundingTask(target="compact"), "source").grammar(TEXT)
    answer = json.dumps([{"funder_name": value}], ensure_ascii=False, separators=(",", ":"))
    assert allows(grammar, answer) == allowed
    assert allows(grammar, answer[:-2]) is False, "an answer is whole"


def test_what_source_allows_is_what_grounding_finds() -> None:
    for text in (TEXT, "GrantsGR10131 of NSFandDFG", "a\r\nb e\u0301 c", "٣٤٥ قطر 12,345"):
        cut = pieces(text)
        assert "".join(cut) == text
        for start in range(len(cut)):
            for end in range(start + 1, len(cut) + 1):
                value = "".join(cut[start:end])
                assert value.isspace() or searched(text).has(value) or "Grants" in text, (text, value)


def test_nothing_to_say_can_always_be_said() -> None:
    records = made(RecordsTask(), "source").grammar(TEXT)
    assert allows(records, "{}"), "although the schema requires fields"
    of_fields = '{"shop":null,"date":"2024-05-03","currency":"EUR","items":[],"total":-1.5e2,"paid_by":"cash"}'
    assert allows(records, of_fields)
    assert not allows(records, of_fields.replace('"cash"', '"gold"'))
    assert not allows(records, of_fields.replace("2024-05-03", "2024-13-03"))
    funding = FundingTask(target="compact")
    for text in (TEXT, "", " \n", None):
        grammar = made(funding, "source").grammar(text)
        assert allows(grammar, "[]")
        assert allows(grammar, '[{"funder_name":null}]')
        assert not allows(grammar, '[{"funder_name":"x"}]')


@pytest.mark.parametrize("how", ["schema", "source"])
@pytest.mark.parametrize(
    "task",
    [
        FundingTask(target="compact"),
        FundingTask(),
        IeTask(target="compact", missing_answer="whole"),
        IeTask(target="bare", missing_answer="whole"),
    ],
    ids=repr,
)
def test_the_tasks_own_answers_are_allowed_as_they_are_trained(task: Any, how: str) -> None:
    rows = getattr(task, "example_rows", None) or [task.example_row]
    for row in rows:
        example: Example = task.example(row)
        grammar = made(task, how).grammar(example.meta["text"])
        assert allows(grammar, example.completion or "")
        assert not allows(grammar, (example.completion or "") + "]")


def test_the_layout_is_that_of_the_answers() -> None:
    assert layout_of(["[]", '[{"a":1,"b":2}]']) == COMPACT
    assert layout_of(['{"a": [1, 2]}']) == SPACED
    assert layout_of(['[\n  {\n    "a": 1\n  }\n]']) == layout_of([]) == layout_of(["not JSON"]) == FREE
    spaced = of({"type": "array", "items": {"type": "string"}}, layout=SPACED).grammar("a b")
    assert allows(spaced, '["a", "b"]')
    assert not allows(spaced, '["a","b"]')
    free = of({"type": "array", "items": {"type": "string"}}, layout=FREE).grammar("a b")
    assert allows(free, '["a","b"]')
    assert allows(free, '[\n  "a",\n  "b"\n]')


def test_fields_need_not_be_there_and_schemas_may_lead_to_themselves() -> None:
    tree = {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "naïve \"name\"": {"type": "string"}, "n": {"type": "integer"}, "inner": {"$ref": "#/$defs/node"},
                },
            }
        },
        "$ref": "#/$defs/node",
    }  # fmt: skip
    grammar = of(tree).grammar("a b")
    for answer in ("{}", '{"n":1}', '{"naïve \\"name\\"":"a","inner":{"n":-2,"inner":{}}}', '{"inner":{"inner":{}}}'):
        assert allows(grammar, answer), answer
    for answer in ('{"n":1,}', '{"inner":{},"n":1}', '{"other":"a"}', '{"naïve \\"name\\"":"c"}'):
        assert not allows(grammar, answer), answer
    lists = of({"type": "array", "items": {"type": ["string", "integer", "null"]}, "minItems": 2, "maxItems": 3})
    allowed = [
        n for n in range(5) if allows(lists.grammar("a"), json.dumps(["a", 1, None, "a"][:n]).replace(", ", ","))
    ]
    assert allowed == [0, 2, 3], "the empty answer is always allowed"


def test_strings_that_the_text_need_not_hold_are_free() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kind": {"type": "string", "x-grounded": False},
            "name": {"type": "string"},
        },
    }
    task = RecordsTask(schema=schema)
    grammar = made(task, "source", answers=['{"kind":"k","name":"n"}']).grammar("Ada")
    assert allows(grammar, '{"kind":"anything","name":"Ada"}')
    assert not allows(grammar, '{"kind":"anything","name":"anything"}')


@pytest.mark.parametrize(
    ("schema", "how", "reason"),
    [
        ({"type": "string", "pattern": "^[A-Z]+$"}, "source", "properties.x of the task's schema has the keyword patt"),
        ({"type": "string", "maxLength": 3}, "source", "has the keyword maxLength, which source cannot keep to"),
        (UNIQUE, "source", "the keyword uniqueItems"),
        (UNIQUE, "schema", 'Unimplemented keys: ["uniqueItems"]'),
        ({"type": "string", "pattern": "(?=a)b"}, "schema", "regex parse error"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_a_grammar_is_one_sentence(schema: dict[str, Any], how: str, reason: str) -> None:
    task = RecordsTask(schema={"type": "object", "properties": {"x": schema}})
    with pytest.raises(UserError) as error:
        constraint(task, how, at=("evaluate", 0, "constrain"))
    said = str(error.value)
    assert reason in said
    assert said.startswith(f"constrain: {how} cannot express the task's schema: ")
    assert "\n" not in said
    assert error.value.at == ("evaluate", 0, "constrain")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({}, "names no type, and could hold any string"),
        ({"type": "object"}, "names no type"),
        ({"type": "array"}, "items of the task's schema names no type"),
        ({"$ref": "#/$defs/none"}, "leads nowhere"),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "patternProperties": {}}, "keyword patternProp"),
    ],
)  # fmt: skip
def test_a_place_that_could_hold_any_string_cannot_be_source(schema: dict[str, Any], reason: str) -> None:
    class Own(FundingTask):
        def answer_schema(self) -> dict[str, Any]:
            return schema

    with pytest.raises(UserError, match="cannot express") as error:
        constraint(Own(), "source")
    assert reason in str(error.value)


def test_answers_that_are_not_json_alone_cannot_be_constrained() -> None:
    for task, thinking, reason in (
        (ChatTask(), False, "the task's answers are not JSON alone"),
        (IeTask(), False, "the task's answers are not JSON alone"),
        (FundingTask(), True, "the model thinks before it answers"),
    ):
        assert constraint(task, "off", thinking=thinking) is None
        with pytest.raises(UserError, match=reason):
            constraint(task, "source", thinking=thinking)
