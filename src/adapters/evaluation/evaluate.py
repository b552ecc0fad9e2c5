"""Evaluation of a model on a test set: completions, counts, figures."""

from __future__ import annotations

import math
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from adapters import console
from adapters.backends.jobs import Evaluation
from adapters.backends.repetition import CHARACTERS, loops
from adapters.data.on_disk import HELD, Store, collect, take
from adapters.evaluation import alignment, metrics
from adapters.files import numbered_jsonl, read_json, write_jsonl
from adapters.plugins.attempts import RewardError
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import NamedReward
from adapters.types import QUESTION, Example, ModeCounts, Progress, Sample, Sampler, Scored, Task, counts_of, total


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
    needed = {"id", "completion", "tokens", "truncated", "rewards", "parts"}
    names = [entry.rpartition("=")[0] for entry in set(of_rewards.split(",")) & set(rewards.split(",")) if entry]
    samples, ids, scores = list[Sample](), list[str](), {name: list[Scored]() for name in names}
    for _, row in numbered_jsonl(folder / "samples.jsonl"):
        if row.keys() >= needed:
            ids.append(row["id"])
            # Answers that an older version stored do not say whether they looped.
            looped = row.get("looped", row["truncated"] and loops(row["completion"], CHARACTERS))
            samples.append(Sample(row["completion"], row["tokens"], row["truncated"], looped=looped))
            for name, of_name in scores.items():
                of_name.append(Scored(row["rewards"].get(name), row["parts"].get(name, {})))
    return Stored(samples, scores, figures) if ids == [example.id for example in evaluation.examples] else None


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
    scores, tally = Store[_Score](), _Tally()
    for score in _scores(task, examples, samples, graders, stored.scores):
        scores.append(score)
        tally.add(score)
    figures = summary(evaluation, samples, tally, rewards)
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
        scored = take(scores, np.arange(len(scores)))
        records = (_record(task, *triple) for triple in zip(examples, samples, scored, strict=True))
        if evaluation.variants > 1:
            records = ({**record, "variant": i // figures["n"]} for i, record in enumerate(records))
        write_jsonl(folder / "samples.jsonl", records)
    return figures


def _answers(
    sampler: Sampler | Stored, evaluation: Evaluation, progress: Progress
) -> tuple[list[Sample], dict[str, float] | None]:
    """The answers, and what they cost, if that is known."""
    if isinstance(sampler, Stored):
        return sampler.samples, sampler.figures.get("cost")
    console.phase("sampling")
    prompts, began = collect(e.prompt for e in evaluation.examples), time.monotonic()
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


def _scores(
    task: Task,
    examples: Sequence[Example],
    samples: Sequence[Sample],
    graders: Sequence[Grader],
    known: Mapping[str, Sequence[Scored]],
) -> Iterator[_Score]:
    """The scores of all answers, block by block; `known` are those of rewards that graded them before."""
    for start in range(0, len(examples), HELD):
        part = slice(start, start + HELD)
        rows, answers = list(examples[part]), samples[part]
        texts = [s.text for s in answers]
        graded = [(known.get(g.named.name) or ())[part] or g.scores(texts, rows) for g in graders]
        names = [g.named.name for g in graders]
        by_row = [dict(zip(names, of_row, strict=True)) for of_row in zip(*graded, strict=True)] or [{}] * len(rows)
        yield from (_score(task, of_row, e, s) for of_row, e, s in zip(by_row, rows, answers, strict=True))


class _Tally:
    """What the figures of a test set need of its scores, as numbers in arrays."""

    def __init__(self) -> None:
        self.counts = metrics.CountTable()
        self.valid, self.no_gold, self.no_pred = bytearray(), bytearray(), bytearray()
        self.rewards: dict[str, array[float]] = defaultdict(lambda: array("d"))
        """Scores by reward; NaN where it does not apply."""
        self.parts: dict[str, dict[str, array[float]]] = defaultdict(lambda: defaultdict(lambda: array("d")))

    def add(self, score: _Score) -> None:
        """Add the scores of an answer."""
        self.counts.add(score.counts)
        found = total(score.counts)
        self.valid.append(bool(score.valid))
        self.no_gold.append(not found.gold)
        self.no_pred.append(not found.pred)
        for name, parts in score.parts.items():
            self.rewards[name].append(score.rewards.get(name, math.nan))
            for part, value in parts.items():
                self.parts[name][part].append(value)

    def part_means(self, reward: str) -> dict[str, float]:
        """The mean of each named part of a reward, over the answers that have it."""
        return {name: sum(known) / len(known) for name, known in self.parts[reward].items()}


def summary(
    evaluation: Evaluation, samples: Sequence[Sample], tally: _Tally, rewards: Sequence[NamedReward] = ()
) -> SetFigures:
    """The figures of a test set; prompt variants of a row count with their mean."""
    n, rows = len(evaluation.examples) // evaluation.variants, len(samples)
    fields, asked = tally.counts.fields, tally.counts.rows()
    by_variant = asked.reshape(evaluation.variants, n, asked.shape[1])
    counts = by_variant.mean(axis=0) if evaluation.variants > 1 else asked
    no_gold, no_pred = (np.frombuffer(flags, dtype=bool) for flags in (tally.no_gold, tally.no_pred))
    graded = {r.name: means for r in rewards if (means := _reward_figures(tally.rewards[r.name], no_gold, n))}
    figures = SetFigures(
        n=n,
        valid=sum(tally.valid) / rows,
        parse_errors=rows - sum(tally.valid),
        truncated=sum(s.truncated for s in samples),
        looped=sum(s.looped for s in samples),
        tokens=sum(s.tokens for s in samples),
        empty_gold=float(np.mean(no_gold)),
        empty_answers=float(np.mean(no_pred)),
        length={f"p{q}": float(np.percentile([s.tokens for s in samples], q)) for q in (10, 50, 90)},
        metrics=metrics.of_table(fields, counts),
        rewards=graded,
        parts={name: tally.part_means(name) for name in graded},
        max_new_tokens=evaluation.max_new_tokens,
    )
    if len(sources := _by_source(evaluation.examples[:n], fields, counts)) > 1:
        figures["by_source"] = sources
    if evaluation.variants > 1:
        figures["variants"] = _spread(fields, by_variant)
    return figures


def _reward_figures(scores: Sequence[float], no_gold: NDArray[np.bool_], n: int) -> dict[str, Any] | None:
    """A reward's mean, also by empty and other gold; None where it never applies."""
    values = np.asarray(scores, dtype=float)
    by_row = values if len(values) == n else np.array([_mean_of_known(values[i::n]) for i in range(n)], dtype=float)
    means = by_row[~np.isnan(by_row)]
    if not len(means):
        return None
    figures = metrics.mean_with_interval(means)
    for key, of_key in (("on_empty_gold", no_gold), ("on_some_gold", ~no_gold)):
        if (mean := _mean_of_known(values[of_key])) is not None:
            figures[key] = mean
    return figures


def _mean_of_known(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.mean(known)) if len(known) else None


def _by_source(
    examples: Sequence[Example], fields: Mapping[str, Sequence[str]], counts: NDArray[np.float64]
) -> dict[str, dict[str, Any]]:
    codes: dict[str, int] = {}
    of_row = np.fromiter((codes.setdefault(e.source, len(codes)) for e in examples), dtype=np.int32)
    if len(codes) < 2:
        return {}
    parts = {name: counts[of_row == code] for name, code in codes.items()}
    return {
        name: {"n": len(rows), "metrics": metrics.of_table(fields, rows, intervals=False)}
        for name, rows in parts.items()
    }


def _spread(fields: Mapping[str, Sequence[str]], variants: NDArray[np.float64]) -> dict[str, Any]:
    """F1 over variants: mode -> field -> {n, mean, sd (n - 1), min, max}."""
    out: dict[str, Any] = {}
    by_variant = [metrics.of_table(fields, counts, intervals=False) for counts in variants]
    for mode, names in by_variant[0].items():
        for field in names:
            f1 = [figures[mode][field]["f1"] or 0.0 for figures in by_variant]
            figures = {"mean": float(np.mean(f1)), "sd": float(np.std(f1, ddof=1)), "min": min(f1), "max": max(f1)}
            out.setdefault(mode, {})[field] = {"n": len(f1), **figures}
    return out


def _baseline(grader: Grader, empty_answer: Callable[[Example], str], examples: Sequence[Example]) -> float | None:
    scores = np.full(len(examples), math.nan)
    for start in range(0, len(examples), HELD):
        rows = list(examples[start : start + HELD])
        with closing(grader.attempts([empty_answer(e) for e in rows], rows)) as attempts:
            for n, outcome, _ in attempts:
                if isinstance(outcome, RewardError):
                    return None
                scores[start + n] = math.nan if outcome.score is None else outcome.score
    return _mean_of_known(scores)


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
        **({QUESTION: example.meta[QUESTION]} if QUESTION in example.meta else {}),
        "gold": example.gold,
        "completion": sample.text,
        "tokens": sample.tokens,
        "truncated": sample.truncated,
        "looped": sample.looped,
        "valid": score.valid,
        "rewards": score.rewards,
        "parts": score.parts,
        "counts": {mode: {f: list(c) for f, c in fields.items()} for mode, fields in score.counts.items()},
        **_aligned(task, example.gold, sample.text, example.meta.get("text")),
    }
