"""Which prompts of a `distill` stage its teachers can answer: a teacher that cannot is no judge there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from adapters import console
from adapters.backends.batches import stratified
from adapters.backends.jobs import Backend, Job
from adapters.data.examples import clean_prompt, domain_of
from adapters.errors import UserError
from adapters.evaluation.picking import is_usable
from adapters.files import append_jsonl, read_jsonl, truncate_jsonl
from adapters.pipeline import distilling, stage_rows
from adapters.recipe.stages import Distill
from adapters.types import Progress, Task

FILE: Final = "teacher_answers.jsonl"


def keep_readable(
    job: Job, task: Task, backend: Backend, folder: Path, progress: Progress, seed: int
) -> tuple[Job, Any]:
    """The job without prompts whose greedy answer by their own teacher the task cannot read, and their counts.

    Teachers are asked about the prompts that the stage's steps draw, and no others are kept. Answers are stored by
    teacher in the stage's folder, where a stopped run finds them. An answer that is cut counts as one that cannot be
    read. Raises UserError when a domain has no prompt left.
    """
    stage = job.stage
    assert isinstance(stage, Distill)  # noqa: S101 - others are not asked
    path, teachers = folder / FILE, distilling.folders(stage)
    domains = [domain_of(e) or "" for e in job.examples]
    drawn = sorted(set(stratified(domains, stage.batch_size, job.steps, seed)))
    rows = {d: [n for n in drawn if domains[n] == d] for d in teachers}
    stored = Counter(line["domain"] for line in read_jsonl(path))
    backend.barrier()  # all have read what is now repaired
    missing = [domain for domain in teachers if stored[domain] < len(rows[domain])]
    if missing and console.is_main():
        truncate_jsonl(path, lambda line: line["domain"] not in missing)
    for domain in missing:
        console.phase(f"asking the teacher {domain}")
        lines = _answers(job, rows[domain], task, backend.sampler(teachers[domain]), progress)
        if console.is_main():
            append_jsonl(path, [{"domain": domain, **line} for line in lines], sync=True)
    backend.barrier()
    return _kept(job, {line["row"]: line["readable"] for line in read_jsonl(path)}, rows)


def _answers(job: Job, rows: Sequence[int], task: Task, sampler: Any, progress: Progress) -> list[dict[str, Any]]:
    stage: Any = job.stage
    prompts = [clean_prompt(job.examples[n]) for n in rows]
    samples = sampler(prompts, max_new_tokens=stage.max_completion_length, batch_size=None, progress=progress)
    return [
        {"row": n, "readable": is_usable(task, s), "completion": s.text} for n, s in zip(rows, samples, strict=True)
    ]


def _kept(job: Job, readable: dict[int, bool], rows: dict[str, list[int]]) -> tuple[Job, dict[str, Any]]:
    at, lost = ("stages", job.index), {d: sum(not readable[n] for n in mine) for d, mine in rows.items()}
    for domain, count in lost.items():
        if count == len(rows[domain]):
            fault = f"the teacher {domain!r} answers none of its {count:,} prompts so that the task can read it."
            raise UserError(fault, at=(*at, "teachers"))
    examples = tuple(e for n, e in enumerate(job.examples) if readable.get(n))
    told = ", ".join(f"{domain} {count:,} of {len(rows[domain]):,}" for domain, count in lost.items())
    steps = stage_rows.steps(job.stage, len(job.examples) - sum(lost.values()), job.stage.epochs, at)
    figures = {"unreadable": {**lost, "text": f"prompts that their teacher cannot answer, left out: {told}"}}
    return replace(job, examples=examples, steps=min(job.steps, steps)), figures
