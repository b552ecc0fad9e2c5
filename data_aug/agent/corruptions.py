"""Undisciplined versions of a disciplined turn, one function for each kind.

Most keep the action, so that a pair differs in manner alone. The environment cannot parse `wrong_format` and
`no_action`; `loop` repeats the previous turn.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.rewards.agent_formats import Env, Turn, read, write

OPENERS: Final = (
    "Certainly! I can help with that.",
    "Sure! I'd be happy to take care of this for you.",
    "Great question! Let me help you with it.",
    "Hello! Thank you for the task.",
    "Absolutely! Happy to help.",
)
CLOSERS: Final = (
    "Let me know if you need anything else!",
    "I hope this helps. Have a nice day!",
    "Feel free to ask for more.",
    "Good luck, and thank you for your patience!",
)
DELAYS: Final = (
    "Before doing anything, it is worth recalling the whole situation from the start.",
    "There are several ways to go about this, and each of them has its merits.",
    "One could begin somewhere else, but that would probably take longer in the end.",
    "It is important to be careful here, because a wrong step could cost time later.",
    "First of all, the task has to be understood in every detail.",
    "On the one hand this seems simple; on the other hand there may be something hidden.",
    "Let us consider what has been seen so far and what it might mean.",
    "Experience shows that a good plan is half of the work.",
    "Having weighed all of this, it also makes sense to think about what follows afterwards.",
    "If it does not work, another attempt can be made in one of the next turns.",
    "All things considered, the options have now been compared at some length.",
    "This should lead in the right direction, although nothing is certain yet.",
)
DOUBTS: Final = (
    "But wait, is that right? Let me think again.",
    "Hmm, let me reconsider this from the beginning.",
    "Actually, no. Let me go over it once more.",
    "Am I sure about it? I should double-check my reasoning.",
    "Let me start over and think step by step.",
)
INTENTIONS: Final = (
    "I will do that in a moment.",
    "That is my plan for now.",
    "I am going to take care of it next.",
    "This is what should be done.",
)

REASONS: Final = (
    "The last message shows what is needed for it.",
    "Nothing else has to be known or changed before that.",
    "One step is enough for this turn.",
    "It follows from the task and from what has been seen so far.",
    "The names are taken as they are written above.",
    "What comes after it depends on the reply.",
    "No other step would bring the task further now.",
)
"""Sober sentences for a longer thought that is still allowed; none of them delays or doubts."""


class SourceTurn(NamedTuple):
    """A turn to corrupt, with what was said before and other possible actions."""

    env: Env
    text: str
    turn: Turn
    previous: str | None
    others: Sequence[str]


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
    opener = f"{rng.choice(OPENERS)}\n" if which != 1 else ""
    return f"{opener}{source.text}" + (f"\n{rng.choice(CLOSERS)}" if which != 0 else "")


def delayed(source: SourceTurn, rng: random.Random) -> str:
    """The action after a long thought."""
    return _with_thought(source, " ".join([*rng.sample(DELAYS, rng.randint(6, 9)), source.turn.thought]))


def recursive(source: SourceTurn, rng: random.Random) -> str:
    """The thought again and again, with doubts between."""
    rounds = [f"{source.turn.thought} {doubt}" for doubt in rng.choices(DOUBTS, k=rng.randint(4, 6))]
    return _with_thought(source, " ".join([*rounds, source.turn.thought]))


def two_actions(source: SourceTurn, rng: random.Random) -> str:
    """Another action right after the first; the environment takes the first."""
    if source.env == "dbbench" or (source.env == "fc" and source.turn.kind != "act"):
        table = re.search(r"(?:FROM|INTO|UPDATE) (`[^`]+`|\w+)", source.turn.argument)
        sql = f"SELECT * FROM {table.group(1)};" if table else "SHOW TABLES;"  # noqa: S608 - text, not run
        return f"{source.text}\n{write(source.env, 'Then I look at the data.', 'operate', sql)}"
    second = rng.choice(source.others) if source.others else "look"
    return f"{source.text}\n{write(source.env, 'After that I go on.', 'act', second)}"


def observation(source: SourceTurn, rng: random.Random) -> str:
    """The environment's reply, invented."""
    if source.env == "dbbench" or (source.env == "fc" and source.turn.kind != "act"):
        seen = f"[({rng.randint(1, 900)},)]" if source.turn.kind == "operate" else "The answer is correct."
    else:
        seen = rng.choice(("You see nothing special there.", "It worked; the task is almost finished."))
    return f"{source.text}\nObservation: {seen}" + rng.choice(("", " The next step is clear now."))


