"""Estimate a run's tokens and dollars before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from adapters.backends.jobs import Evaluation, Job
from adapters.backends.tinker.cost import Tokens
from adapters.recipe.stages import Grpo
from adapters.recipe.tinker import Hosted
from adapters.types import Message

Prompts = Callable[[Sequence[Sequence[Message]]], list[list[int]]]


def estimate(jobs: Sequence[Job], prompts: Prompts, tests: Sequence[Evaluation], hosted: Hosted) -> list[str]:
    """A line for each stage, evaluation and total, by the length of gold answers."""
    entries = {job.name: stage_tokens(job, prompts, hosted) for job in jobs}
    if tests:
        models = len(jobs) + 1
        read = sum(len(p) for t in tests for p in prompts([e.prompt for e in t.examples]))
        written = sum(t.max_new_tokens * len(t.examples) for t in tests)
        entries["evaluation, at most"] = Tokens(prefill=models * read, sample=models * written)
    total = sum(entries.values(), Tokens())
    lines = [f"{name}: about {_described(tokens, hosted)}" for name, tokens in entries.items()]
    lines.append(f"in all about {total.total:,} tokens" + _dollars(total, hosted))
    limits = [f"{hosted.max_tokens:,} tokens"] if hosted.max_tokens else []
    limits += [f"${hosted.max_cost:g}"] if hosted.max_cost else []
    if limits:
        lines[-1] += f"; the run stops at {' or '.join(limits)}"
    return lines


def stage_tokens(job: Job, prompts: Prompts, hosted: Hosted) -> Tokens:
    """Estimated tokens of a stage; GRPO's answers are as long as the median gold one."""
    stage: Any = job.stage
    rows = job.steps * stage.batch_size
    encoded = prompts([e.prompt for e in job.examples])
    read = round(rows * sum(map(len, encoded)) / len(encoded))
    answer = job.tokens.get("completion_p50", 0)
    both = round(read + rows * answer)
    if stage.kind == "sft":
        return Tokens(train=both)
    if stage.kind == "dpo":
        return Tokens(prefill=4 * both, train=2 * both)
    group = stage.group_size
    written = round(rows * group * answer)
    whole = read * group + written
    compared = whole * ((stage.beta > 0) + needs_plain(stage, hosted))
    return Tokens(prefill=read + compared, sample=written, train=whole)


def needs_plain(stage: Grpo, hosted: Hosted) -> bool:
    """Whether a stage needs the log-probabilities of its answers at temperature 1, too."""
    return stage.temperature != 1 and (stage.beta > 0 or hosted.bounds is not None)


def _described(tokens: Tokens, hosted: Hosted) -> str:
    named = {"read": tokens.prefill, "written": tokens.sample, "trained": tokens.train}
    return ", ".join(f"{count:,} {name}" for name, count in named.items() if count) + _dollars(tokens, hosted)


def _dollars(tokens: Tokens, hosted: Hosted) -> str:
    return f" (${tokens.dollars(hosted.prices):.2f})" if hosted.prices else ""
