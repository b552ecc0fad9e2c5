"""Format discipline of an agent's turn: one code for the metric and the reward.

Neither needs the environment; whether the action is a good one is `outcome`, which needs a reference trajectory's.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Final

from adapters.rewards.agent_formats import ENVS, MAX_TEXT, Turn, answers, is_json_list, read
from adapters.rewards.agent_sql import same_effect
from adapters.types import Example, Scored

THOUGHT: Final = 60
"""Tokens of a thought that cost nothing."""
FILLER: Final[tuple[str, ...]] = (
    *("certainly", "absolutely!", "sure!", "sure,", "sure thing", "of course!", "of course,", "no problem!"),
    *("great question", "good question", "happy to help", "glad to help", "i can help", "i'd be happy", "let me help"),
    *("have a nice day", "have a great day", "hope this helps", "hope that helps", "let me know if", "feel free to"),
    *("thank you for", "thanks for", "you're welcome", "as an ai", "good luck", "hello!", "hello,", "hi there"),
    *("承知いたしました", "承知しました", "かしこまりました", "こんにちは", "お手伝い"),
)
CHECKS: Final = (
    "parse_ok",
    "exactly_one_action",
    "action_is_last",
    "no_filler",
    "no_invented_observation",
    "short_thought",
    "in_available_actions",
    "answer_is_json_list",
    "no_repeat3",
)
_OBSERVATION = re.compile(
    r"^[ \t>*_#-]*(?:observations?|obs|mysql response|environment|user)(?:\s*\d+)?[*_]*\s*:|AVAILABLE ACTIONS:|<\|im_",
    re.IGNORECASE | re.MULTILINE,
)
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_")


@dataclass(frozen=True)
class Agent:
    """R = 0.5 parse + 0.2 one action, last + 0.2 no filler + 0.1 short thought.

    All but the first term are multiplied by it, so a response that the environment cannot read earns nothing. The third
    also asks for no invented observation. The last falls from 1 at `thought` tokens to 0 at twice that. With
    `available`, an action that the environment did not list (`gold["actions"]`) counts as one that it cannot read.
    `outcome` moves that share of the whole to taking the reference's action (`gold["action"]`): without it any
    well-formed action earns everything, and a policy may collapse to a single one. An example without gold is not
    graded.

    Parts: the single checks, `thought_tokens`, `response_tokens`, and `same_action` where there is a reference.
    """

    thought: int = THOUGHT
    filler: tuple[str, ...] = FILLER
    outcome: float = 0.0
    available: bool = False
    part_names: ClassVar = (
        "parse_ok",
        "exactly_one_action",
        "action_is_last",
        "no_filler",
        "no_invented_observation",
        "short_thought",
        "no_repeat3",
        "thought_tokens",
        "response_tokens",
    )

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        check_settings(self.thought, self.filler)
        if not isinstance(self.available, bool):
            raise ValueError(f"available is true or false, got {self.available!r}")
        if isinstance(self.outcome, bool) or not 0 <= self.outcome <= 1:
            raise ValueError(f"outcome is a share and must lie between 0 and 1, got {self.outcome!r}")

    def formula(self) -> str:
        """The reward with these settings, for a model card."""
        thought = f"[thought up to {self.thought} tokens]"
        taken = "[parses, is listed]" if self.available else "[parses]"
        form = f"{taken} · (0.5 + 0.2 [one action, last] + 0.2 [no filler] + 0.1 {thought})"
        if not self.outcome:
            return form
        return f"{1 - self.outcome:g} · {form} + {self.outcome:g} [takes the reference's action]"

    @property
    def blind_to(self) -> tuple[str, ...]:
        """Wrong answers that these settings cannot tell from gold."""
        if self.outcome:
            return ()
        return ("another action",) if self.available else ("another action", "unavailable action")

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score one response. Never raises, whatever the text."""
        gold = example.gold
        if not isinstance(gold, Mapping) or gold.get("env") not in ENVS:
            return Scored(None)
        turn = read(gold["env"], completion)
        checks = examine(completion, turn, gold, thought=self.thought, filler=self.filler)
        length = tokens(turn.thought)
        one = checks["exactly_one_action"] and checks["action_is_last"]
        clean = checks["no_filler"] and checks["no_invented_observation"]
        short = max(0.0, 1 - max(0, length - self.thought) / self.thought)
        taken = checks["parse_ok"] and not (self.available and checks["in_available_actions"] is False)
        score = bool(taken) * (5 + 2 * bool(one) + 2 * bool(clean) + short) / 10
        parts = {name: float(value) for name, value in checks.items() if value is not None}
        parts |= {"thought_tokens": float(length), "response_tokens": float(tokens(completion[:MAX_TEXT]))}
        right = same_action(turn, gold)
        if right is not None:
            parts["same_action"] = float(right)
            score = (1 - self.outcome) * score + self.outcome * float(right)
        return Scored(min(score, 1.0), parts)