def wrong_format(source: SourceTurn, rng: random.Random) -> str | None:
    """The right action in a form that the environment's parser refuses."""
    thought, argument = source.turn.thought, source.turn.argument
    if source.env == "alfworld":
        forms = [
            f"Thought: {thought}\nAction: {argument}",
            f"THOUGHT: {thought}\n ACTION - {argument}",
            f"THOUGHT: {thought}\n ACTION:\n{argument}",
            f"{thought} I choose `{argument}`.",
        ]
    elif source.env == "react":
        forms = [f"Thought: {thought}\naction: {argument}", f"Thought: {thought}\n**Action:** {argument}"]
    elif source.env == "fc":
        call = source.text[source.text.find("<tool_call>") + 11 : source.text.find("</tool_call>")].strip()
        forms = [
            f"{thought}\n```json\n{call}\n```",
            f"{thought}\n<tool_call>\n{call}",
            f"{thought}\n<tool_call>\n{call.replace(chr(34), chr(39))}\n</tool_call>",
            f"{thought}\n<tool_call>\n{call.replace('arguments', 'parameters', 1)}\n</tool_call>",
            f"{thought}\nAction: {argument}",
        ]
    elif source.turn.kind == "operate":
        forms = [
            f"{thought}\nAction: Operation ```sql\n{argument}\n```",
            f"{thought}\nAction: Operation\n```SQL\n{argument}\n```",
            f"{thought}\naction: operation\n```sql\n{argument}\n```",
            f"{thought}\nAction: Operation\n```sql {argument}```",
            f"THOUGHT: {thought}\n ACTION: {argument}",
            f"{thought}\nAction: Operation\n{argument}",
        ]
    else:
        forms = [
            f"{thought}\nAction: Answer\n**Final Answer:** {argument}",
            f"{thought}\nAction: Answer\nfinal answer: {argument}",
            f"{thought} Action: Answer Final Answer: {argument}",
            f"{thought}\nAction: Answer\nAnswer: {argument}",
        ]
    failing = [form for form in forms if read(source.env, form).kind is None]
    return rng.choice(failing) if failing else None


def no_action(source: SourceTurn, rng: random.Random) -> str | None:
    """A thought and a promise."""
    text = f"{source.turn.thought} {rng.choice(INTENTIONS)}"
    labelled = f"THOUGHT: {text}" if source.env == "alfworld" else f"Thought: {text}" if source.env == "react" else text
    return labelled if read(source.env, labelled).kind is None else None


def loop(source: SourceTurn, rng: random.Random) -> str | None:
    """The previous turn once more; None on the first turn."""
    return source.previous if source.previous and read(source.env, source.previous)[:2] != source.turn[:2] else None


KINDS: Final[dict[str, Callable[[SourceTurn, random.Random], str | None]]] = {
    f.__name__: f for f in (filler, delayed, recursive, two_actions, observation, wrong_format, no_action, loop)
}


def with_longer_thought(source: SourceTurn, rng: random.Random, limit: int, count: Callable[[str], int]) -> str | None:
    """The turn with a longer thought that is still allowed, or None.

    For pairs in which the longer side is the better one.
    """
    thought = source.turn.thought
    for extra in rng.sample(REASONS, len(REASONS)):
        if count(f"{thought} {extra}") <= limit:
            thought = f"{thought} {extra}"
    return _with_thought(source, thought) if thought != source.turn.thought else None


def _with_thought(source: SourceTurn, thought: str) -> str:
    return write(source.env, thought, str(source.turn.kind), source.turn.argument)
