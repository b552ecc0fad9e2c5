"""Undisciplined versions of a disciplined turn, one function a kind.

Most keep the action, so that a pair differs in manner alone; `wrong_format` and `no_action` are responses that the
environment cannot read; `loop` says again what was said before.
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


class Given(NamedTuple):
    """A turn to corrupt: its environment, its text and reading, what was said before it, and other possible actions."""

    env: Env
    text: str
    turn: Turn
    previous: str | None
    others: Sequence[str]


def given(env: Env, text: str, messages: Sequence[Mapping[str, Any]], actions: Sequence[str] | None) -> Given:
    """Prepare a turn that follows `messages`."""
    turn = read(env, text)
    said = [str(m["content"]) for m in messages if m["role"] == "assistant" and read(env, str(m["content"])).kind]
    others = [a for a in actions or () if a.lower() != turn.argument]
    return Given(env, text, turn, said[-1] if said else None, others)


def filler(g: Given, rng: random.Random) -> str:
    """A greeting, a farewell, or both."""
    which = rng.randrange(3)
    opener = f"{rng.choice(OPENERS)}\n" if which != 1 else ""
    return f"{opener}{g.text}" + (f"\n{rng.choice(CLOSERS)}" if which != 0 else "")


def delayed(g: Given, rng: random.Random) -> str:
    """The action after a long thought."""
    return _with_thought(g, " ".join([*rng.sample(DELAYS, rng.randint(6, 9)), g.turn.thought]))


def recursive(g: Given, rng: random.Random) -> str:
    """The thought again and again, with doubts between."""
    rounds = [f"{g.turn.thought} {doubt}" for doubt in rng.choices(DOUBTS, k=rng.randint(4, 6))]
    return _with_thought(g, " ".join([*rounds, g.turn.thought]))


def two_actions(g: Given, rng: random.Random) -> str:
    """Another action right after the first; the environment takes the first."""
    if g.env == "dbbench" or (g.env == "fc" and g.turn.kind != "act"):
        table = re.search(r"(?:FROM|INTO|UPDATE) (`[^`]+`|\w+)", g.turn.argument)
        sql = f"SELECT * FROM {table.group(1)};" if table else "SHOW TABLES;"  # noqa: S608 - text, not run
        return f"{g.text}\n{write(g.env, 'Then I look at the data.', 'operate', sql)}"
    second = rng.choice(g.others) if g.others else "look"
    return f"{g.text}\n{write(g.env, 'After that I go on.', 'act', second)}"


def observation(g: Given, rng: random.Random) -> str:
    """The environment's reply, invented."""
    if g.env == "dbbench" or (g.env == "fc" and g.turn.kind != "act"):
        seen = f"[({rng.randint(1, 900)},)]" if g.turn.kind == "operate" else "The answer is correct."
    else:
        seen = rng.choice(("You see nothing special there.", "It worked; the task is almost finished."))
    return f"{g.text}\nObservation: {seen}" + rng.choice(("", " The next step is clear now."))


def wrong_format(g: Given, rng: random.Random) -> str | None:
    """The right action in a form that the environment's parser refuses: another case, fence, mark or line."""
    thought, argument = g.turn.thought, g.turn.argument
    if g.env == "alfworld":
        forms = [
            f"Thought: {thought}\nAction: {argument}",
            f"THOUGHT: {thought}\n ACTION - {argument}",
            f"THOUGHT: {thought}\n ACTION:\n{argument}",
            f"{thought} I choose `{argument}`.",
        ]
    elif g.env == "react":
        forms = [f"Thought: {thought}\naction: {argument}", f"Thought: {thought}\n**Action:** {argument}"]
    elif g.env == "fc":
        call = g.text[g.text.find("<tool_call>") + 11 : g.text.find("</tool_call>")].strip()
        forms = [
            f"{thought}\n```json\n{call}\n```",
            f"{thought}\n<tool_call>\n{call}",
            f"{thought}\n<tool_call>\n{call.replace(chr(34), chr(39))}\n</tool_call>",
            f"{thought}\n<tool_call>\n{call.replace('arguments', 'parameters', 1)}\n</tool_call>",
            f"{thought}\nAction: {argument}",
        ]
    elif g.turn.kind == "operate":
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
    failing = [form for form in forms if read(g.env, form).kind is None]
    return rng.choice(failing) if failing else None


def no_action(g: Given, rng: random.Random) -> str | None:
    """A thought and a promise."""
    text = f"{g.turn.thought} {rng.choice(INTENTIONS)}"
    labelled = f"THOUGHT: {text}" if g.env == "alfworld" else f"Thought: {text}" if g.env == "react" else text
    return labelled if read(g.env, labelled).kind is None else None


def loop(g: Given, rng: random.Random) -> str | None:
    """The previous turn once more; None on the first turn."""
    return g.previous if g.previous and read(g.env, g.previous)[:2] != g.turn[:2] else None


KINDS: Final[dict[str, Callable[[Given, random.Random], str | None]]] = {
    f.__name__: f for f in (filler, delayed, recursive, two_actions, observation, wrong_format, no_action, loop)
}


def fuller(g: Given, rng: random.Random, limit: int, count: Callable[[str], int]) -> str | None:
    """The turn with a longer, still allowed thought, for pairs in which the longer side is the better one."""
    thought = g.turn.thought
    for extra in rng.sample(REASONS, len(REASONS)):
        if count(f"{thought} {extra}") <= limit:
            thought = f"{thought} {extra}"
    return _with_thought(g, thought) if thought != g.turn.thought else None


def _with_thought(g: Given, thought: str) -> str:
    return write(g.env, thought, str(g.turn.kind), g.turn.argument)