def check_settings(thought: Any, filler: Sequence[str]) -> None:
    """Refuse, with a ValueError, settings that no response could be judged by."""
    if isinstance(thought, bool) or not isinstance(thought, int) or thought < 1:
        raise ValueError(f"thought is a number of tokens, 1 or more, got {thought!r}")
    if any(not isinstance(phrase, str) or not _plain(phrase) for phrase in filler):
        raise ValueError("filler is a list of phrases, none of them empty")


def examine(
    text: str, turn: Turn, gold: Mapping[str, Any], *, thought: int = THOUGHT, filler: Sequence[str] = FILLER
) -> dict[str, bool | None]:
    """The `CHECKS` on one response, in their order; None where one does not apply.

    `gold`: `env`, `actions` (if the environment lists them) and `previous` (the agent's earlier responses).
    """
    parsed = turn.kind is not None
    offered, before = gold.get("actions"), [str(earlier).strip() for earlier in (gold.get("previous") or ())[-2:]]
    is_list = turn.kind == "answer" and gold.get("env") in ("dbbench", "fc")
    return {
        "parse_ok": parsed,
        "exactly_one_action": parsed and turn.actions == 1,
        "action_is_last": parsed and not turn.after.strip(),
        "no_filler": not _filler(tuple(filler)).search(_plain(turn.prose)),
        "no_invented_observation": not _OBSERVATION.search(turn.prose),
        "short_thought": tokens(turn.thought) <= thought,
        "in_available_actions": parsed and turn.argument in {_one_line(a) for a in offered} if offered else None,
        "answer_is_json_list": is_json_list(turn.argument) if is_list else None,
        "no_repeat3": before != [text.strip()] * 2,
    }


def same_action(turn: Turn, gold: Mapping[str, Any]) -> bool | None:
    """Whether a turn does what the reference does; None without a reference.

    SQL is the same when its words are or, with `gold["table"]`, when it returns the same rows and leaves the same
    table. Answers are compared as DBBench does: one item as a number, else as text; more as a set.
    """
    wanted = gold.get("action")
    if not isinstance(wanted, Mapping):
        return None
    if turn.kind != wanted.get("kind"):
        return False
    argument = str(wanted.get("argument"))
    if turn.kind == "act" or gold.get("env") not in ("dbbench", "fc"):
        return _one_line(turn.argument) == _one_line(argument)
    if turn.kind == "answer":
        return _same_answer(answers(turn.argument), answers(argument))
    if _one_line(turn.argument).rstrip("; ") == _one_line(argument).rstrip("; "):
        return True
    return bool(gold.get("table")) and same_effect(gold["table"], argument, turn.argument)


def tokens(text: str) -> int:
    """About how many tokens a text has: words and signs, or 1/6 of its characters.

    The larger counts, so that a text without spaces is not one word.
    """
    return max(len(_TOKEN.findall(text)), math.ceil(sum(not c.isspace() for c in text) / 6))


def _same_answer(said: list[str] | None, wanted: list[str] | None) -> bool:
    if said is None or wanted is None:
        return False
    if len(wanted) != 1 or len(said) != 1:
        return set(said) == set(wanted)
    try:
        return float(said[0]) == float(wanted[0])
    except ValueError:
        return said == wanted


@lru_cache(maxsize=64)
def _filler(phrases: tuple[str, ...]) -> re.Pattern[str]:
    # A word must end where the phrase does; in a script without spaces, phrases stand between other letters.
    bounded = [
        (r"(?<![^\W_])" if _is_word(p[0]) else "") + re.escape(p) + (r"(?![^\W_])" if _is_word(p[-1]) else "")
        for p in map(_plain, phrases)
    ]
    return re.compile("|".join(bounded) or r"(?!)")


def _is_word(letter: str) -> bool:
    return letter.isascii() and letter.isalnum()


def _plain(text: str) -> str:
    """Lower case, one form of each letter and apostrophe, single spaces, no emphasis."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(re.sub(r"[*_`]", "", text).split())


def _one_line(text: str) -> str:
    return " ".join(text.lower().split())
