"""Stages with `samples:`, which learn from answers of the weights that they start from: best_of, and dpo."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from adapters import console
from adapters.backends.jobs import Backend, Job
from adapters.data.load import ROUNDING
from adapters.errors import UserError
from adapters.evaluation import best_of, graded
from adapters.evaluation.graded import Line
from adapters.files import append_jsonl, read_jsonl, truncate_jsonl
from adapters.pipeline import selecting, stage_rows, stored_samples
from adapters.plugins.grader import Grader
from adapters.recipe.stages import Dpo, Samples, Stage, samples_of
from adapters.types import Drawn, Example, Progress, Task

FILE: Final = "samples.jsonl"
"""The graded answers, in the stage's folder; lines as `adapters sample` writes them."""
BLOCK: Final = 128
"""Rows whose answers are stored together: a stopped run samples at most so many again."""


@dataclass(frozen=True)
class Answering:
    """What samples a job's rows: the stage's start, and where its answers are stored."""

    job: Job
    task: Task
    backend: Backend
    start: Path | None
    folder: Path
    seed: int

    @property
    def samples(self) -> Samples:
        """How answers are sampled and picked."""
        samples = samples_of(self.job.stage)
        assert samples is not None  # noqa: S101 - other stages are not asked
        return samples

    def prepared(self, progress: Progress) -> tuple[Job, dict[str, Any]]:
        """The job with the answers that it learns, and figures of all answers.

        Raises UserError when there is nothing to learn.
        """
        self._answer(progress)
        lines = read_jsonl(self.folder / FILE)
        examples, left_out = self._learned(lines)
        rows, stage = len(self.job.examples), self.job.stage
        figures = best_of.figures(graded.scores(lines, self.task))
        text = _text(figures, self.samples.k, rows, len(examples), left_out, stage)
        if not examples:
            advice = "Lower margin or floor, or give it rows that are harder"
            advice = "No sample is whole and well-formed" if self.samples.pick == "first" else advice
            fault = f"there is nothing to learn: {text}. {advice}."
            raise UserError(fault, at=("stages", self.job.index, "samples"))
        # Held-out rows are no pairs, and perhaps have no answer whose loss could be measured; select has its own.
        validation = () if isinstance(stage, Dpo) else [e for e in self.job.validation if e.completion is not None]
        steps = stage_rows.steps(stage, len(examples), stage.epochs, ("stages", self.job.index))
        job = selecting.with_steps(replace(self.job, examples=tuple(examples), validation=tuple(validation)), steps)
        means = {name.replace(" ", "_"): figure["mean"] for name, figure in figures.items()}
        return job, {"samples": {**means, "rows": rows, "learned": len(examples), **left_out, "text": text}}

    def _answer(self, progress: Progress) -> None:
        """Sample and grade the blocks of rows that are not stored yet; all processes sample, the first one grades."""
        path, total, per_row = self.folder / FILE, len(self.job.examples), self.samples.k + 1
        blocks = [range(first, min(first + BLOCK, total)) for first in range(0, total, BLOCK)]
        stored = Counter(line["row"] for line in read_jsonl(path))
        missing = [block for block in blocks if any(stored[row + 1] < per_row for row in block)]
        self.backend.barrier()  # all have read what is now repaired
        if not missing:
            return
        again = {row + 1 for block in missing for row in block}
        if console.is_main():
            truncate_jsonl(path, lambda line: line["row"] not in again)
        sampler = None if self.samples.path else self.backend.sampler(self.start)
        console.phase("grading" if self.samples.path else "sampling")
        with ExitStack() as stack:
            graders = [stack.enter_context(closing(Grader(reward))) for reward in self.job.rewards]
            for block in missing:
                groups = self._sample(sampler, block, total, progress) if sampler else self._taken(block)
                if console.is_main():
                    new = [
                        line
                        for row, answers in zip(block, groups, strict=True)
                        for line in graded.lines(row + 1, self.job.examples[row], answers, graders, greedy=True)
                    ]
                    append_jsonl(path, new, sync=True)
        self.backend.barrier()

    @cached_property
    def _stored(self) -> dict[str, list[Drawn]]:
        return stored_samples.read(self.samples)

    def _taken(self, block: range) -> list[list[Drawn]]:
        return [self._stored[self.job.examples[row].id] for row in block]

    def _sample(self, sampler: Any, block: range, total: int, progress: Progress) -> list[list[Drawn]]:
        def moved(done: int, _: int, figures: Mapping[str, float]) -> None:
            progress(block.start + done, total, figures)

        groups: list[list[Drawn]] = sampler.several(
            [self.job.examples[row].prompt for row in block],
            self.samples.k + 1,
            temperature=self.samples.temperature,
            max_new_tokens=self.job.answer_tokens,
            batch_size=None,
            progress=moved,
            seed=f"{self.seed} {self.job.index} {block.start} ",
        )
        return groups

    def _learned(self, lines: Iterable[Line]) -> tuple[list[Example], dict[str, int]]:
        """The examples to train on, and how many were left out as too long."""
        pick = _pair if isinstance(self.job.stage, Dpo) else _best
        groups, learned = graded.by_row(lines), list[Example]()
        for n, example in enumerate(self.job.examples, 1):
            group = groups.get(n, ())
            usable = [line for line in _whole(group) if self.task.is_well_formed(line["completion"])]
            if (picked := pick(usable, group, self.samples)) is not None:
                completion, rejected = picked
                bare: dict[str, Any] = {"answer": None, "rejected_answer": None, "learned": (), "masked": ()}
                learned.append(replace(example, completion=completion, rejected=rejected, **bare))
        lengths = self.backend.lengths(learned) if learned else []
        fits = [stage_rows.fits(self.job.stage, length) for length in lengths]
        kept = [example for example, fit in zip(learned, fits, strict=True) if fit]
        return kept, {"too_long": len(learned) - len(kept)}


