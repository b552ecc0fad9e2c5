"""What keeps a stage from learning well from its own answers, seen in its rows.

Flat groups, no row with nothing to find, lost answers, known prompts, episodes that weigh by their length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from adapters.backends.jobs import Earlier, Evaluation, Job
from adapters.errors import KeyPath
from adapters.evaluation.held_out import fields
from adapters.recipe.stages import Grpo, Sft, samples_of
from adapters.types import Example, Task

FLAT: Final = 0.25
"""Share of rows without anything to find above which is warned; seven in ten of their groups had equal rewards."""
EMPTY: Final = 0.1
"""Share of such rows in the test sets above which is warned where the stage has none."""
LOST: Final = 0.02
"""Share of the gold values in dropped rows above which is warned."""
SEEN: Final = 0.1
"""Share of the texts that an SFT stage has too, above which is warned."""
BY_TOKENS: Final = ("dapo", "bnpo", "dr_grpo", "cispo", "vespo")
"""GRPO's losses in which an episode weighs as much as it has tokens; TRL's default is the first."""


def findings(
    task: Task, jobs: Sequence[Job], tests: Sequence[Evaluation], earlier: Sequence[Earlier] = ()
) -> Iterator[tuple[str, KeyPath]]:
    """Sentences on the rows of stages that learn from their own answers, each with the key that it is about.

    `earlier` are the stages that trained what the first stage starts from.
    """
    for job in jobs:
        if isinstance(job.stage, Grpo) or samples_of(job.stage):
            at = ("stages", job.index)
            yield from _values(task, job, at, tests)
            yield from _seen(job, [*earlier, *jobs[: job.index]], (*at, "data"))
        if isinstance(job.stage, Grpo) and job.stage.environment:
            yield from _by_tokens(job.stage, ("stages", job.index, "environment"))


def _by_tokens(stage: Grpo, at: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    if (loss := stage.trl.get("loss_type", BY_TOKENS[0])) in BY_TOKENS:
        yield (
            f"the loss {loss} counts tokens, and failed episodes are often the longer ones, which then weigh more than "
            "those that succeed; trl: {loss_type: grpo} counts episodes",
            at,
        )


def _values(task: Task, job: Job, at: KeyPath, tests: Sequence[Evaluation]) -> Iterator[tuple[str, KeyPath]]:
    kept, lost = ([_to_find(task, e) for e in rows] for rows in (job.examples, job.beyond))
    if not sum(kept) + sum(lost):
        return
    flat = sum(not n for n in kept) / len(kept)
    if flat > FLAT:
        yield (
            f"{flat:.0%} of the stage's rows have nothing to find; most groups on such rows have equal rewards and "
            "teach nothing, so keep a tenth of them",
            (*at, "data"),
        )
    if not flat and (empty := _empty_share(task, tests)) > EMPTY:
        yield (
            f"none of the stage's rows has nothing to find, as {empty:.0%} of the test rows have; it may unlearn "
            "to answer that there is nothing, so give it some",
            (*at, "data"),
        )
    share = sum(lost) / (sum(kept) + sum(lost))
    if share > LOST:
        yield (
            f"{len(lost) / (len(kept) + len(lost)):.0%} of the stage's rows have a longer gold answer and are dropped, "
            f"and {share:.0%} of the gold values with them; raise it, to {_round_up(job.longest_answer)} for all",
            (*at, "max_completion_length"),
        )


def _seen(job: Job, before: Sequence[Job | Earlier], at: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    for other in before:
        share = len(job.texts & other.texts) / max(1, len(job.texts))
        if isinstance(other.stage, Sft) and share > SEEN:
            yield (
                f"{share:.0%} of the stage's texts are also those of {other.name}, which teaches their gold answers; "
                "their groups differ less, so give the stage rows that no SFT stage has (`split`)",
                at,
            )


def _empty_share(task: Task, tests: Sequence[Evaluation]) -> float:
    """The share of the test rows that have nothing to find."""
    empty = [not _to_find(task, example) for test in tests for example in test.examples]
    return sum(empty) / max(1, len(empty))


def _to_find(task: Task, example: Example) -> float:
    return sum(counts.gold for counts in fields(task, example).values())


def _round_up(tokens: int) -> int:
    return 32 * -(-tokens // 32)
