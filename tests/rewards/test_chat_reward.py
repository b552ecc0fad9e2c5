"""The `chat` reward, and tool calls read in the forms that chat templates write."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.rewards.chat import Chat
from adapters.rewards.chat_answers import read, same_text, token_f1
from adapters.types import Example, Scored

BOOK = {"name": "book", "arguments": {"n": 2, "where": "Old Quay"}}
TEXT = '{"name": "book", "arguments": {"n": 2, "where": "Old Quay"}}'


def example(content: str = "", *calls: dict[str, Any]) -> Example:
    return Example("r", "s", (), gold={"content": content, "tool_calls": list(calls)})


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (f"<tool_call>\n{TEXT}\n</tool_call>", ""),
        (f"Yes.\n<tool_call>{TEXT}</tool_call>", "Yes."),
        (f"<tool_call>{TEXT}", ""),
        (
            "<tool_call>\n<function=book>\n<parameter=n>\n2\n</parameter>\n<parameter=where>\nOld Quay\n</parameter>\n"
            "</function>\n</tool_call>",
            "",
        ),
        (
            "<tool_call>book\n<arg_key>n</arg_key>\n<arg_value>2</arg_value>\n<arg_key>where</arg_key>\n"
            "<arg_value>Old Quay</arg_value>\n</tool_call>",
            "",
        ),
        ('<function=book>{"n": 2, "where": "Old Quay"}</function>', ""),
        (f"[TOOL_CALLS] [{TEXT}]", ""),
        ('[TOOL_CALLS]book[ARGS]{"n": 2, "where": "Old Quay"}', ""),
        ('[TOOL_CALLS]book{"where": "Old Quay", "n": 2}', ""),
        ('book{"where": "Old Quay", "n": 2}', None),
        (
            '<|channel|>commentary to=functions.book <|constrain|>json<|message|>{"n": 2, "where": "Old Quay"}<|call|>',
            "",
        ),
        (' to=functions.book<|channel|>commentary json<|message|>{"n": 2, "where": "Old Quay"}<|call|>', ""),
        ('to=functions.bookcommentary json{"n": 2, "where": "Old Quay"}', ""),
        ('<|python_tag|>{"name": "book", "parameters": {"n": 2, "where": "Old Quay"}}', ""),
        (f'{{"type": "function", "function": {TEXT}}}', None),
        (TEXT.replace("arguments", "parameters"), None),
        (f"[{TEXT}]", None),
    ],
)
def test_forms_of_a_call(text: str, content: str | None) -> None:
    answer = read(text)
    assert (answer.calls, answer.problem) == ((BOOK,), "")
    assert answer.content == (text if content is None else content)


def test_several_calls() -> None:
    assert read(f"{TEXT};{TEXT}").calls == read(f"<tool_call>{TEXT}</tool_call>\n" * 2).calls == (BOOK, BOOK)
    assert read("[TOOL_CALLS]a{}b{}").calls == ({"name": "a", "arguments": {}}, {"name": "b", "arguments": {}})


@pytest.mark.parametrize(
    "text",
    ["<tool_call>book(2)</tool_call>", '<tool_call>{"name": "book"}</tool_call>', "[TOOL_CALLS] book", "<function=f>x"],
)
def test_a_call_that_cannot_be_read(text: str) -> None:
    answer = read(text)
    assert answer.calls == ()
    assert answer.problem


def test_json_that_is_no_call_is_text() -> None:
    for text in ('{"name": "Lima"}', "[1, 2]", '{"arguments": {}}', "[]"):
        assert read(text) == (text, (), "")


def test_texts() -> None:
    assert token_f1("The river is long.", "the long RIVER") == pytest.approx(2 * 3 / 7)
    assert token_f1("東京都", "東京") == pytest.approx(2 * 2 / 5)
    assert token_f1("cafe\u0301", "caf\u00e9") == 1
    assert (token_f1("!", "!"), token_f1("!", "?"), token_f1("a", "")) == (1, 0, 0)
    assert same_text(" a\n", "a")
    assert same_text('{"a": 1, "b": 2.0}', '{"b": 2, "a": 1}')
    assert not same_text('{"a": "1"}', '{"a": 1}')


@pytest.mark.parametrize(
    ("reward", "gold", "text", "score"),
    [
        (Chat(), example("In Lima."), "In Lima.", 1.0),
        (Chat(), example("In Lima."), "", 0.0),
        (Chat(), example("In Lima."), f"In Lima. <tool_call>{TEXT}</tool_call>", 0.5),
        (Chat(), example("", BOOK), TEXT, 1.0),
        (Chat(), example("", BOOK), "In Lima.", 0.0),
        (Chat(), example("", BOOK, BOOK), TEXT, pytest.approx(2 / 3)),
        (Chat(tokens=0, exact=1, calls=0), example("", BOOK), f"[{TEXT}]", 1.0),
        (Chat(tokens=0, json=1), example('{"a": 1}'), '{"b": 2}', 1.0),
        (Chat(tokens=0, json=1), example("In Lima."), "In Lima.", None),
        (Chat(), example(TEXT), TEXT, 1.0),
        (Chat(), Example("r", "s", ()), "x", None),
    ],
)
def test_scores(reward: Chat, gold: Example, text: str, score: float | None) -> None:
    assert reward(text, gold).score == score


def test_parts() -> None:
    assert Chat()("in Lima", example("In Lima.")) == Scored(1.0, {"exact": 0.0, "tokens": 1.0})
    assert Chat(exact=1).formula() == "1 tokens + 1 calls + 1 exact, weighted mean"


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"tokens": -1}, "tokens is a weight"), ({"tokens": 0, "calls": 0}, "one of tokens, calls, exact and json")],
)
def test_wrong_parameters(given: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Chat(**given)
