"""How the environments of AgentBench v0.2 read an agent's turn, one profile each.

| profile | an acting turn | an answering turn |
|---|---|---|
| dbbench | `Action: Operation`, then a block opened by a line "```sql" and closed by a line "```" | `Action: Answer`, `Final Answer: ["a", "b"]` |
| alfworld | `THOUGHT: …` and ` ACTION: <action>`, or the latter alone | |
| fc | a thought, then `<tool_call>`, `{"name": "execute_sql", "arguments": {"query": …}}` or `take_action {action}`, `</tool_call>` | the call `commit_final_answer {answers: [texts]}` |
| react | `Thought: …` and `Action: <action>` | `Thought: …` and `Final Answer: …` |

`fc` is AgentBench's later, function-calling form, as the chat templates of Qwen and Hermes models write calls to text.

The profiles are not interchangeable: `ACTION:` fails in DBBench, `Action:` fails in ALFWorld. The parsers are as literal
as the environments': DBBench compares the first `Action: ` line anywhere with "Operation" and accepts neither another
case nor trailing space nor CRLF; ALFWorld takes the rest of the first line with `ACTION:`. Nothing is ever evaluated.
"""  # noqa: E501 - the table's rows are lines

from __future__ import annotations

import ast
import json
import re
from typing import Final, Literal, NamedTuple

Env = Literal["dbbench", "alfworld", "fc", "react"]
ENVS: Final[tuple[Env, ...]] = ("dbbench", "alfworld", "fc", "react")

Kind = Literal["operate", "answer", "act"]
CALLS: Final[dict[str, tuple[str, Kind]]] = {
    "execute_sql": ("query", "operate"),
    "commit_final_answer": ("answers", "answer"),
    "take_action": ("action", "act"),
}
"""The functions of the fc profile: the name of their one argument, and what they do."""

_LABEL = re.compile(r"\A\s*(?:THOUGHT|Thought):")
_MARK = re.compile(r"\baction\s*:", re.IGNORECASE)
_FINAL = re.compile(r"\bfinal answer\s*:", re.IGNORECASE)
_REACT = re.compile(r"^[ \t]*(Action|Final Answer):[ \t]*(\S.*)(\n[ \t]*Action Input:.*)?", re.MULTILINE)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")

MAX_TEXT: Final = 1_000_000
"""Longer responses are not read; 4,096 tokens are under 20,000 characters."""


class Turn(NamedTuple):
    """A response as its environment reads it.

    `kind` is None where the environment finds no action, or an empty one; the whole text is then `thought` and `prose`.
    `argument` is the SQL (in one line), the text after `Final Answer:`, or the action in lower case. `thought` stands
    before the action, `after` behind it; `prose` is everything but the argument. `actions` counts what looks like an
    action, to a reader or to a parser.
    """

    kind: Kind | None
    argument: str
    thought: str
    after: str
    prose: str
    actions: int


def env_of(value: object) -> Env:
    """A profile's name, checked. Raises ValueError."""
    if value not in ENVS:
        raise ValueError(f"env must be one of {', '.join(ENVS)}, not {value!r}")
    return value


def read(env: Env, text: str) -> Turn:
    """One response through its environment's parser. Never raises."""
    if len(text) > MAX_TEXT:
        text = ""
    return {"dbbench": _dbbench, "alfworld": _alfworld, "fc": _fc, "react": _react}[env](text)


def write(env: Env, thought: str, kind: str, argument: str) -> str:
    """The response that says this, in the form the environment asks for."""
    if env == "alfworld":
        return f"THOUGHT: {thought}\n ACTION: {argument}" if thought else f"ACTION: {argument}"
    if env == "fc":
        name, key = next((name, key) for name, (key, does) in CALLS.items() if does == kind)
        value = (answers(argument) or [argument]) if kind == "answer" else argument
        call = json.dumps({"name": name, "arguments": {key: value}}, ensure_ascii=False)
        return f"{thought}\n<tool_call>\n{call}\n</tool_call>"
    if env == "react":
        mark = "Final Answer" if kind == "answer" else "Action"
        return f"Thought: {thought}\n{mark}: {argument}"
    if kind == "answer":
        return f"{thought}\nAction: Answer\nFinal Answer: {argument}"
    return f"{thought}\nAction: Operation\n```sql\n{argument}\n```"


