"""A model on a test set: completions, counts, figures with intervals, every sample on disk."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters import metrics
from adapters.jobs import Evaluation
from adapters.rewarding import NamedReward, grade
from adapters.types import Example, ModeCounts, Progress, Sample, Sampler, Task


def evaluate(
    sampler: Sampler,
    evaluation: Evaluation,
    task: Task,
    rewards: Sequence[NamedReward],
    folder: Path,
    progress: Progress,
    *,
    write: bool = True,
) -> dict[str, Any]:
    """Sample greedily on a test set, score, and store `samples.jsonl` in `folder`. Returns the figures.

    Processes that do not `write` take part in the sampling only.
    """
    samples = sampler(
        [e.prompt for e in evaluation.examples],
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        progress=progress,
    )
    scored = [_score(task, rewards, e, s) for e, s in zip(evaluation.examples, samples, strict=True)]
    result = summary(evaluation.examples, samples, scored, rewards)
    result |= {"max_new_tokens": evaluation.max_new_tokens}
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
            for example, sample, score in zip(evaluation.examples, samples, scored, strict=True):
                file.write(json.dumps(_record(example, sample, score), ensure_ascii=False) + "\n")
    return result


class _Score(dict[str, Any]):
    """What one completion earned: `counts`, `valid`, `rewards` (name -> score) and their `parts`."""


def _score(task: Task, rewards: Sequence[NamedReward], example: Example, sample: Sample) -> _Score:
    graded = {r.name: grade(r, sample.text, example) for r in rewards}
    return _Score(
        counts=task.counts(example.gold, sample.text),
        valid=task.valid(sample.text),
        rewards={name: g.score for name, g in graded.items() if g.score is not None},
        parts={name: dict(g.parts) for name, g in graded.items()},
    )


def summary(
    examples: Sequence[Example],
    samples: Sequence[Sample],
    scored: Sequence[_Score],
    rewards: Sequence[NamedReward] = (),
) -> dict[str, Any]:
    """Figures of a test set: n, valid share, truncated outputs, lengths, metrics per mode and field, rewards and the
    means of their parts, per source.
    """
    counts: list[ModeCounts] = [s["counts"] for s in scored]
    by_source: dict[str, list[ModeCounts]] = defaultdict(list)
    for example, count in zip(examples, counts, strict=True):
        by_source[example.source].append(count)
    result: dict[str, Any] = {
        "n": len(examples),
        "valid": sum(s["valid"] for s in scored) / len(scored),
        "truncated": sum(s.truncated for s in samples),
        "tokens": sum(s.tokens for s in samples),
        # Beside every other figure: a model that is only shorter is not better.
        "length": {f"p{q}": float(np.percentile([s.tokens for s in samples], q)) for q in (10, 50, 90)},
        "metrics": metrics.corpus(counts),
        "rewards": {},
        "parts": {},
    }
    for reward in rewards:
        values = [s["rewards"][reward.name] for s in scored if reward.name in s["rewards"]]
        if values:
            result["rewards"][reward.name] = metrics.mean_with_interval(values)
        result["parts"][reward.name] = _part_means([s["parts"][reward.name] for s in scored])
    if len(by_source) > 1:
        result["by_source"] = {
            name: {"n": len(part), "metrics": metrics.corpus(part, intervals=False)} for name, part in by_source.items()
        }
    return result


def _part_means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each named part over the completions that have it."""
    held: dict[str, list[float]] = defaultdict(list)
    for named in parts:
        for name, value in named.items():
            held[name].append(value)
    return {name: sum(values) / len(values) for name, values in held.items()}


def _record(example: Example, sample: Sample, score: _Score) -> dict[str, Any]:
    return {
        "id": example.id,
        "source": example.source,
        "text": example.meta.get("text"),
        "gold": example.gold,
        "completion": sample.text,
        "tokens": sample.tokens,
        "truncated": sample.truncated,
        "valid": score["valid"],
        "rewards": score["rewards"],
        "parts": score["parts"],
        "counts": {mode: {f: list(c) for f, c in fields.items()} for mode, fields in score["counts"].items()},
    }
