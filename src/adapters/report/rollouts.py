"""Rollouts of the report: answers to one prompt at several steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.evaluation.metrics import number
from adapters.pipeline.run_folder import read_rollouts
from adapters.report.reward_weights import weighted

PROMPTS, COLUMNS, ANSWERS = 6, 6, 8


@dataclass(frozen=True)
class Answer:
    """Equal completions of one group."""

    completion: str
    times: int
    scores: dict[str, float | None]
    """Reward -> score."""
    parts: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Group:
    """The completions of a prompt at one step, the best first."""

    step: int
    answers: tuple[Answer, ...]
    mean: float | None
    """Of the rewards by weight; None when none applies."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its groups over the steps; `text` and `gold` may be unknown."""

    id: str
    text: str | None
    gold: Any
    groups: tuple[Group, ...]
    steps: int
    """At how many steps it was drawn; `groups` shows some of them."""


def prompts(folder: Path, weights: Mapping[str, float]) -> list[Prompt]:
    """Prompts to show: those drawn most often, else those whose answers differ most.

    Reads the files twice rather than holding every rollout.
    """
    steps: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in read_rollouts(folder):
        weight = weights.get(str(entry.get("reward")), 1.0)
        steps[entry["id"]][entry["step"]].append(weight * (number(entry.get("score")) or 0.0))
    if not steps:
        return []
    if max(map(len, steps.values())) > 1:
        ranked = sorted(steps, key=lambda i: (-len(steps[i]), -_moved(steps[i])))
        chosen = ranked[:PROMPTS]
    else:
        chosen = _over_time({i: next(iter(groups.items())) for i, groups in steps.items()})
    entries: dict[str, dict[int, list[dict[str, Any]]]] = {i: defaultdict(list) for i in chosen}
    for entry in read_rollouts(folder):
        if entry["id"] in entries:
            entries[entry["id"]][entry["step"]].append(entry)
    return [_prompt(i, groups, weights) for i, groups in entries.items()]


def _moved(groups: dict[int, list[float]]) -> float:
    means = [sum(scores) / len(scores) for _, scores in sorted(groups.items())]
    return abs(means[-1] - means[0])


def _over_time(groups: dict[str, tuple[int, list[float]]]) -> list[str]:
    """The prompt with the widest spread of scores, for each section of the training."""
    ordered = sorted(groups, key=lambda i: groups[i][0])
    size = max(1, -(-len(ordered) // PROMPTS))
    return [max(ordered[n : n + size], key=lambda i: _spread(groups[i][1])) for n in range(0, len(ordered), size)]


def _spread(scores: list[float]) -> float:
    mean = sum(scores) / len(scores)
    return sum((s - mean) ** 2 for s in scores)


def _prompt(name: str, groups: dict[int, list[dict[str, Any]]], weights: Mapping[str, float]) -> Prompt:
    entries = [e for step in sorted(groups) for e in groups[step]]
    drawn = sorted(groups)
    last = len(drawn) - 1
    picked = drawn if len(drawn) <= COLUMNS else [drawn[round(n * last / (COLUMNS - 1))] for n in range(COLUMNS)]
    return Prompt(
        id=name,
        text=next((e["text"] for e in entries if isinstance(e.get("text"), str)), None),
        gold=next((e["gold"] for e in entries if "gold" in e), None),
        groups=tuple(_group(step, groups[step], weights) for step in picked),
        steps=len(drawn),
    )


def _group(step: int, entries: list[dict[str, Any]], weights: Mapping[str, float]) -> Group:
    by_text: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in entries:
        by_text[str(entry["completion"])].append(entry)
    answers = []
    for text, same in by_text.items():
        scores = {str(e.get("reward")): number(e.get("score")) for e in same}
        parts = {str(e.get("reward")): e["parts"] for e in same if isinstance(e.get("parts"), dict)}
        # Every reward writes each completion once.
        times = max(Counter(str(e.get("reward")) for e in same).values())
        answers.append(Answer(text, times, scores, parts))
    marks = {a.completion: weighted(a.scores, weights) for a in answers}
    answers.sort(key=lambda a: (-(marks[a.completion] or 0.0), -a.times))
    known = [mark for a in answers for _ in range(a.times) if (mark := marks[a.completion]) is not None]
    return Group(step, tuple(answers[:ANSWERS]), sum(known) / len(known) if known else None)
