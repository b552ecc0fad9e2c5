"""Graded answers as lines of a file: what `adapters sample` writes, and the stages that learn from samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters.evaluation.best_of import Scores
from adapters.evaluation.metrics import number
from adapters.evaluation.picking import pick
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import NamedReward
from adapters.types import Drawn, Example, Scored, Task

Line = Mapping[str, Any]


def lines(
    row: int, example: Example, answers: Sequence[Drawn], graders: Sequence[Grader], *, greedy: bool
) -> list[dict[str, Any]]:
    """A line for each answer to a row, with its rewards; with `greedy` the first answer is the greedy one, sample 0."""
    texts = [answer.text for answer in answers]
    graded = [grader.scores(texts, [example] * len(texts)) for grader in graders]
    rewards = [grader.named for grader in graders]
    out = []
    for n, (answer, of_answer) in enumerate(zip(answers, zip(*graded, strict=True), strict=True), 0 if greedy else 1):
        named = dict(zip([r.name for r in rewards], of_answer, strict=True))
        line = {"row": row, "id": example.id, "asked": asked(example), "sample": n, "greedy": n == 0}
        line |= {"completion": answer.text}
        line |= {"tokens": answer.tokens, "truncated": answer.truncated}
        line |= {"logprob": None if answer.logprob is None else round(answer.logprob, 6)}
        line |= {"reward": _mean(rewards, named), "rewards": {name: s.score for name, s in named.items()}}
        out.append({**line, "parts": {name: dict(s.parts) for name, s in named.items()}})
    return out


def asked(example: Example) -> str:
    """A hash of the prompt."""
    return hashlib.sha256(json.dumps(example.prompt, sort_keys=True).encode("utf-8", "replace")).hexdigest()[:16]


def _mean(rewards: Sequence[NamedReward], named: Mapping[str, Scored]) -> float | None:
    """The rewards' weighted mean, as preference pairs are mined by; None where none applies."""
    known = [(r.weight, score) for r in rewards if (score := named[r.name].score) is not None]
    return sum(w * s for w, s in known) / (sum(abs(r.weight) for r in rewards) or 1.0) if known else None


def by_row(lines: Iterable[Line]) -> dict[int, list[Line]]:
    """The lines of each row that have a reward."""
    groups: dict[int, list[Line]] = {}
    for line in lines:
        if number(line.get("reward")) is not None:
            groups.setdefault(line["row"], []).append(line)
    return groups


def drawn(line: Line) -> Drawn:
    """The answer in a line."""
    return Drawn(line["completion"], line["tokens"], line["truncated"], line["logprob"])


def scores(lines: Iterable[Line], task: Task) -> list[Scores]:
    """The rewards of each row of which samples, and the greedy answer if there are any, were graded."""
    groups = by_row(lines).values()
    with_greedy = any(line["greedy"] for group in groups for line in group)
    of_groups = (_scores(group, task) for group in groups)
    return [s for s in of_groups if s.samples and (s.greedy is not None) == with_greedy]


def _scores(group: Sequence[Line], task: Task) -> Scores:
    samples = [line for line in group if not line["greedy"]]
    greedy = next((line["reward"] for line in group if line["greedy"]), None)
    known = [line for line in samples if line["logprob"] is not None]
    likeliest = known[pick(task, [drawn(line) for line in known], "likelihood")]["reward"] if known else None
    return Scores([line["reward"] for line in samples], greedy, likeliest)
