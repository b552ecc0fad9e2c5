"""A backend without a model, for tests: it answers with the stored targets.

Its adapter is a file of prompt -> answer. To other prompts its sampler answers `[]`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.backends import selection
from adapters.backends.adapter_folder import CONFIG, WEIGHTS
from adapters.backends.jobs import Job
from adapters.backends.selection import Course, Selection
from adapters.console import phase
from adapters.data.examples import prompt_key
from adapters.data.lengths import measured
from adapters.recipe.recipe import Recipe
from adapters.types import Drawn, Example, Lengths, Message, Progress, Sample, Sampler


class EchoSampler:
    """Answers with stored targets."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.known = known

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """See `adapters.types.Sampler`."""
        texts = [self.known.get(prompt_key(Example("", "", tuple(p))), "[]") for p in prompts]
        progress(len(texts), len(texts), {})
        return [Sample(text, len(text.split()), False) for text in texts]

    def several(
        self, prompts: Sequence[Sequence[Message]], k: int, *, temperature: float, seed: str = "", **options: Any
    ) -> list[list[Drawn]]:
        """The same answer k times."""
        return [[Drawn(*sample[:3])] * k for sample in self(prompts, **options)]


class EchoBackend:
    """See `adapters.backends.jobs.Backend`."""

    draws = plays = True

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def check(self, stages: Sequence[Any]) -> list[str]:
        """Accept every stage. Raises UserError for a tracker that is not installed, as the trainers do."""
        if self.recipe.report_to:
            from adapters.backends.local import check_trackers

            check_trackers(self.recipe.report_to)
        return ["echo: no model is trained"]

    def sequences(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples themselves."""
        return examples

    def lengths(self, examples: Sequence[Example]) -> Sequence[Lengths]:
        """Number of words, and one for the end of an answer."""
        return measured(examples, lambda block: map(_words, block))

    def train(self, job: Job, start: Path | None, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Store the targets."""
        phase("training")
        known, steps = json.loads((start / WEIGHTS).read_text()) if start else {}, job.steps

        def after(step: int) -> dict[str, str]:
            return known | {
                prompt_key(e): e.completion or "" for e in job.examples[: len(job.examples) * step // steps]
            }

        for step in range(steps):
            progress(step + 1, steps, {"loss": 1 / (step + 1)})
        chosen = {"select": _chosen(job.select, job, after, folder)} if job.select else {}
        known = after(chosen["select"]["step"] if chosen else steps)
        (folder / WEIGHTS).write_text(json.dumps(known))
        (folder / CONFIG).write_text(json.dumps({"peft_type": "ECHO"}))
        return {"steps": chosen["select"]["end_step"] if chosen else steps, **chosen}

    @staticmethod
    def sampler(adapter: Path | None) -> Sampler:
        """A sampler that answers with the stored targets."""
        return EchoSampler(json.loads((adapter / WEIGHTS).read_text()) if adapter else {})

    def barrier(self) -> None:
        """One process only."""


def _words(e: Example) -> Lengths:
    prompt = sum(len((m["content"] or "").split()) for m in e.prompt)
    rejected = 0 if e.rejected is None else len(e.rejected.split()) + 1
    return Lengths(prompt, len((e.completion or "").split()) + 1, rejected)


def _chosen(selected: Selection, job: Job, after: Callable[[int], Mapping[str, str]], folder: Path) -> dict[str, Any]:
    """Measure the due states of a stage; `after` gives that of a step. Returns the figures of the choice."""
    course = Course(selected, job.steps, job.name)
    step = 0
    for step in filter(course.due, range(job.steps + 1)):
        measured = course.add(step, selected.judge.rows(selected.texts(EchoSampler(after(step)))))
        selection.store(folder, measured)
        selection.log(folder, selected.judge.metric, measured)
        course.announce(measured)
        if step == course.last_step:
            break
    return course.outcome(step)