def _whole(group: Sequence[Line]) -> list[Line]:
    return [line for line in group if not line["truncated"] and line["completion"].strip()]


def _best(usable: Sequence[Line], group: Sequence[Line], samples: Samples) -> tuple[str, None] | None:
    """The best usable sample of a row, if it beats the greedy answer by the margin; or the first, as a control."""
    greedy = next((line["reward"] for line in group if line["greedy"]), None)
    drawn = [line for line in usable if not line["greedy"]]
    if greedy is None or not drawn:
        return None
    if samples.pick == "first":
        return drawn[0]["completion"], None
    best = max(drawn, key=_worth)
    enough = best["reward"] - greedy >= samples.margin - ROUNDING and best["reward"] >= samples.floor
    return (best["completion"], None) if enough else None


def _pair(usable: Sequence[Line], group: Sequence[Line], samples: Samples) -> tuple[str, str] | None:
    """The best usable answer of a row and its worst whole one, if they differ by the margin."""
    if not usable:
        return None
    best, worst = max(usable, key=_worth), min(_whole(group), key=lambda line: (line["reward"], -_likelihood(line)))
    difference = best["reward"] - worst["reward"]
    enough = difference >= max(samples.margin - ROUNDING, ROUNDING) and best["reward"] >= samples.floor
    return (best["completion"], worst["completion"]) if enough else None


def _worth(line: Line) -> tuple[float, float]:
    """Of equal rewards the likelier answer: what a reward does not judge is not learned from a rare one."""
    return line["reward"], _likelihood(line)


def _likelihood(line: Line) -> float:
    return -math.inf if line.get("logprob") is None else line["logprob"]


def _text(
    figures: Mapping[str, Mapping[str, Any]], k: int, rows: int, learned: int, left_out: Mapping[str, int], stage: Stage
) -> str:
    """One sentence for people."""
    shown = [name for name in ("greedy", "one sample", f"best of {k}") if name in figures]
    means = ", ".join(f"{name} {figures[name]['mean']:.3f}" for name in shown) or "nothing: none is graded"
    what = "pairs" if isinstance(stage, Dpo) else "answers"
    long = f", {left_out['too_long']:,} are too long" if left_out["too_long"] else ""
    return f"{k} answers to each of {rows:,} rows earn {means}; {learned:,} {what} are learned{long}"
