"""The `chat` reward: an assistant's turn against its reference, by words, calls and form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.rewards import chat_answers
from adapters.types import Example, Scored


@dataclass(frozen=True)
class Chat:
    """Grades a turn against `example.gold`, `{"content": TEXT, "tool_calls": [{"name", "arguments"}, …]}`.

    The score is the mean of the parts that apply to the row, weighted by the parameters:

    - `tokens`: F1 of the words of both texts; applies where the reference says something;
    - `calls`: F1 of the tool calls, equal in name and arguments; applies where either side calls a tool;
    - `exact`: 1 where text and calls are the same;
    - `json`: 1 where the answer is JSON; applies where the reference is.

    A row without gold, and one to which no part with a weight applies, has no score.
    """

    tokens: float = 1.0
    calls: float = 1.0
    exact: float = 0.0
    json: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError that names the parameter and what it must be."""
        weights = vars(self)
        if low := [name for name, weight in weights.items() if not 0 <= weight < 1e6]:
            raise ValueError(f"{low[0]} is a weight, 0 or more, got {weights[low[0]]!r}")
        if not any(weights.values()):
            raise ValueError("one of tokens, calls, exact and json must have a weight above 0")

    def formula(self) -> str:
        """The reward with these settings, for a model card."""
        return " + ".join(f"{weight:g} {name}" for name, weight in vars(self).items() if weight) + ", weighted mean"

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score one completion. Never raises, whatever the text."""
        if not isinstance(example.gold, Mapping):
            return Scored(None)
        applying = parts(example.gold, chat_answers.read(completion))
        weights = {name: vars(self)[name] for name in applying}
        total = sum(weights.values())
        score = sum(weights[name] * value for name, value in applying.items()) / total if total else None
        return Scored(score, applying)


def parts(gold: Mapping[str, Any], answer: chat_answers.Answer) -> dict[str, float]:
    """The parts that apply to a row, each in [0, 1]."""
    said = str(gold.get("content") or "")
    calls = gold.get("tool_calls") or []
    called = () if chat_answers.is_json(said) and not calls else answer.calls  # JSON that looks like a call
    matched, both = chat_answers.matched_calls(calls, called), len(calls) + len(called)
    same = matched * 2 == both and not answer.problem and (not said or chat_answers.same_text(said, answer.content))
    out = {"exact": float(same and bool(said or calls))}
    out |= {"tokens": chat_answers.token_f1(said, answer.content)} if said else {}
    out |= {"calls": 2 * matched / both} if both else {}
    out |= {"json": float(chat_answers.is_json(answer.content))} if chat_answers.is_json(said) else {}
    return out
