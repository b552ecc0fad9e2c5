"""A stage's `select:` against its rows: what is measured, how often, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from adapters.backends.jobs import Earlier, Job
from adapters.backends.selection import Selection
from adapters.data.examples import text_key
from adapters.errors import KeyPath, UserError, hint
from adapters.evaluation.episodes import EpisodeSampler
from adapters.evaluation.held_out import F1, REWARD, HeldOut, fields
from adapters.plugins.environments import NamedEnvironment
from adapters.plugins.rewards import NamedReward
from adapters.recipe.stages import Stage
from adapters.types import Example, Task

VALIDATION_ROWS: Final = 200
"""Held-out rows of a stage without `select`, at most."""
GRPO_SHARE: Final = 0.1
"""Share of the ids that a GRPO stage with `select` holds out, where neither it nor a stage before says one."""
FEW: Final = 50
"""Held-out rows below which a choice is mostly chance."""


def held_out_share(stages: Sequence[Stage], n: int) -> tuple[float, int]:
    """The share of a stage's ids that is held out, and the most rows."""
    stage = stages[n]
    if (share := stage.validation) is None:
        # Of the same rows an equal share holds out the same ones, which the stages before have not learned either.
        before = max((other.validation or 0.0 for other in stages[:n]), default=0.0)
        share = (before or GRPO_SHARE) if stage.select else 0.0
    return share, stage.select.rows if stage.select else VALIDATION_ROWS


def measured_rewards(
    stages: Sequence[Stage],
    rewards: Sequence[tuple[NamedReward, ...]],
    n: int,
    environment: NamedEnvironment | None = None,
) -> tuple[NamedReward, ...]:
    """The rewards that a stage's states are measured by: its own, or those of the stage after or before it.

    Those of a stage that plays are its environment's and its own.
    None with another metric. Raises UserError when the recipe has none.
    """
    select = stages[n].select
    if select is None or select.metric != REWARD:
        return ()
    if environment is not None:
        return environment.reward, *rewards[n]
    found = next(filter(None, (*rewards[n:], *reversed(rewards[:n]))), ())
    if not found:
        fault = "metric: reward needs rewards, and no stage of the recipe has any; use f1, or a field."
        raise UserError(fault, at=("stages", n, "select", "metric"))
    return found


def selection(
    task: Task, job: Job, rewards: tuple[NamedReward, ...], rows: Sequence[Example], max_new_tokens: int
) -> Selection | None:
    """How a job's states are measured on held-out `rows`. Raises UserError for what cannot be measured."""
    select, at = job.stage.select, ("stages", job.index)
    if select is None:
        return None
    if not rows:
        raise UserError(
            f"select measures held-out rows, and none of the {len(job.examples):,} rows is held out; raise validation.",
            at=(*at, "validation" if job.stage.validation is not None else "select"),
        )
    every = select.every or max(1, job.steps // 10)
    if every > job.steps:
        fault = f"the stage has {job.steps} steps, and would be measured every {every}; lower it."
        raise UserError(fault, at=(*at, "select", "every"))
    judge = HeldOut(task, tuple(rows), select.metric, rewards)
    if select.metric != REWARD:
        pairs = job.stage.kind == "dpo"
        _check_counts(judge, "the pairs a gold column" if pairs else "these rows labels", (*at, "select", "metric"))
    if job.environment is None:
        return Selection(select, judge, every, max_new_tokens)
    player = partial(EpisodeSampler, examples=judge.examples, named=job.environment)
    return Selection(select, judge, every, job.environment.max_turn_length or max_new_tokens, player)


def with_steps(job: Job, steps: int) -> Job:
    """The job with other steps than its plan, and its states measured as often."""
    if job.select is None or job.stage.select is None:
        return replace(job, steps=steps)
    every = job.stage.select.every or max(1, steps // 10)
    return replace(job, steps=steps, select=replace(job.select, every=min(every, steps)))


def _check_counts(judge: HeldOut, wanted: str, at: KeyPath) -> None:
    bare = [e.id for e in judge.examples if e.gold is None]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(judge.examples)} held-out rows have no gold answer to count, the row {bare[0]!r} "
            f"among them; give {wanted}, or measure by metric: reward, where a stage has rewards.",
            at=at,
        )
    known = list(fields(judge.task, judge.examples[0]))
    if judge.metric not in (F1, *known):
        raise UserError(f"the task counts no such field.{hint(judge.metric, [F1, REWARD, *known])}", at=at)
    if not sum(bottom for _, bottom in judge.rows([e.completion or "" for e in judge.examples])):
        what = "anything" if judge.metric == F1 else repr(judge.metric)
        raise UserError(f"no held-out row has {what} to find; hold out more rows (validation).", at=at)


def note(job: Job) -> list[str]:
    """What the measurements add to a stage, in words; and that there are too few rows."""
    if job.select is None:
        return []
    n, every = len(job.select.judge.examples), job.select.every
    what = "answers" if job.environment is None else f"episodes of up to {job.environment.max_turns} turns"
    times = 1 + -(-job.steps // every)
    few = f"; with fewer than {FEW} rows the choice is mostly chance: raise validation" if n < FEW else ""
    return [
        f"{job.name}: its states are measured {times} times, {n:,} held-out rows each, by {job.select.judge.metric}: "
        f"{times * n:,} {what} of {job.select.max_new_tokens} tokens at most{few}"
    ]


def findings(jobs: Sequence[Job], earlier: Sequence[Earlier] = ()) -> Iterator[tuple[str, KeyPath]]:
    """What is odd about the held-out rows that states are chosen by, with the key that it is about.

    `earlier` are the stages that trained what the first stage starts from.
    """
    for job in jobs:
        held_out = {text_key(e) for e in job.select.judge.examples} if job.select else set()
        before: list[Job | Earlier] = [*earlier, *jobs[: job.index]] if held_out else []
        for other in before:
            if learned := held_out.intersection(map(text_key, other.examples)):
                yield (
                    f"{len(learned)} of {len(held_out)} held-out texts are among those that {other.name} trains on, "
                    "which flatters the start; hold out the same share of the same rows in both stages",
                    ("stages", job.index, "select"),
                )
