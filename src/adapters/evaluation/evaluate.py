"""Evaluation of a model on a test set: completions, counts, figures."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import numpy as np

from adapters import console
from adapters.backends.jobs import Evaluation
from adapters.backends.repetition import CHARACTERS, loops
from adapters.evaluation import alignment, metrics
from adapters.files import numbered_jsonl, read_json, read_jsonl, write_jsonl
from adapters.plugins.rewards import Grader, NamedReward, RewardError
from adapters.types import Counts, Example, ModeCounts, Progress, Sample, Sampler, Scored, Task, counts_of, total


class SetFigures(TypedDict):
    """Figures of one model on one test set, as in metrics.json and report.json."""

    n: int
    """Rows; one asked in several prompt variants counts once."""
    valid: float
    """Share of well-formed outputs."""
    parse_errors: int
    """Like `truncated` and `tokens` counted over all outputs, of all prompt variants."""
    truncated: int
    looped: NotRequired[int]
    """Of the truncated answers those that repeat themselves."""
    tokens: int
    empty_gold: float
    empty_answers: float
    length: dict[str, float]
    """Percentiles of the outputs' tokens: a model that is only shorter is not better."""
    metrics: metrics.Metrics
    rewards: dict[str, dict[str, Any]]
    parts: dict[str, dict[str, float]]
    max_new_tokens: int
    by_source: NotRequired[dict[str, dict[str, Any]]]
    variants: NotRequired[dict[str, Any]]
    """Spread of F1 over the prompt variants."""
    cost: NotRequired[dict[str, float]]
    """Seconds of sampling and tokens of all answers, of a test set that is also answered by picking."""
    constraint: NotRequired[Mapping[str, object]]
    """Constrained answers beside the free ones: `adapters.evaluation.constraining.Compared`."""
    always_empty: NotRequired[dict[str, float]]
    """Mean score of the empty answer by reward: the baseline."""
    reward_errors: NotRequired[dict[str, int]]
    annotator: NotRequired[str]
    """Who made the gold answers, where the rows say so: human, or the name of a model."""
    key: NotRequired[str]
    """Hashes of test set, weights and rewards: a change repeats the evaluation."""


class Stored(NamedTuple):
    """Answers of an earlier evaluation of the same rows and weights, with the scores of unchanged rewards."""

    samples: list[Sample]
    scores: Mapping[str, list[Scored]]
    figures: SetFigures


def stored_answers(folder: Path, evaluation: Evaluation, key: str) -> Stored | None:
    """The answers in a folder; None if they are not all there, or of other rows or weights than `key` says."""
    figures = read_figures(folder)
    (*of_answers, of_rewards), (*same, rewards) = (k.split(":", 2) for k in (figures.get("key") or "", key))
    if of_answers != same:
        return None
    needed = {"completion", "tokens", "truncated", "rewards", "parts"}
    rows = [record for record in read_jsonl(folder / "samples.jsonl") if record.keys() >= needed]
    if [row.get("id") for row in rows] != [example.id for example in evaluation.examples]:
        return None
    samples = [Sample(row["completion"], row["tokens"], row["truncated"]) for row in rows]
    names = [entry.rpartition("=")[0] for entry in set(of_rewards.split(",")) & set(rewards.split(",")) if entry]
    scores = {n: [Scored(row["rewards"].get(n), row["parts"].get(n, {})) for row in rows] for n in names}
    return Stored(samples, scores, figures)


