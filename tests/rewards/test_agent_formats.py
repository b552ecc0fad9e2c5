"""Turns through the environments' parsers: what they read, what they refuse, and that nothing is ever evaluated."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.rewards.agent_formats import (
    ENVS,
    answers,
    available,
    is_json_list,
    read,
    statements,
    without_actions,
    write,
)

OPERATE = "I count the rows.\nAction: Operation\n```sql\nSELECT COUNT(*)\nFROM `t`;\n```"
ANSWER = 'The result is 4.\nAction: Answer\nFinal Answer: ["4"]'


def test_dbbench_reads_an_operation_and_an_answer() -> None:
    turn = read("dbbench", OPERATE)
    assert (turn.kind, turn.argument) == ("operate", "SELECT COUNT(*) FROM `t`;")
    assert (turn.thought, turn.after, turn.actions) == ("I count the rows.", "", 1)
    turn = read("dbbench", ANSWER)
    assert (turn.kind, turn.argument, turn.thought, turn.actions) == ("answer", '["4"]', "The result is 4.", 1)
    assert read("dbbench", '\nFinal Answer: ["a"]').kind == "answer", "Action: Answer is not required"
    assert read("dbbench", OPERATE + "\n" + OPERATE).argument == "SELECT COUNT(*) FROM `t`;", "the first block counts"


@pytest.mark.parametrize(
    "text",
    [
        "Action: Operation ```sql\nSELECT 1;\n```",
        "Action: Operation\n```sql\nSELECT 1;```",
        "Action: Operation\n```SQL\nSELECT 1;\n```",
        "Action: Operation \n```sql\nSELECT 1;\n```",
        "Action: Operation\r\n```sql\r\nSELECT 1;\r\n```",
        "action: Operation\n```sql\nSELECT 1;\n```",
        "My Action: look first\nAction: Operation\n```sql\nSELECT 1;\n```",
        "ACTION: Operation\n```sql\nSELECT 1;\n```",
        "Action: Operation\nSELECT 1;",
        "Action: Operation\n```sql\n\n```",
        'Action: Answer\n**Final Answer:** ["a"]',
        'Final Answer: ["a"]',
        'Action: Answer Final Answer: ["a"]',
        "Action: Answer\nFinal Answer:",
        "Action: Answer\nfinal answer: 4",
        "",
        "Certainly!",
    ],
)
def test_dbbench_refuses(text: str) -> None:
    turn = read("dbbench", text)
    assert (turn.kind, turn.argument) == (None, "")
    assert turn.prose == text


def test_alfworld_reads_the_rest_of_the_first_line_in_lower_case() -> None:
    turn = read("alfworld", "THOUGHT: It may be there.\n ACTION: Go To desk 1 \n")
    assert (turn.kind, turn.argument, turn.thought) == ("act", "go to desk 1", "It may be there.")
    assert read("alfworld", "ACTION: look").argument == "look"
    assert read("alfworld", "ACTION: look\nACTION: inventory")[:2] == ("act", "look")
    assert read("alfworld", "ACTION: look\nACTION: inventory").actions == 2


@pytest.mark.parametrize(
    "text", ["Action: go to desk 1", "action: look", "ACTION:", "ACTION:  \nlook", "THOUGHT: hm", ""]
)
def test_alfworld_refuses(text: str) -> None:
    assert read("alfworld", text).kind is None


def test_react_reads_an_action_or_a_final_answer() -> None:
    assert read("react", "Thought: I look it up.\nAction: search[x]")[:2] == ("act", "search[x]")
    assert read("react", "Thought: Done.\nFinal Answer: Paris")[:3] == ("answer", "Paris", "Done.")
    turn = read("react", "Thought: a\nAction: tool\nAction Input: {}")
    assert (turn.kind, turn.after, turn.actions) == ("act", "", 1)
    for text in ("Thought: a", "I will do Action: x", "action: x", "Action:\nx", ""):
        assert read("react", text).kind is None


@pytest.mark.parametrize("env", ENVS)
def test_what_is_written_is_read_back(env: str) -> None:
    for kind, argument in (("operate", "SELECT 1;"), ("answer", '["a", "b"]'), ("act", "go to desk 1")):
        if (env == "dbbench") == (kind == "act") or (env == "alfworld" and kind == "answer"):
            continue
        if env != "dbbench" and kind == "operate":
            continue
        turn = read(env, write(env, "Why.", kind, argument))
        assert (turn.kind, turn.argument, turn.thought, turn.after, turn.actions) == (kind, argument, "Why.", "", 1)


TEXTS = st.lists(
    st.sampled_from(
        [
            "Action: ",
            "Operation",
            "Answer",
            "\n",
            "```sql\n",
            "\n```",
            "SELECT 1;",
            "\nFinal Answer:",
            '["a"]',
            " ",
            "\r",
            "ACTION:",
            "go",
            "x",
            "```",
            "Action: Operation\n",
        ]
    ),
    max_size=14,
).map("".join)


@given(TEXTS)
def test_the_dbbench_parser_is_the_environment_s(text: str) -> None:
    """Against the regular expressions that the environment uses, in its order."""
    action = re.search(r"Action: (.*?)\n", text)
    kind, argument = None, ""
    if action and action.group(1) == "Operation":
        block = re.search(r"```sql\n([\s\S]*?)\n```", text)
        if block and block.group(1).strip():
            kind, argument = "operate", block.group(1).strip().replace("\n", " ")
    else:
        answer = re.search(r"\nFinal Answer:(.*)", text)
        if answer and answer.group(1).strip():
            kind, argument = "answer", answer.group(1).strip()
    assert read("dbbench", text)[:2] == (kind, argument)


@given(TEXTS | st.text(max_size=200), st.sampled_from(ENVS))
def test_no_text_breaks_a_parser(text: str, env: str) -> None:
    turn = read(env, text)
    assert (turn.kind is None) == (turn.argument == "")
    assert turn.actions >= (turn.kind is not None)


@pytest.mark.parametrize(
    "unit", ["Action: ", "```sql\n", "\n", " ", "action ", "'", '"', "Final Answer:", "Action: x ", "* ", "ACTION:"]
)
def test_long_garbage_is_read_to_its_end(unit: str) -> None:
    """Parsers that look again and again for an end that never comes do not return from these."""
    text = unit * (200_000 // len(unit))
    for env in ENVS:
        for whole in (text, "Action: Operation\n```sql\n" + text + "\n```"):
            turn = read(env, whole)
            assert len(turn.thought) + len(turn.argument) + len(turn.after) <= len(whole)


def test_answers_are_read_and_never_run(tmp_path: Path) -> None:
    assert answers('["a", "b"]') == ["a", "b"]
    assert answers("['a', 2]") == ["a", "2"]
    assert answers('"xy"') is None, "a bare text would become the list of its letters"
    mark = tmp_path / "mark"
    for text in (f"[open({str(mark)!r}, 'w')]", "cor", "[c for c in cor]", "__import__('os')", "[" * 5000, "4", ""):
        assert answers(text) is None
    assert not mark.exists()
    assert is_json_list('["a"]')
    for text in ("['a']", '"a"', "[]", "[1]", '["a"].', "a", '{"a": 1}', "[" * 100_000):
        assert not is_json_list(text)


def test_statements_are_counted_outside_quotes() -> None:
    assert statements("SELECT 1;") == 1
    assert statements("SELECT ';' FROM `a;b`;") == 1
    assert statements("SELECT 1; DROP TABLE t") == 2
    assert statements("SELECT 'it''s; fine'") == 1


def test_the_list_of_actions() -> None:
    text = "You see a bed. AVAILABLE ACTIONS: go to bed 1\nlook\n"
    assert available(text) == ["go to bed 1", "look"]
    assert without_actions(text) == "You see a bed."
    assert available("You see a bed.") is None


def test_real_trajectories_are_read() -> None:
    folder = os.environ.get("ADAPTERS_DATA")
    if not folder:
        pytest.skip("ADAPTERS_DATA is unset: it names the folder that holds agent/alfworld_examples.json")
    held = json.loads((Path(folder) / "agent" / "alfworld_examples.json").read_text())
    turns = [text for example in held.values() for text in example if "ACTION:" in text]
    assert len(turns) > 20
    assert all(read("alfworld", text).kind == "act" for text in turns)
    assert all(read("dbbench", text).kind is None for text in turns)


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def test_fc_reads_the_three_calls() -> None:
    turn = read("fc", "I count.\n" + call("execute_sql", query="SELECT 1\nFROM `t`;"))
    assert (turn.kind, turn.argument, turn.thought) == ("operate", "SELECT 1 FROM `t`;", "I count.")
    assert (turn.after, turn.actions) == ("", 1)
    turn = read("fc", call("commit_final_answer", answers=["a", "Final Answer: b"]))
    assert (turn.kind, json.loads(turn.argument), turn.actions) == ("answer", ["a", "Final Answer: b"], 1)
    turn = read("fc", call("take_action", action=" Go To desk 1 "))
    assert (turn.kind, turn.argument) == ("act", "go to desk 1")
    assert read("fc", 2 * call("take_action", action="look")).actions == 2
    assert read("fc", call("execute_sql", query="SELECT 1; SELECT 2")).actions == 2
    assert read("fc", call("take_action", action="look") + " Bye!").after == " Bye!"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I look.",
        '{"name": "take_action", "arguments": {"action": "look"}}',
        '<tool_call>\n{"name": "take_action", "arguments": {"action": "look"}}',
        "</tool_call><tool_call>",
        call("take_action", action=""),
        call("take_action", action=1),
        call("take_action", move="look"),
        call("fly", action="look"),
        call("commit_final_answer", answers="a"),
        call("commit_final_answer", answers=[1]),
        call("commit_final_answer", answers=[]),
        call("execute_sql", query=None),
        '<tool_call>{"name": ["take_action"], "arguments": {"action": "look"}}</tool_call>',
        '<tool_call>{"name": "take_action", "arguments": "look"}</tool_call>',
        "<tool_call>{'name': 'take_action'}</tool_call>",
        "<tool_call>[]</tool_call>",
        "<tool_call>" + "[" * 100_000 + "</tool_call>",
        "Action: Operation\n```sql\nSELECT 1;\n```",
    ],
)
def test_fc_refuses(text: str) -> None:
    assert read("fc", text).kind is None


@pytest.mark.parametrize(
    ("kind", "argument"), [("operate", "SELECT 1;"), ("answer", '["a", "b"]'), ("act", "go to desk 1")]
)
def test_what_fc_writes_it_reads(kind: str, argument: str) -> None:
    turn = read("fc", write("fc", "Why.", kind, argument))
    assert (turn.kind, turn.argument, turn.thought, turn.actions, turn.after) == (kind, argument, "Why.", 1, "")


@pytest.mark.parametrize("kind", ["operate", "answer", "act"])
def test_every_corruption_of_a_call_breaks_the_discipline(kind: str) -> None:
    import random

    from adapters.data_aug.agent.corruptions import KINDS, source_turn
    from adapters.rewards.agent import FILLER, THOUGHT, examine

    argument = {"operate": "SELECT 1 FROM `t`;", "answer": '["4"]', "act": "look"}[kind]
    text = write(
        "fc",
        "The table holds a line for each of the days, so one step is enough for what is asked here.",
        kind,
        argument,
    )
    before = [{"role": "assistant", "content": write("fc", "So.", "act", "go on")}]
    for name, corrupt in KINDS.items():
        for seed in range(8):
            bad = corrupt(source_turn("fc", text, before, None), random.Random(seed))
            if name == "unavailable":
                assert bad is None, "it needs the list of actions"
                continue
            assert bad, name
            if name == "loop":
                continue
            held = examine(bad, read("fc", bad), {"env": "fc"}, thought=THOUGHT, filler=FILLER)
            assert not all(value is not False for value in held.values()), (name, bad)
            assert (name not in ("wrong_format", "no_action")) == held["parse_ok"], (name, bad)
