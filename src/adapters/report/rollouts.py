"""Rollouts of the report: answers to one prompt at several steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any, NamedTuple

from adapters.evaluation.metrics import number
from adapters.pipeline.run_folder import read_rollouts
from adapters.report.reward_weights import weighted

PROMPTS, COLUMNS, ANSWERS = 6, 6, 8


class Answer(NamedTuple):
    """A completion of a group, and how often it was sampled."""

    completion: str
    times: int
    scores: dict[str, float | None]
    """Reward -> score."""
    parts: dict[str, dict[str, float]]


class Group(NamedTuple):
    """A prompt's completions at one step, best first, with their mean score."""

    step: int
    answers: tuple[Answer, ...]
    mean: float | None


class Prompt(NamedTuple):
    """A prompt and its groups at some of the `steps` steps it was drawn at."""

    id: str
    text: str | None
    gold: Any
    groups: tuple[Group, ...]
    steps: int


def prompts(folder: Path, weights: Mapping[str, float]) -> list[Prompt]:
    """Prompts drawn most often, else those whose answers differ most."""
    steps: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for entry in read_rollouts(folder):
        weight = weights.get(str(entry.get("reward")), 1.0)
        steps[entry["id"]][entry["step"]].append(weight * (number(entry.get("score")) or 0.0))
    if not steps:
        return []
    if max(map(len, steps.values())) > 1:
        chosen = sorted(steps, key=lambda i: (-len(steps[i]), -_change(steps[i])))[:PROMPTS]
    else:
        chosen = _over_time({i: next(iter(groups.items())) for i, groups in steps.items()})
    entries: dict[str, dict[int, list[dict[str, Any]]]] = {i: defaultdict(list) for i in chosen}
    for entry in read_rollouts(folder):
        if entry["id"] in entries:
            entries[entry["id"]][entry["step"]].append(entry)
    return [_prompt(i, groups, weights) for i, groups in entries.items()]


def _change(groups: dict[int, list[float]]) -> float:
    first, last = (fmean(groups[step]) for step in (min(groups), max(groups)))
    return abs(last - first)


def _over_time(groups: dict[str, tuple[int, list[float]]]) -> list[str]:
    """The prompt with the widest spread of scores, for each section of the training."""
    ordered = sorted(groups, key=lambda i: groups[i][0])
    size = max(1, -(-len(ordered) // PROMPTS))
    spread = {i: len(scores) * pvariance(scores) for i, (_, scores) in groups.items()}
    return [max(ordered[n : n + size], key=spread.__getitem__) for n in range(0, len(ordered), size)]


def _prompt(name: str, groups: dict[int, list[dict[str, Any]]], weights: Mapping[str, float]) -> Prompt:
    drawn = sorted(groups)
    entries = [entry for step in drawn for entry in groups[step]]
    last = len(drawn) - 1
    picked = drawn if last < COLUMNS else [drawn[round(n * last / (COLUMNS - 1))] for n in range(COLUMNS)]
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
        times = max(Counter(str(e.get("reward")) for e in same).values())  # each reward writes each sample once
        answers.append(Answer(text, times, scores, parts))
    score = {a.completion: weighted(a.scores, weights) for a in answers}
    answers.sort(key=lambda a: (-(score[a.completion] or 0.0), -a.times))
    known = [value for a in answers for _ in range(a.times) if (value := score[a.completion]) is not None]
    return Group(step, tuple(answers[:ANSWERS]), fmean(known) if known else None)
