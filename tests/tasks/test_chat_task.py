"""The `chat` task: rows of any form of conversation, what is learned, what counts as the answer."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.data import preference
from adapters.data_aug import desk
from adapters.plugins.task_bench import try_task
from adapters.rewards import chat_answers
from adapters.tasks.chat import ChatTask

CALL = {"type": "function", "function": {"name": "book", "arguments": {"n": 2}}}
ASK, SAY = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Lima."}


def rows(*given: dict[str, Any], task: ChatTask | None = None) -> list:
    task = task or ChatTask()
    return [preference.example(task, row, source="s", id="r") for row in given]


def test_the_forms_of_a_row() -> None:
    whole, text, messages, unanswered = rows(
        {"messages": [ASK, SAY]},
        {"prompt": "Where?", "completion": "In Lima."},
        {"prompt": [ASK], "completion": [SAY]},
        {"messages": [ASK]},
    )
    assert whole.prompt == text.prompt == messages.prompt == (ASK,)
    assert whole.completion == text.completion == messages.completion == "In Lima."
    assert whole.gold == {"content": "In Lima.", "tool_calls": []}
    assert (unanswered.prompt, unanswered.completion, unanswered.gold) == ((ASK,), None, None)


def test_turns_to_be_learned() -> None:
    quiet = {**SAY, "weight": 0}
    turns = [ASK, SAY, ASK, quiet, ASK, SAY]
    all_turns, cut = rows({"messages": turns}, {"messages": [*turns, ASK, quiet]}, task=ChatTask(system="Be brief."))
    assert all_turns.prompt[0] == {"role": "system", "content": "Be brief."}
    assert all_turns.learned == cut.learned == (2,)
    assert all_turns.prompt == cut.prompt
    [last] = rows({"messages": turns}, task=ChatTask(loss="last"))
    assert last.learned == ()


def test_calls_and_thoughts() -> None:
    tools = [{"type": "function", "function": {"name": "book", "parameters": {}}}]
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Two of them."}
    [example] = rows({"messages": [ASK, calling], "tools": tools})
    assert example.prompt[0]["tools"] == tools
    assert example.answer == {**calling, "content": ""}
    assert example.gold["tool_calls"] == [{"name": "book", "arguments": {"n": 2}}]
    assert example.completion == '<tool_call>\n{"name": "book", "arguments": {"n": 2}}\n</tool_call>'


def test_pairs_may_call() -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    [pair, of_messages] = rows(
        {"prompt": "Book", "chosen": [calling], "rejected": "No."},
        {"messages": [ASK], "chosen": SAY, "rejected": calling},
        task=ChatTask(system="Be brief."),
    )
    assert pair.prompt[0]["role"] == "system"
    assert (pair.answer, pair.rejected, pair.rejected_answer) == ({**calling, "content": ""}, "No.", None)
    assert (of_messages.completion, of_messages.rejected_answer) == ("In Lima.", {**calling, "content": ""})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [SAY]}, "nothing stands before the assistant's answer"),
        ({"messages": [ASK, {**SAY, "weight": 0}]}, "every turn of the assistant has the weight 0"),
        ({"messages": [ASK, {**SAY, "weight": 0.5}, ASK, SAY]}, "the weight of a message is 0 or 1, not 0.5"),
        ({"messages": [ASK, SAY], "prompt": "a"}, "the row has messages and prompt"),
        (
            {"conversations": [{"from": "human", "value": "a"}]},
            "has conversations: `adapters data convert --to chat`",
        ),
        ({"messages": "Where?", "completion": ""}, "the row has messages and completion"),
        ({"prompt": "Where?", "completion": " "}, "completion must be a text or a list of one assistant message"),
        ({"messages": [{"role": "robot", "content": "x"}, SAY]}, "a message has the role 'robot'"),
        ({"messages": [{**ASK, "mood": "calm"}, SAY]}, "message 1 has the key 'mood'"),
        ({"messages": [ASK, {"role": "assistant", "content": None}]}, "empty turn"),
        ({"messages": [ASK, SAY], "tools": "{"}, "tools is text, but not JSON"),
        ({"messages": 3}, "prompt must be a text or a list of messages"),
        ({}, "the row has neither messages nor prompt"),
    ],
)
def test_a_row_that_is_none(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ChatTask().example(row)


def test_counts() -> None:
    task = ChatTask()
    gold = {"content": "In Lima, Peru.", "tool_calls": []}
    half = task.counts(gold, "Lima")
    assert half["tokens"]["text"] == (1, 1, pytest.approx(0.5))
    assert half["exact"]["answer"].matched == 0
    assert task.counts(gold, " In Lima, Peru.\n")["exact"]["answer"].matched == 1
    assert task.counts(gold, "")["tokens"]["text"] == (1, 0, 0)
    order = {"content": '{"a": 1, "b": [2]}', "tool_calls": []}
    assert task.counts(order, '{"b": [2.0], "a": 1}')["exact"] == {"answer": (1, 1, 1), "json": (1, 1, 1)}
    assert task.counts(order, '{"b": [2], "a"')["exact"]["json"].matched == 0
    calling = {"content": "", "tool_calls": [{"name": "book", "arguments": {"n": 2}}]}
    said = chat_answers.write({"tool_calls": [CALL, CALL]})
    assert task.counts(calling, said)["tokens"] == {"text": (0, 0, 0), "call": (1, 2, 1)}
    assert task.counts(calling, said)["exact"]["answer"].matched == 0
    assert task.counts(None, "x")["tokens"]["text"] == (0, 0, 0)


def test_the_bench_finds_nothing() -> None:
    task = ChatTask()
    made = [*task.example_rows, *desk.synthesize(3, 0)]
    tried = try_task(task, "chat", [(row, task.example(row, id=str(n))) for n, row in enumerate(made)])
    assert (tried.errors, tried.warnings) == ([], [])


def test_extraction() -> None:
    task = ChatTask()
    cell = '[{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Lima."}]'
    assert task.request({"messages": cell}) == task.request({"messages": "Where?"}) == (ASK,)
    answer = task.decode("Yes.\n" + chat_answers.write({"tool_calls": [CALL]}))
    assert task.record(answer) == {"content": "Yes.", "tool_calls": [{"name": "book", "arguments": '{"n": 2}'}]}
    with pytest.raises(ValueError, match="a tool call cannot be read"):
        task.decode("<tool_call>{</tool_call>")


def test_desk_rows_are_the_same_for_a_seed_and_end_with_the_assistant() -> None:
    made = list(desk.synthesize(60, 3))
    assert made == list(desk.synthesize(60, 3))
    assert made[:10] == list(desk.synthesize(10, 3))
    assert made != list(desk.synthesize(60, 4))
    assert {2, 4, 6} <= {len(row["messages"]) for row in made}
    said = [[m["content"] for m in row["messages"] if m["role"] == "assistant"] for row in made]
    assert all(sum(map(chat_answers.is_json, answers)) == 1 for answers in said)
    assert {answers[-1] for answers in said if not chat_answers.is_json(answers[-1])} == {"You are welcome."}
