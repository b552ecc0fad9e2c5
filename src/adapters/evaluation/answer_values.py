"""The values of a record in the model's answer: where they stand, what their tokens say, and which are right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from unicodedata import normalize

from adapters.evaluation.metrics import main_mode
from adapters.types import Counts, Example, Task, TokenScores, counts_of

_LITERAL: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*', re.DOTALL)
_KEY: Final = re.compile(r"\s*:")
_MARK: Final = 0xF0000
"""The first character of Unicode's private plane 15, of which a value that is like no other is made."""
_MARKS: Final = 0xFFFD


class Place(NamedTuple):
    """Where a value stands in an answer, its quotes included."""

    start: int
    end: int


def places(answer: str, values: Sequence[str]) -> list[Place | None]:
    """The place of each value, in the order of a record, among the JSON strings and numbers of an answer.

    Equal values stand in the same order in both. A thought, and keys, are left out. None: not found.
    """
    known: dict[str, list[Place]] = {}
    start = max(answer.rfind(tag) + len(tag) if tag in answer else 0 for tag in ("</think>", "<answer>"))
    for literal in _LITERAL.finditer(answer, start):
        if not _KEY.match(answer, literal.end()):
            known.setdefault(_even(_value(literal[0])), []).append(Place(literal.start(), literal.end()))
    taken: dict[str, int] = {}
    out: list[Place | None] = []
    for value in map(_even, values):
        of_value = known.get(value, [])
        n = taken[value] = taken.get(value, -1) + 1
        out.append(of_value[min(n, len(of_value) - 1)] if of_value else None)
    return out


def _value(literal: str) -> str:
    try:
        return str(json.loads(literal, strict=False))
    except ValueError:
        return literal.strip('"')


def _even(value: str) -> str:
    # Tasks read strings with single blanks and composed accents.
    return " ".join(normalize("NFC", value).split())


def token_signals(scores: TokenScores, at: Sequence[Place | None]) -> list[dict[str, float]]:
    """The log-probabilities of each value's tokens, in nats: mean, min and sum.

    The token with the quote after the value is one of them: it says that the value ends there. `lead` is the sum
    from the value before to this one: it says that there is one more. `answer` is the mean over the whole answer, which
    also stands for a value that is not found.
    """
    starts = (0, *scores.ends[:-1])
    whole = {**answer_signals(scores), "lead": 0.0}
    edges = sorted(place.end for place in at if place)
    out = []
    for place in at:
        if place is None:
            out.append({**whole, "answer": whole["mean"]})
            continue
        before = max((end for end in edges if end <= place.start), default=0)
        own, lead = [], 0.0
        for start, end, logprob in zip(starts, scores.ends, scores.logprobs, strict=True):
            if start < place.end and (end > place.start or start == end >= place.start):
                own.append(logprob)
            elif before <= start < place.start:
                lead += logprob
        out.append({**_of(own or list(scores.logprobs)), "lead": lead, "answer": whole["mean"]})
    return out


def answer_signals(scores: TokenScores) -> dict[str, float]:
    """Mean, min and sum of the log-probabilities of an answer's tokens, in nats."""
    return _of(scores.logprobs)


def _of(logprobs: Sequence[float]) -> dict[str, float]:
    known = logprobs or [0.0]
    return {"mean": sum(known) / len(known), "min": min(known), "sum": sum(known)}


def verdicts(task: Task, example: Example, answer: str, at: Sequence[Place | None]) -> list[bool | None]:
    """Whether each value is right, by the task's own counts.

    A value is right if fewer values match when a text that is like no other stands in its place. Of equal values each
    may stand in for the others, so a value is also right if fewer match where those behind it have been replaced too.
    None where the counts do not judge it alone: it is not found, is left out of the comparison (an uncertain label), or
    repeats a value that is counted once (one more is predicted when it is replaced).
    """
    out: list[bool | None] = [None] * len(at)
    order = sorted((place, n) for n, place in enumerate(at) if place)
    whole = rest = matched(task, example, answer)
    marked = answer
    for number, (place, n) in reversed(list(enumerate(order))):
        if number + 1 < len(order) and order[number + 1][0] == place:
            continue  # two values of the record are one in the answer: the other has its verdict
        mark = f'"{chr(_MARK + number % _MARKS) * 4}"'
        alone = matched(task, example, answer[: place.start] + mark + answer[place.end :])
        marked = marked[: place.start] + mark + marked[place.end :]
        after = matched(task, example, marked)
        lost = max(whole.matched - alone.matched, rest.matched - after.matched)
        out[n] = lost >= 0.5 or (None if alone.pred > whole.pred or lost > 0 else False)
        rest = after
    return out


def matched(task: Task, example: Example, answer: str) -> Counts:
    """The counts of an answer over all fields, in the main mode, without checks of its form."""
    counts = counts_of(task, example, answer)
    form = getattr(task, "form_fields", ())
    return sum((c for name, c in counts[main_mode(counts)].items() if name not in form), Counts(0, 0, 0))


def whole_is_right(counts: Counts) -> bool:
    """Whether an answer says all that the labels say, and nothing else."""
    return counts.gold == counts.pred == counts.matched


def field_of(path: str) -> str:
    """The field of a value: the last key of its path."""
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), "value")


def span_signals(span: Mapping[str, Any]) -> dict[str, float]:
    """What is known of a value without the model: its field, and how the text has it."""
    out = {f"field={field_of(span['path'])}": 1.0, "words": float(len(span["value"].split()))}
    return out | {"in text": float(span["match"] == "exact"), "absent": float(span["match"] == "absent")}
