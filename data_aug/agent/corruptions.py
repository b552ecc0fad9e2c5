"""Undisciplined versions of a disciplined turn, one function for each kind.

Most keep the action, so that a pair differs in manner alone. The environment cannot parse `wrong_format` and
`no_action`; `loop` repeats the previous turn; `unavailable` takes an action that the environment did not list.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.data_aug.data_files import read_data
from adapters.rewards.agent_formats import Env, Turn, read, write

_TEXTS: dict[str, list[str]] = read_data("agent/corruptions.json")
"""`reasons` are sober sentences for a longer thought that is still allowed; none of them delays or doubts."""
_WRONG_FORMATS: dict[str, list[str]] = read_data("agent/wrong_formats.json")


class SourceTurn(NamedTuple):
    """A turn to corrupt, with what was said before and other possible actions."""

    env: Env
    text: str
    turn: Turn
    previous: str | None
    others: Sequence[str]

    @property
    def asks_database(self) -> bool:
        """Whether the environment answers SQL."""
        return self.env == "dbbench" or (self.env == "fc" and self.turn.kind != "act")


def source_turn(
    env: Env, text: str, messages: Sequence[Mapping[str, Any]], actions: Sequence[str] | None
) -> SourceTurn:
    """Prepare the turn that follows `messages`."""
    turn = read(env, text)
    earlier = [str(m["content"]) for m in messages if m["role"] == "assistant" and read(env, str(m["content"])).kind]
    others = [a for a in actions or () if a.lower() != turn.argument]
    return SourceTurn(env, text, turn, earlier[-1] if earlier else None, others)


def filler(source: SourceTurn, rng: random.Random) -> str:
    """A greeting, a farewell, or both."""
    which = rng.randrange(3)
    opener = rng.choice(_TEXTS["openers"]) + "\n" if which != 1 else ""
    closer = "\n" + rng.choice(_TEXTS["closers"]) if which != 0 else ""
    return f"{opener}{source.text}{closer}"


def delayed(source: SourceTurn, rng: random.Random) -> str:
    """The action after a long thought."""
    return _with_thought(source, " ".join([*rng.sample(_TEXTS["delays"], rng.randint(6, 9)), source.turn.thought]))


def recursive(source: SourceTurn, rng: random.Random) -> str:
    """The thought again and again, with doubts between."""
    rounds = [f"{source.turn.thought} {doubt}" for doubt in rng.choices(_TEXTS["doubts"], k=rng.randint(4, 6))]
    return _with_thought(source, " ".join([*rounds, source.turn.thought]))


def two_actions(source: SourceTurn, rng: random.Random) -> str:
    """Another action right after the first; the environment takes the first."""
    if source.asks_database:
        table = re.search(r"(?:FROM|INTO|UPDATE) (`[^`]+`|\w+)", source.turn.argument)
        sql = f"SELECT * FROM {table.group(1)};" if table else "SHOW TABLES;"  # noqa: S608 - text, not run
        return f"{source.text}\n{write(source.env, 'Then I look at the data.', 'operate', sql)}"
    second = rng.choice(source.others) if source.others else "look"
    return f"{source.text}\n{write(source.env, 'After that I go on.', 'act', second)}"


def observation(source: SourceTurn, rng: random.Random) -> str:
    """The environment's reply, invented."""
    if source.asks_database:
        seen = f"[({rng.randint(1, 900)},)]" if source.turn.kind == "operate" else "The answer is correct."
    else:
        seen = rng.choice(("You see nothing special there.", "It worked; the task is almost finished."))
    return f"{source.text}\nObservation: {seen}" + rng.choice(("", " The next step is clear now."))


def wrong_format(source: SourceTurn, rng: random.Random) -> str | None:
    """The right action in a form that the environment's parser refuses."""
    action = "operate" if source.turn.kind == "operate" else "answer"
    call = source.text[source.text.find("<tool_call>") + 11 : source.text.find("</tool_call>")].strip()
    values = {
        "thought": source.turn.thought,
        "argument": source.turn.argument,
        "call": call,
        "single_quoted_call": call.replace('"', "'"),
        "renamed_call": call.replace("arguments", "parameters", 1),
    }
    formats = _WRONG_FORMATS[f"dbbench {action}" if source.env == "dbbench" else source.env]
    forms = [template.format(**values) for template in formats]
    failing = [form for form in forms if read(source.env, form).kind is None]
    return rng.choice(failing) if failing else None


def no_action(source: SourceTurn, rng: random.Random) -> str | None:
    """A thought and a promise."""
    text = f"{source.turn.thought} {rng.choice(_TEXTS['intentions'])}"
    labelled = f"THOUGHT: {text}" if source.env == "alfworld" else f"Thought: {text}" if source.env == "react" else text
    return labelled if read(source.env, labelled).kind is None else None


def loop(source: SourceTurn, rng: random.Random) -> str | None:
    """The previous turn once more; None on the first turn."""
    return source.previous if source.previous and read(source.env, source.previous)[:2] != source.turn[:2] else None


def unavailable(source: SourceTurn, rng: random.Random) -> str | None:
    """An action close to the right one that is not in the list: another number, none, or another action's end."""
    if source.asks_database or not source.others:
        return None
    action = source.turn.argument
    numbered = [re.sub(r"\d+", str(rng.randint(1, 9)), action), re.sub(r" \d+", "", action)]
    ends = [" ".join([*action.split()[:-2], *other.split()[-2:]]) for other in source.others if other.count(" ") > 1]
    listed = {a.lower() for a in (action, *source.others)}
    invented = [text for text in (*numbered, *rng.sample(ends, min(3, len(ends)))) if text.lower() not in listed]
    return _with_thought(source, source.turn.thought, rng.choice(invented)) if invented else None


KINDS: Final[dict[str, Callable[[SourceTurn, random.Random], str | None]]] = {
    f.__name__: f
    for f in (filler, delayed, recursive, two_actions, observation, unavailable, wrong_format, no_action, loop)
}


def with_longer_thought(source: SourceTurn, rng: random.Random, limit: int, count: Callable[[str], int]) -> str | None:
    """The turn with a longer thought that is still allowed, or None."""
    thought = source.turn.thought
    for extra in rng.sample(_TEXTS["reasons"], len(_TEXTS["reasons"])):
        if count(f"{thought} {extra}") <= limit:
            thought = f"{thought} {extra}"
    return _with_thought(source, thought) if thought != source.turn.thought else None


def _with_thought(source: SourceTurn, thought: str, action: str | None = None) -> str:
    return write(source.env, thought, str(source.turn.kind), source.turn.argument if action is None else action)
