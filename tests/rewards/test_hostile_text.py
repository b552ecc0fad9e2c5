"""What a model may write, to everything that reads it: an answer in bounded time, in range, never an exception."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from tiny import funding_rows, ie_rows

from adapters.backends.json_stop import JsonEnd, first_value
from adapters.data_aug.agent import synthesize
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import GARBAGE, NamedReward
from adapters.rewards.agent import Agent
from adapters.rewards.chat import Chat
from adapters.rewards.funding import Funding
from adapters.rewards.ie import InformationExtraction
from adapters.rewards.records import Records
from adapters.tasks.agent import AgentTask
from adapters.tasks.chat import ChatTask
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask
from adapters.types import Example, Extracting, Task

DEEP, LONG = 20_000, 10**7
SECONDS = 10
"""Of processor time; a step that is quadratic in the text takes many minutes."""
VALUES = {
    "brackets": "[" * 2 * DEEP,
    "braces": '{"a":' * DEEP,
    "closed brackets": "[" * DEEP + "]" * DEEP,
    "closing brackets": "]" * DEEP,
    "a number as id": '[{"funder_name": 7, "awards": [{"award_ids": [1613002, -1.5e-7, 1E400]}]}]',
    "a huge number": '[{"funder_name": "NIH", "awards": [{"award_ids": [' + "9" * 100_000 + "]}]}]",
    "booleans": '[{"funder_name": true, "awards": [{"award_ids": [false, null]}], "person": true}]',
    "nan": '{"person": [NaN, Infinity, -Infinity], "funder_name": NaN}',
    "duplicate keys": '[{"funder_name": "A", "funder_name": "B", "person": ["x"], "person": ["y"], "person": 3}]',
    "many duplicate keys": "{" + ",".join(['"person": ["a"]'] * DEEP) + "}",
    "many keys": json.dumps({f"k{n}": [n] for n in range(DEEP)}),
    "10 MB of letters": "x" * LONG,
    "10 MB of spaces": " " * LONG,
    "10 MB of line ends": "\n" * LONG,
    "a 10 MB string": '[{"funder_name": "' + "x" * LONG + '"}]',
    "a 10 MB string of escapes": '["' + "\\\\" * (LONG // 2) + '"]',
    "an open string": '["' + "\\" * DEEP,
    "surrogates": '[{"funder_name": "\\ud800", "person": ["\\udc00\\ud800"]}] \ud800\udfff',
    "surrogates alone": "\ud800" * DEEP,
    "NUL": "\0" * DEEP,
    "accents": "a" + "\u0301" * DEEP,
    "capitals that grow": "\u0130\ufb03" * DEEP,
    "fences": "```json\n" * DEEP,
    "closed fences": "```sql\n```" * DEEP,
    "thoughts": "<think>" * DEEP + "</think>" * DEEP,
    "actions": "Action: Operation\n" * DEEP,
    "final answers": "\nFinal Answer: [" * DEEP,
    "statements": "```sql\n" + "SELECT '" * DEEP + "\n```",
    "brackets in an action": "Thought: a\nAction: search[" + "[" * DEEP,
    "python": "Action: Answer\nFinal Answer: " + "(" * DEEP,
    "python signs": "Action: Answer\nFinal Answer: [" + "-" * DEEP + "1]",
    "python powers": "Action: Answer\nFinal Answer: [" + "9**" * DEEP + "9]",
    "a record of many items": json.dumps({"items": [{"name": str(n), "price": n} for n in range(DEEP)]}),
    "a record of items in items": json.dumps({"items": [{"name": [{"items": [n]}], "price": {}} for n in range(DEEP)]}),
    "calls": "<tool_call>" * DEEP,
    "parameters": "<tool_call><function=f>" + "<parameter=p>" * DEEP,
    "arguments of calls": "<tool_call>f" + "<arg_key>k</arg_key><arg_value>" * DEEP,
    "functions": "<function=f>" * DEEP,
    "named calls": "[TOOL_CALLS]" + "f{}" * DEEP,
    "harmony": "to=functions.f json" * DEEP,
    "harmony calls": "to=functions.f json{}" * DEEP,
    "garbage": GARBAGE * DEEP,
}
FUNDING, IE = FundingTask().example(funding_rows(2)[1], id="a"), IeTask().example(ie_rows(1)[0], id="a")
GOLD: list[tuple[Task, Any, Example]] = [
    (FundingTask(), Funding(), FUNDING),
    (FundingTask(), Funding(scorer="corrected", soft_ids=True), FUNDING),
    (IeTask(), InformationExtraction(), IE),
    (IeTask(), InformationExtraction(missing_answer="whole", tags="strict"), IE),
    (RecordsTask(), Records(), RecordsTask().example(RecordsTask().example_rows[0], id="a")),
    (ChatTask(), Chat(exact=1, json=1), ChatTask().example(ChatTask().example_rows[1], id="a")),
]
AGENT = AgentTask()
one_of_each = {row["env"]: row for row in synthesize(12, 0)}.values()
GOLD += [(AGENT, Agent(outcome=0.5), AGENT.example(row, id="a")) for row in one_of_each]


def wrapped(task: Task, text: str) -> list[str]:
    """The text alone, and where an answer of the task would stand."""
    if isinstance(task, IeTask):
        return [text, f"<think>a</think><answer>{text}</answer>"]
    if isinstance(task, AgentTask):
        block = f"Action: Operation\n```sql\n{text}\n```"
        return [text, block, f"Action: Answer\nFinal Answer: {text}", f"THOUGHT: {text}\nACTION: {text}"]
    return [text, f"```json\n{text}\n```"]


@pytest.mark.slow
@pytest.mark.parametrize("name", VALUES)
def test_every_reader_answers_at_once(name: str) -> None:
    slow = {}
    for task, reward, example in GOLD:
        for text in wrapped(task, VALUES[name]):
            began = time.process_time()
            score = Grader(NamedReward("r", reward))(text, example).score
            assert score is None or 0 <= score <= 1
            assert isinstance(task.is_well_formed(text), bool)
            for fields in task.counts(example.gold, text).values():
                assert all(min(count) >= 0 for count in fields.values())
            if isinstance(task, Extracting):
                with contextlib.suppress(ValueError):
                    task.record(getattr(task, "decode", first_value)(text))
            if align := getattr(task, "align", None):
                assert isinstance(list(align(example.gold, text)), list)
            slow[type(task).__name__, text[:20]] = time.process_time() - began
    assert max(slow.values()) < SECONDS, slow


@pytest.mark.parametrize("name", VALUES)
def test_the_end_of_the_json_is_found_at_once(name: str) -> None:
    began = time.process_time()
    for text in (VALUES[name], f"```json\n{VALUES[name]}", f"<think>{VALUES[name]}</think>[]"):
        with contextlib.suppress(ValueError):
            first_value(text)
        end = JsonEnd()
        size = 1 if len(text) <= 2 * DEEP else 1000
        for start in range(0, min(len(text), 2 * DEEP), size):
            if end.closed_by(text[start : start + size]):
                break
    assert time.process_time() - began < SECONDS