def evaluate(
    sampler: Sampler | Stored,
    evaluation: Evaluation,
    task: Task,
    rewards: Sequence[NamedReward],
    folder: Path,
    progress: Progress,
    *,
    write: bool = True,
) -> SetFigures:
    """Answer a test set greedily, score the answers, store them if `write`."""
    examples = evaluation.examples
    stored = sampler if isinstance(sampler, Stored) else Stored([], {}, cast(SetFigures, {}))
    samples, cost = _answers(sampler, evaluation, progress)
    console.phase("scoring")
    graders = [Grader(reward) for reward in rewards]
    texts = [s.text for s in samples]
    graded = [stored.scores.get(g.named.name) or g.scores(texts, examples) for g in graders]
    names = [reward.name for reward in rewards]
    by_row = [dict(zip(names, of_row, strict=True)) for of_row in zip(*graded, strict=True)] or [{}] * len(examples)
    scored = [_score(task, of_row, e, s) for of_row, e, s in zip(by_row, examples, samples, strict=True)]
    figures = summary(evaluation, samples, scored, rewards)
    if evaluation.annotator:
        figures["annotator"] = evaluation.annotator
    if evaluation.picking and cost:
        figures["cost"] = cost
    if empty_answer := getattr(task, "empty_answer", None):
        known = {n: mean for n, mean in stored.figures.get("always_empty", {}).items() if n in stored.scores}
        new = [g for g in graders if g.named.name not in known]
        means = {g.named.name: _baseline(g, empty_answer, examples[: figures["n"]]) for g in new}
        figures["always_empty"] = known | {name: mean for name, mean in means.items() if mean is not None}
    for grader in graders:
        grader.close()
    errors = {n: count for n, count in stored.figures.get("reward_errors", {}).items() if n in stored.scores}
    if errors := errors | {g.named.name: g.failures for g in graders if g.failures}:
        figures["reward_errors"] = errors
    if write:
        folder.mkdir(parents=True, exist_ok=True)
        records = [_record(task, *triple) for triple in zip(examples, samples, scored, strict=True)]
        if evaluation.variants > 1:
            records = [{**record, "variant": i // figures["n"]} for i, record in enumerate(records)]
        write_jsonl(folder / "samples.jsonl", records)
    return figures


def _answers(
    sampler: Sampler | Stored, evaluation: Evaluation, progress: Progress
) -> tuple[list[Sample], dict[str, float] | None]:
    """The answers, and what they cost, if that is known."""
    if isinstance(sampler, Stored):
        return sampler.samples, sampler.figures.get("cost")
    console.phase("sampling")
    prompts, began = [e.prompt for e in evaluation.examples], time.monotonic()
    samples = sampler(
        prompts, max_new_tokens=evaluation.max_new_tokens, batch_size=evaluation.batch_size, progress=progress
    )
    tokens = getattr(sampler, "tokens", None) or sum(sample.tokens for sample in samples)
    return samples, {"seconds": round(time.monotonic() - began, 2), "tokens": tokens}


def read_figures(folder: Path) -> SetFigures:
    """The stored figures of one model on one test set, or an empty dict."""
    figures = read_json(folder / "metrics.json")
    if "says_nothing" in figures:  # the key's name in older runs
        figures["empty_answers"] = figures.pop("says_nothing")
    return cast(SetFigures, figures)


class _Score(NamedTuple):
    """Scores of one completion; `rewards` are those that apply."""

    counts: ModeCounts
    valid: bool
    rewards: dict[str, float]
    parts: dict[str, dict[str, float]]


def _score(task: Task, graded: Mapping[str, Scored], example: Example, sample: Sample) -> _Score:
    return _Score(
        counts=counts_of(task, example, sample.text),
        valid=task.is_well_formed(sample.text),
        rewards={name: g.score for name, g in graded.items() if g.score is not None},
        parts={name: dict(g.parts) for name, g in graded.items()},
    )


def summary(
    evaluation: Evaluation, samples: Sequence[Sample], scored: Sequence[_Score], rewards: Sequence[NamedReward] = ()
) -> SetFigures:
    """The figures of a test set; prompt variants of a row count with their mean."""
    n = len(evaluation.examples) // evaluation.variants
    asked = [s.counts for s in scored]
    counts = [_mean_counts(asked[i::n]) for i in range(n)] if evaluation.variants > 1 else asked
    graded = {r.name: means for r in rewards if (means := _reward_figures(r.name, scored, n))}
    figures = SetFigures(
        n=n,
        valid=sum(s.valid for s in scored) / len(scored),
        parse_errors=sum(not s.valid for s in scored),
        truncated=sum(s.truncated for s in samples),
        looped=sum(s.truncated and loops(s.text, CHARACTERS) for s in samples),
        tokens=sum(s.tokens for s in samples),
        empty_gold=float(np.mean([not total(c).gold for c in asked])),
        empty_answers=float(np.mean([not total(c).pred for c in asked])),
        length={f"p{q}": float(np.percentile([s.tokens for s in samples], q)) for q in (10, 50, 90)},
        metrics=metrics.corpus(counts),
        rewards=graded,
        parts={name: _part_means([s.parts[name] for s in scored if name in s.parts]) for name in graded},
        max_new_tokens=evaluation.max_new_tokens,
    )
    if len(sources := _by_source(evaluation.examples[:n], counts)) > 1:
        figures["by_source"] = sources
    if evaluation.variants > 1:
        figures["variants"] = _spread([asked[start : start + n] for start in range(0, len(asked), n)])
    return figures


def _reward_figures(name: str, scored: Sequence[_Score], n: int) -> dict[str, Any] | None:
    """A reward's mean, also by empty and other gold; None where it never applies."""
    values = [s.rewards.get(name) for s in scored]
    means = [mean for i in range(n) if (mean := _mean_of_known(values[i::n])) is not None]
    if not means:
        return None
    figures = metrics.mean_with_interval(means)
    for key, empty in (("on_empty_gold", True), ("on_some_gold", False)):
        of_key = [v for v, s in zip(values, scored, strict=True) if (not total(s.counts).gold) is empty]
        if (mean := _mean_of_known(of_key)) is not None:
            figures[key] = mean
    return figures


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _by_source(examples: Sequence[Example], counts: Sequence[ModeCounts]) -> dict[str, dict[str, Any]]:
    grouped: dict[str, list[ModeCounts]] = defaultdict(list)
    for example, count in zip(examples, counts, strict=True):
        grouped[example.source].append(count)
    return {name: {"n": len(rows), "metrics": metrics.corpus(rows, intervals=False)} for name, rows in grouped.items()}


def _mean_counts(variants: Sequence[ModeCounts]) -> ModeCounts:
    return {
        mode: {field: Counts(*np.mean([c[mode][field] for c in variants], axis=0).tolist()) for field in fields}
        for mode, fields in variants[0].items()
    }


def _spread(variants: Sequence[Sequence[ModeCounts]]) -> dict[str, Any]:
    """F1 over variants: mode -> field -> {n, mean, sd (n - 1), min, max}."""
    out: dict[str, Any] = {}
    by_variant = [metrics.corpus(counts, intervals=False) for counts in variants]
    for mode, fields in by_variant[0].items():
        for field in fields:
            f1 = [figures[mode][field]["f1"] or 0.0 for figures in by_variant]
            figures = {"mean": float(np.mean(f1)), "sd": float(np.std(f1, ddof=1)), "min": min(f1), "max": max(f1)}
            out.setdefault(mode, {})[field] = {"n": len(f1), **figures}
    return out


def _baseline(grader: Grader, empty_answer: Callable[[Example], str], examples: Sequence[Example]) -> float | None:
    scores: list[float | None] = [None] * len(examples)
    with closing(grader.attempts([empty_answer(e) for e in examples], examples)) as attempts:
        for n, outcome, _ in attempts:
            if isinstance(outcome, RewardError):
                return None
            scores[n] = outcome.score
    return _mean_of_known(scores)


def _part_means(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = defaultdict(list)
    for name, value in (item for named in parts for item in named.items()):
        values[name].append(value)
    return {name: sum(known) / len(known) for name, known in values.items()}


def store_alignment(task: Task, folder: Path) -> None:
    """Add what the task's `align` compares to stored samples of an older version."""
    path = folder / "samples.jsonl"
    first = next((record for _, record in numbered_jsonl(path)), {alignment.STORED: None})
    if alignment.STORED not in first:
        records = (record for _, record in numbered_jsonl(path))
        write_jsonl(path, ({**record, **_realigned(task, record)} for record in records))


def _realigned(task: Task, record: Mapping[str, Any]) -> dict[str, Any]:
    return _aligned(task, record.get("gold"), str(record.get("completion", "")), record.get("text"))


def _aligned(task: Task, gold: Any, completion: str, text: Any) -> dict[str, Any]:
    return {alignment.STORED: alignment.by_task(task, gold, completion, text)}


def _record(task: Task, example: Example, sample: Sample, score: _Score) -> dict[str, Any]:
    return {
        "id": example.id,
        "source": example.source,
        "prompt": list(example.prompt),
        "text": example.meta.get("text"),
        "gold": example.gold,
        "completion": sample.text,
        "tokens": sample.tokens,
        "truncated": sample.truncated,
        "valid": score.valid,
        "rewards": score.rewards,
        "parts": score.parts,
        "counts": {mode: {f: list(c) for f, c in fields.items()} for mode, fields in score.counts.items()},
        **_aligned(task, example.gold, sample.text, example.meta.get("text")),
    }
