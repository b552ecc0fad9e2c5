"""A model on a test set: completions, counts, figures with intervals, every sample on disk."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapters import console
from adapters.backends.jobs import Evaluation
from adapters.evaluation import metrics
from adapters.files import write_jsonl
from adapters.plugins.rewards import Grader, NamedReward, RewardError
from adapters.types import Counts, Example, ModeCounts, Progress, Sample, Sampler, Task


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
    console.phase("sampling")
    samples = sampler(
        [e.prompt for e in evaluation.examples],
        max_new_tokens=evaluation.max_new_tokens,
        batch_size=evaluation.batch_size,
        progress=progress,
    )
    console.phase("scoring")
    graders = [Grader(reward) for reward in rewards]
    scored = [_score(task, graders, e, s) for e, s in zip(evaluation.examples, samples, strict=True)]
    result = summary(evaluation.examples, samples, scored, rewards, evaluation.variants)
    result |= {"max_new_tokens": evaluation.max_new_tokens}
    if nothing := getattr(task, "empty_answer", None):
        once = evaluation.examples[: len(evaluation.examples) // evaluation.variants]
        means = {g.named.name: _baseline(g, nothing, once) for g in graders}
        result["always_empty"] = {name: mean for name, mean in means.items() if mean is not None}
    for grader in graders:
        grader.close()
        if grader.failures:
            result.setdefault("reward_errors", {})[grader.named.name] = grader.failures
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        records = [_record(*triple) for triple in zip(evaluation.examples, samples, scored, strict=True)]
        if evaluation.variants > 1:
            rows = len(records) // evaluation.variants
            records = [{**record, "variant": i // rows} for i, record in enumerate(records)]
        write_jsonl(folder / "samples.jsonl", records)
    return result


class _Score(dict[str, Any]):
    """What one completion earned: `counts`, `valid`, `rewards` (name -> score) and their `parts`."""


def _score(task: Task, graders: Sequence[Grader], example: Example, sample: Sample) -> _Score:
    graded = {g.named.name: g(sample.text, example) for g in graders}
    return _Score(
        counts=task.counts(example.gold, sample.text),
        valid=task.is_well_formed(sample.text),
        rewards={name: g.score for name, g in graded.items() if g.score is not None},
        parts={name: dict(g.parts) for name, g in graded.items()},
    )


def summary(
    examples: Sequence[Example],
    samples: Sequence[Sample],
    scored: Sequence[_Score],
    rewards: Sequence[NamedReward] = (),
    variants: int = 1,
) -> dict[str, Any]:
    """Figures of a test set: n, valid share, truncated outputs, lengths, metrics per mode and field, rewards and
    the means of their parts, per source.

    With several variants of each row, one whole set after the other, a row counts with the mean over its variants,
    and `variants` holds the spread of F1 over them. `parse_errors`, `truncated` and `tokens` count every output.
    """
    n = len(examples) // variants
    asked: list[ModeCounts] = [s["counts"] for s in scored]
    counts = [_mean_counts(asked[i::n]) for i in range(n)] if variants > 1 else asked
    by_source: dict[str, list[ModeCounts]] = defaultdict(list)
    for example, count in zip(examples[:n], counts, strict=True):
        by_source[example.source].append(count)
    empty_gold = [not _total(c).gold for c in asked]
    result: dict[str, Any] = {
        "n": n,
        "valid": sum(s["valid"] for s in scored) / len(scored),
        "parse_errors": sum(not s["valid"] for s in scored),
        "truncated": sum(s.truncated for s in samples),
        "tokens": sum(s.tokens for s in samples),
        "empty_gold": float(np.mean(empty_gold)),
        "empty_answers": float(np.mean([not _total(c).pred for c in asked])),
        # Beside every other figure: a model that is only shorter is not better.
        "length": {f"p{q}": float(np.percentile([s.tokens for s in samples], q)) for q in (10, 50, 90)},
        "metrics": metrics.corpus(counts),
        "rewards": {},
        "parts": {},
    }
    for reward in rewards:
        values = [[s["rewards"].get(reward.name) for s in scored[i::n]] for i in range(n)]
        means = [float(np.mean(known)) for row in values if (known := [v for v in row if v is not None])]
        if not means:
            continue
        result["rewards"][reward.name] = metrics.mean_with_interval(means)
        for name, wanted in (("on_empty_gold", True), ("on_some_gold", False)):
            part = [s["rewards"].get(reward.name) for s, e in zip(scored, empty_gold, strict=True) if e is wanted]
            if known := [v for v in part if v is not None]:
                result["rewards"][reward.name][name] = float(np.mean(known))
        named = [s["parts"][reward.name] for s in scored if reward.name in s["parts"]]
        result["parts"][reward.name] = _part_means(named)
    if len(by_source) > 1:
        result["by_source"] = {
            name: {"n": len(part), "metrics": metrics.corpus(part, intervals=False)} for name, part in by_source.items()
        }
    if variants > 1:
        result["variants"] = _spread(
            [metrics.corpus(asked[v * n : (v + 1) * n], intervals=False) for v in range(variants)]
        )
    return result


def _total(counts: ModeCounts) -> Counts:
    """Counts of all fields in the first matching mode."""
    return sum(next(iter(counts.values())).values(), Counts(0, 0, 0))


def _mean_counts(several: Sequence[ModeCounts]) -> ModeCounts:
    return {
        mode: {field: Counts(*np.mean([c[mode][field] for c in several], axis=0).tolist()) for field in fields}
        for mode, fields in several[0].items()
    }


def _spread(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """F1 over variants: mode -> field -> {n, mean, sd, min, max}; sd is the sample's (n - 1)."""
    out: dict[str, Any] = {}
    for mode, fields in several[0].items():
        for field in fields:
            f1 = [one[mode][field]["f1"] for one in several]
            figures = {"mean": float(np.mean(f1)), "sd": float(np.std(f1, ddof=1)), "min": min(f1), "max": max(f1)}
            out.setdefault(mode, {})[field] = {"n": len(f1), **figures}
    return out


def _baseline(grader: Grader, nothing: Callable[[Example], str], examples: Sequence[Example]) -> float | None:
    """Mean reward of answering nothing; None where the reward does not apply, or fails, which is no model's fault."""
    try:
        scores = [grader.attempt(nothing(e), e).score for e in examples]
    except RewardError:
        return None
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


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
        "prompt": list(example.prompt),
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
