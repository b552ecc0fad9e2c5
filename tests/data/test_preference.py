"""What a preference row or a trajectory says reaches the prompt, or the row is refused by its key."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import funding_rows

from adapters.data import preference
from adapters.data_aug.agent import turns
from adapters.data_aug.agent.pairs import pair as corrupted_pair
from adapters.pairs import mine
from adapters.tasks.agent import AgentTask
from adapters.tasks.funding import FundingTask
from adapters.types import Example

USER = {"role": "user", "content": "Who paid?"}
CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"q": "x"}}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
REPLY = {"role": "tool", "name": "look_up", "tool_call_id": "c1", "content": "Sample Trust"}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
PAIR = {"id": "1", "prompt": "Who paid?", "chosen": "Sample Trust", "rejected": "I guess nobody."}


def read(**changed: Any) -> Example:
    return preference.example(FundingTask(), {**PAIR, **changed}, source="s", id="1")


def test_a_system_column_comes_first() -> None:
    system = {"role": "system", "content": "Answer in JSON."}
    assert read(system="Answer in JSON.").prompt == (system, USER)
    assert read(system="Answer in JSON.", prompt=[USER]).prompt == (system, USER)
    assert read(system=None).prompt == read(system="").prompt == (USER,)
    with pytest.raises(ValueError, match="a system message twice"):
        read(system="Answer in JSON.", prompt=[system, USER])
    with pytest.raises(ValueError, match="system must be a text, not list"):
        read(system=["x"])


def test_calls_and_replies_of_tools_are_carried() -> None:
    assert read(prompt=[USER, CALLS, REPLY]).prompt == (USER, CALLS, REPLY)
    as_json = {"id": "c1", "function": {"name": "look_up", "arguments": '{"q": "x"}'}}
    null = {"role": "assistant", "content": None, "tool_calls": [as_json], "refusal": None, "name": None}
    assert read(prompt=[USER, null, REPLY]).prompt[1] == {**CALLS, "tool_calls": [{"id": "c1", **CALL}]}
    parts = {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "paid?"}]}
    assert read(prompt=[parts]).prompt == (USER,)


def test_tools_travel_with_the_first_message() -> None:
    tools = [TOOL]
    assert read(tools=tools).prompt == ({**USER, "tools": tools},)
    assert read(tools='[{"type": "function"}]').prompt[0]["tools"] == [{"type": "function"}]
    made = read(tools=tools, system="Be brief.", prompt=[USER, CALLS, REPLY])
    assert made.prompt == ({"role": "system", "content": "Be brief.", "tools": tools}, USER, CALLS, REPLY)
    again = mine.row(made, "a", "b", {})
    assert preference.example(FundingTask(), again, source="s", id="1").prompt == made.prompt, "a pair file keeps them"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"prompt": [USER, {"role": "assistant", "content": None}, REPLY]}, "message 2 is an empty turn"),
        ({"prompt": [USER, {"role": "assistant", "content": ""}, REPLY]}, "message 2 is an empty turn"),
        ({"prompt": [{"role": "user", "content": None}]}, "message 1 is an empty turn"),
        ({"prompt": [{"role": "user"}]}, "message 1 is an empty turn"),
        ({"prompt": [{**USER, "function_call": {"name": "f"}}]}, "message 1 has the key 'function_call'"),
        ({"prompt": [USER, {**CALLS, "reasoning_content": 7}, REPLY]}, "message 2: reasoning_content must be a text"),
        ({"prompt": [{**USER, "images": ["a.png"]}]}, "message 1 has the key 'images'"),
        ({"prompt": [{"role": "user", "content": [{"type": "image", "url": "a"}]}]}, "message 1: content must be"),
        ({"prompt": [{**USER, "tool_calls": [CALL]}]}, "message 1 has tool_calls, which only the assistant makes"),
        ({"prompt": [USER, {**CALLS, "tool_calls": ["f()"]}, REPLY]}, "message 2: a tool call is"),
        ({"prompt": [USER, {**CALLS, "tool_calls": {"name": "f"}}, REPLY]}, "message 2: tool_calls must be a list"),
        ({"prompt": [USER, CALLS, {**REPLY, "tool_call_id": 7}]}, "message 3: tool_call_id must be a text, not int"),
        ({"prompt": [USER, CALLS, {**REPLY, "tools": [TOOL]}]}, "tools belong to the whole conversation"),
        ({"tools": {"name": "f"}}, "tools must be a list, not dict"),
        ({"tools": "look_up"}, "tools is text, but not JSON"),
        ({"tools": ["look_up"]}, "list of JSON schemas"),
        ({"rejected": [{"role": "assistant", "content": "No.", "name": "bot"}]}, "rejected has name"),
        ({"chosen": [{"role": "assistant", "content": "No.", "mood": "calm"}]}, "chosen has the key 'mood'"),
        ({"chosen": [{"role": "user", "content": "No."}]}, "chosen must be a message of the assistant"),
        ({"prompt": [USER, CALLS]}, "ends with the assistant's own turn"),
    ],
)
def test_what_would_not_reach_the_prompt_is_refused_by_key(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(**changed)


def test_a_pair_of_a_tasks_own_columns_is_read_by_the_task() -> None:
    row = {**funding_rows(1)[0], "rejected": "Nobody."}
    made = preference.example(FundingTask(), row, source="s", id="1")
    assert made.prompt == FundingTask().prompt(row["funding_statement"])


# --- trajectories ----------------------------------------------------------------------------------------------------

TURN = "One count answers this.\nAction: Operation\n```sql\nSELECT COUNT(*) FROM `boats` WHERE `Metres` > 12;\n```"


def agent(**changed: Any) -> Example:
    row = {"env": "dbbench", "messages": [USER, CALLS, REPLY], "completion": TURN, **changed}
    return AgentTask().example(row, id="1")


def test_an_agents_row_keeps_calls_system_and_tools() -> None:
    prompt = agent(tools=[TOOL]).prompt
    assert [m["role"] for m in prompt] == ["user", "assistant", "user", "assistant", "tool"]
    assert prompt[0]["tools"] == [TOOL]
    assert prompt[0]["content"] == AgentTask().dbbench
    assert prompt[2:] == (USER, CALLS, REPLY)
    prompt = agent(system="Be brief.", tools=[TOOL]).prompt
    assert prompt[0] == {"role": "system", "content": "Be brief.", "tools": [TOOL]}
    assert [m["role"] for m in prompt] == ["system", "user", "assistant", "user", "assistant", "tool"]
    assert agent(prompt=[USER, CALLS, REPLY], system="Be brief.").prompt[1:] == (USER, CALLS, REPLY)
    with pytest.raises(ValueError, match="message 2 is an empty turn"):
        agent(messages=[USER, {**CALLS, "tool_calls": []}, REPLY])


def test_the_turns_of_a_trajectory_keep_what_stood_before_them() -> None:
    messages = [USER, {**CALLS, "content": None}, REPLY, {"role": "assistant", "content": TURN, "target": "yes"}, USER]
    [row] = turns({"id": "t", "env": "dbbench", "messages": messages, "system": "Be brief.", "tools": [TOOL]})
    assert row["messages"] == messages[:3]
    assert (row["system"], row["tools"]) == ("Be brief.", [TOOL])
    assert AgentTask().example(row).prompt[-2:] == (CALLS, REPLY)
    import random

    made = corrupted_pair(row, "no_action", random.Random(0))
    assert made is not None
    assert (made["system"], made["tools"], made["messages"]) == (row["system"], row["tools"], row["messages"])
    with pytest.raises(ValueError, match="message 2 is a target and has tool_calls"):
        turns({"env": "dbbench", "messages": [USER, {"role": "assistant", "content": TURN, "tool_calls": [CALL]}]})
    with pytest.raises(ValueError, match="messages must be a list"):
        turns({"env": "dbbench", "messages": [USER, {"role": "assistant", "content": None}]})


def test_sides_may_call_tools_and_think() -> None:
    answer = {"role": "assistant", "content": "No.", "thinking": "Hm."}
    row = {"prompt": [USER], "chosen": [{**CALLS, "content": "I look."}], "rejected": [answer]}
    pair = preference.example(FundingTask(), row, source="s", id="1")
    assert pair.completion is not None
    assert pair.completion.startswith("I look.\n<tool_call>")
    assert pair.answer is not None
    assert [call["function"]["name"] for call in pair.answer["tool_calls"]] == [CALL["function"]["name"]]
    assert (pair.rejected, pair.rejected_answer) == ("No.", answer)