def answers(argument: str) -> list[str] | None:
    """The items of a DBBench answer as text, from JSON or Python; None if no list.

    The environment evaluates this text as code; `ast.literal_eval` reads the same lists and runs nothing.
    """
    value: object = None
    try:
        value = json.loads(argument)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(argument.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if not isinstance(value, list | tuple):
        return None
    try:
        return [item if isinstance(item, str) else json.dumps(item, default=str) for item in value]
    except (ValueError, RecursionError):
        return None


def is_json_list(argument: str) -> bool:
    """Whether an answer is a JSON list of strings, which every grader reads alike."""
    try:
        value = json.loads(argument)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def statements(sql: str) -> int:
    """How many SQL statements a text holds; semicolons inside quotes separate nothing."""
    return sum(1 for part in _QUOTED.sub("x", sql).split(";") if part.strip())


def available(observation: str) -> list[str] | None:
    """The actions that an ALFWorld observation lists; None without a list."""
    _, mark, listed = observation.partition("AVAILABLE ACTIONS:")
    return [line.strip() for line in listed.splitlines() if line.strip()] if mark else None


def without_actions(observation: str) -> str:
    """An ALFWorld observation as the history keeps it: without its actions."""
    return observation.partition("AVAILABLE ACTIONS:")[0].rstrip()


def _turn(text: str, kind: Kind, start: int, span: tuple[int, int], end: int) -> Turn:
    thought = _LABEL.sub("", text[:start], count=1).strip()
    prose = f"{text[: span[0]]} {text[span[1] :]}"
    return Turn(kind, text[span[0] : span[1]].strip(), thought, text[end:], prose, 1)


def _failed(text: str, actions: int) -> Turn:
    return Turn(None, "", _LABEL.sub("", text, count=1).strip(), "", text, actions)


def _dbbench(text: str) -> Turn:
    marks, finals, blocks = len(_MARK.findall(text)), len(_FINAL.findall(text)), text.count("```") // 2
    # The environment's "Action: (.*?)\n" and "```sql\n([\s\S]*?)\n```", without looking for their ends again and again.
    first = text.find("Action: ")
    line_end = text.find("\n", first + 8) if first >= 0 else -1
    if line_end >= 0 and text[first + 8 : line_end] == "Operation":
        opened = text.find("```sql\n")
        closed = text.find("\n```", opened + 7) if opened >= 0 else -1
        if closed < 0 or not text[opened + 7 : closed].strip():
            return _failed(text, max(marks, blocks) + finals)
        turn = _turn(text, "operate", min(first, opened), (opened + 7, closed), closed + 4)
        sql = turn.argument.replace("\n", " ")
        marks, finals = len(_MARK.findall(turn.prose)), len(_FINAL.findall(turn.prose))
        return turn._replace(argument=sql, actions=max(1, marks, blocks, statements(sql)) + finals)
    answer = re.search(r"\nFinal Answer:(.*)", text)
    if not answer or not answer.group(1).strip():
        return _failed(text, max(marks, blocks) + finals)
    start = first if 0 <= first < answer.start() else answer.start()
    turn = _turn(text, "answer", start, answer.span(1), answer.end())
    marks, finals = len(_MARK.findall(turn.prose)), len(_FINAL.findall(turn.prose))
    return turn._replace(actions=max(1, finals, marks) + blocks)


def _alfworld(text: str) -> Turn:
    action = re.search("ACTION:(.*)", text)
    marks = len(_MARK.findall(text))
    if not action or not action.group(1).strip():
        return _failed(text, marks)
    turn = _turn(text, "act", action.start(), action.span(1), action.end())
    return turn._replace(argument=turn.argument.lower(), actions=max(1, marks))


def _fc(text: str) -> Turn:
    opened = text.find("<tool_call>")
    closed = text.find("</tool_call>", opened) if opened >= 0 else -1
    calls = text.count("<tool_call>")
    called = _call(text[opened + 11 : closed]) if closed >= 0 else None
    if called is None:
        return _failed(text, calls + _labels(text))
    turn = _turn(text, called[0], opened, (opened + 11, closed), closed + 12)
    commands = max(1, statements(called[1])) if called[0] == "operate" else 1
    return turn._replace(argument=called[1], actions=commands + calls - 1 + _labels(turn.prose))


def _call(text: str) -> tuple[Kind, str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    name, given = (value.get("name"), value.get("arguments")) if isinstance(value, dict) else (None, None)
    if not isinstance(name, str) or name not in CALLS or not isinstance(given, dict):
        return None
    key, kind = CALLS[name]
    argument = given.get(key)
    if kind == "answer":
        texts = isinstance(argument, list) and argument and all(isinstance(item, str) for item in argument)
        return (kind, json.dumps(argument, ensure_ascii=False)) if texts else None
    if not isinstance(argument, str) or not argument.strip():
        return None
    return kind, " ".join(argument.splitlines()).strip() if kind == "operate" else argument.strip().lower()


def _react(text: str) -> Turn:
    match = _REACT.search(text)
    count = _labels(text)
    if not match:
        return _failed(text, count)
    kind: Kind = "answer" if match.group(1) == "Final Answer" else "act"
    end = match.end(3) if match.group(3) else match.end(2)
    return _turn(text, kind, match.start(), (match.start(2), end), end)._replace(actions=max(1, count))


def _labels(text: str) -> int:
    return len(_MARK.findall(text)) + len(_FINAL.findall(text))
