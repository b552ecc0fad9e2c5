"""Conversations of other programs become messages and pairs; what cannot be kept whole is left out and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_formats import converted, run
from tiny import write_jsonl

from adapters.data import preference
from adapters.data.formats import convert
from adapters.data_aug.ie import Options
from adapters.tasks.chat import ChatTask
from adapters.tasks.ie import IeTask


def message(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED, SAID, OTHER = message("user", "Where?"), message("assistant", "In Lima."), message("assistant", "No idea.")
SYSTEM = message("system", "Be brief.")
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
CALL = message(
    "assistant", None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
)
ANSWER = message("tool", "{}", tool_call_id="1", name="f")


def turn(who: str, value: str) -> dict[str, str]:
    return {"from": who, "value": value}


SAME: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sharegpt": ("sharegpt", {"conversations": [turn("human", "Where?"), turn("gpt", "In Lima.")]}, {}),
    "sharegpt system": (
        "sharegpt",
        {"system": "Be brief.", "conversations": [turn("human", "Where?"), turn("gpt", "In Lima.")]},
        {"messages": [SYSTEM, ASKED, SAID]},
    ),
    "sharegpt tools": (
        "sharegpt",
        {"conversations": [
            turn("human", "Where?"),
            turn("function_call", '{"name": "find", "arguments": {"who": "Mira"}}'),
            turn("observation", "Lima"), turn("gpt", "In Lima.")], "tools": json.dumps(TOOLS)},
        {"messages": [
            ASKED,
            message("assistant", None, tool_calls=[{"id": "call_1_0", "type": "function", "function":
                                                    {"name": "find", "arguments": {"who": "Mira"}}}]),
            message("tool", "Lima"), SAID], "tools": TOOLS},
    ),
    "alpaca": ("alpaca", {"instruction": "Where?", "input": "", "output": "In Lima."}, {}),
    "alpaca input": (
        "alpaca",
        {"instruction": "Where?", "input": "Mira flew.", "output": "In Lima.", "history": [["Hi", "Yes?"]],
         "system": "S"},
        {"messages": [message("system", "S"), message("user", "Hi"), message("assistant", "Yes?"),
                      message("user", "Where?\n\nMira flew."), SAID]},
    ),
    "openai": ("openai", {"id": 7, "messages": [ASKED, SAID]}, {"id": 7, "messages": [ASKED, SAID]}),
    "openai tools": (
        "openai",
        {"messages": [SYSTEM, ASKED, CALL, ANSWER, {**SAID, "weight": 1}], "tools": TOOLS},
        {"messages": [SYSTEM, ASKED, CALL, ANSWER, {**SAID, "weight": 1}], "tools": TOOLS},
    ),
    "openai parts": (
        "openai",
        {"conversations": [message("user", [{"type": "text", "text": "Whe"}, {"type": "text", "text": "re?"}]), SAID]},  # type: ignore[arg-type]
        {},
    ),
    "openai before tools": (
        "openai",
        {"messages": [ASKED, message("assistant", None, function_call={"name": "f", "arguments": "{}"})]},
        {"messages": [ASKED, message("assistant", None, tool_calls=[
            {"type": "function", "function": {"name": "f", "arguments": "{}"}}])]},
    ),
    "openai refusal": (
        "openai",
        {"messages": [ASKED, message("assistant", None, refusal="In Lima.")]},
        {},
    ),
    "completion": ("completion", {"prompt": "Where?", "completion": "In Lima."}, {}),
    "completion messages": ("completion", {"prompt": [ASKED], "completion": [SAID]}, {}),
    "response": ("completion", {"prompt": "Where?", "response": "In Lima."}, {}),
}  # fmt: skip
PAIR = {"prompt": [ASKED], "chosen": [SAID], "rejected": [OTHER]}
PAIRS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "texts": ("pairs", {"prompt": "Where?", "chosen": "In Lima.", "rejected": "No idea."}, PAIR),
    "messages": ("pairs", PAIR, PAIR),
    "whole conversations": ("pairs", {"chosen": [ASKED, SAID], "rejected": [ASKED, OTHER]}, PAIR),
    "prompt repeated": ("pairs", {"prompt": "Where?", "chosen": [ASKED, SAID], "rejected": [ASKED, OTHER]}, PAIR),
    "system": (
        "pairs",
        {"system": "Be brief.", "prompt": "Where?", "chosen": "In Lima.", "rejected": "No idea."},
        {**PAIR, "prompt": [SYSTEM, ASKED]},
    ),
    "openai": (
        "pairs",
        {"input": {"messages": [ASKED], "tools": TOOLS}, "preferred_output": [SAID], "non_preferred_output": [OTHER]},
        {**PAIR, "tools": TOOLS},
    ),
    "sharegpt": (
        "sharegpt",
        {"conversations": [turn("human", "Where?")], "chosen": turn("gpt", "In Lima."),
         "rejected": turn("gpt", "No idea.")},
        PAIR,
    ),
    "alpaca": ("alpaca", {"instruction": "Where?", "input": "", "chosen": "In Lima.", "rejected": "No idea."}, PAIR),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_conversations_become_messages(tmp_path: Path, name: str) -> None:
    kind, record, wanted = SAME[name]
    for form in (json.dumps(record), json.dumps([record], indent=1)):
        path = tmp_path / "download"
        path.write_text(form)
        [row], said = converted(path)
        assert (said["format"], said["to"], said["rows"]) == (kind, "chat", {"chat": 1})
        assert row == (wanted or {"messages": [ASKED, SAID]})
        assert (said["left_out"], said["notes"]) == ({}, {})
        assert ChatTask().example(row).completion


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_become_a_prompt_and_two_answers(tmp_path: Path, name: str) -> None:
    kind, record, wanted = PAIRS[name]
    [row], said = converted(write_jsonl(tmp_path / "download", [record]), "--to", "chat")
    assert (said["format"], row) == (kind, wanted)
    example = preference.example(IeTask(), row, source="", id="a")
    assert (example.completion, example.rejected) == ("In Lima.", "No idea.")


def test_json_in_the_cells_of_a_table_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt,chosen,rejected\nWho?,"[{""funder_name"": ""A""}]","[]"\n')
    [row], _ = converted(path)
    assert row["chosen"] == [message("assistant", '[{"funder_name": "A"}]')]
    path.write_text(
        'messages\n"[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]"\n'
    )
    assert converted(path)[0] == [{"messages": [message("user", "a"), message("assistant", "b")]}]


def test_an_answer_that_is_labelled_false_is_no_example(tmp_path: Path) -> None:
    records = [{"prompt": "Where?", "completion": text, "label": text == "In Lima."} for text in ("In Lima.", "No.")]
    [row], said = converted(write_jsonl(tmp_path / "kto", records))
    assert row["messages"] == [ASKED, SAID]
    assert said["left_out"] == {"answers with the label false": 1}


def test_what_cannot_be_kept_is_counted(tmp_path: Path) -> None:
    def sharegpt(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"conversations": list(turns), **more}

    records = [
        sharegpt(turn("human", "a"), {**turn("gpt", "b"), "weight": 0}, source="web"),
        sharegpt(turn("human", "a"), turn("narrator", "b")),
        sharegpt(turn("human", "a"), turn("function_call", "f(x)")),
        sharegpt(turn("human", "a"), turn("gpt", "b"), tools="[broken"),
        sharegpt(turn("human", "a")),
    ]
    rows, said = converted(write_jsonl(tmp_path / "s", records))
    assert (len(rows), said["read"]) == (2, 5)
    assert said["notes"] == {"conversations that do not end with the assistant": 1}
    assert said["left_out"] == {
        "values of source": 1,
        "values of weight": 1,
        "records with the unknown role 'narrator'": 1,
        "records with a function call that is no JSON of name and arguments": 1,
        "records whose tools are text but not JSON": 1,
    }
    image = message("user", [{"type": "image_url", "image_url": {"url": "x"}}])  # type: ignore[arg-type]
    records = [
        {"messages": [ASKED, SAID], "parallel_tool_calls": True},
        {"messages": [image, SAID]},
        {"messages": [message("narrator", "x"), SAID]},
        {"messages": [ASKED, message("assistant", None)]},
    ]
    rows, said = converted(write_jsonl(tmp_path / "o", records))
    assert (len(rows), said["left_out"]) == (1, {
        "values of parallel_tool_calls": 1, "records with images, audio or files": 1,
        "records with the unknown role 'narrator'": 1, "records with a message of nothing": 1,
    })  # fmt: skip
    records = [
        PAIR,
        {"chosen": [ASKED, SAID, ASKED, SAID], "rejected": [ASKED, OTHER]},
        {"prompt": "Why?", "chosen": [ASKED, SAID], "rejected": [ASKED, OTHER]},
        {"prompt": "Where?", "chosen": "a", "rejected": "a"},
        {"prompt": "Where?", "chosen": "a", "rejected": " "},
        {"chosen": "a", "rejected": "b", "score": 1},
    ]
    rows, said = converted(write_jsonl(tmp_path / "p", records))
    assert (len(rows), said["left_out"]) == (1, {
        "pairs that differ in more than one answer of the assistant": 1,
        "pairs whose sides do not begin with their prompt": 1,
        "pairs whose sides are the same": 1,
        "records with an empty text of the assistant": 1,
        "pairs without a prompt": 1, "values of score": 1,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("sharegpt", '{"conversations": [{"from": "human"}]}', "line 1: no ShareGPT conversations"),
        ("alpaca", '{"instruction": "a", "output": "b"}\n{"instruction": "a"}', "line 2: no Alpaca instructions"),
        ("openai", '[{"messages": [{"content": "a"}]}]', "record 1: no OpenAI messages"),
        ("pairs", '{"prompt": "a", "chosen": "b"}', "line 1: no preference pairs"),
        ("completion", '{"completion": "b"}', "line 1: no prompt and completion"),
    ],
)
def test_wrong_input_is_named_with_its_line(tmp_path: Path, kind: str, text: str, wanted: str) -> None:
    path = tmp_path / "a"
    path.write_text(text)
    done = run(path, "-o", tmp_path / "o", "--from", kind)
    assert (done.exit_code, wanted in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "o").exists(), "nothing half-written"


TEXTS = st.text("aé😀\u0301\n{ ", min_size=1, max_size=6).filter(str.strip)


@given(said=st.lists(TEXTS, min_size=2, max_size=6), system=st.none() | TEXTS)
def test_conversations_round_trip(
    tmp_path_factory: pytest.TempPathFactory, said: list[str], system: str | None
) -> None:
    said = said[: len(said) // 2 * 2]
    roles = [("user", "human"), ("assistant", "gpt")] * (len(said) // 2)
    wanted = [message(role, text) for (role, _), text in zip(roles, said, strict=True)]
    turns = [turn(who, text) for (_, who), text in zip(roles, said, strict=True)]
    if system:
        wanted = [message("system", system), *wanted]
    top = {"system": system} if system else {}
    pairs = [said[n : n + 2] for n in range(0, len(said) - 2, 2)]
    path = tmp_path_factory.mktemp("f") / "a"
    for record in (
        {"conversations": turns, **top},
        {"messages": wanted},
        {"instruction": said[-2], "output": said[-1], "history": pairs, **top},
        {"prompt": wanted[:-1], "completion": wanted[-1:]},
    ):
        assert list(convert(write_jsonl(path, [record]), Options()).rows) == [{"messages": wanted}]
    rejected = {**wanted[-1], "content": f"{said[-1]}!"}
    write_jsonl(path, [{"chosen": wanted, "rejected": [*wanted[:-1], rejected]}])
    [row] = convert(path, Options()).rows
    assert row == {"prompt": wanted[:-1], "chosen": wanted[-1:], "rejected": [rejected]}
