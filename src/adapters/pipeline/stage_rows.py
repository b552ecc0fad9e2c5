"""A stage's rows: whether it can learn from them, which are within its limits, which are held out, how many steps."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adapters.backends import adapter_folder
from adapters.backends.jobs import Backend
from adapters.data.examples import copy_key
from adapters.data.lengths import answer_limit, as_array, by_source
from adapters.data.load import Loaded
from adapters.data.on_disk import take
from adapters.errors import KeyPath, UserError
from adapters.pipeline import distilling, proxy_rows, selecting, starting
from adapters.pipeline.reading import Measure
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Dpo, Grpo, Sft, Stage, Supervised, TokenClassification, samples_of
from adapters.types import Example, Lengths


def check_stage(stage: Stage, examples: Sequence[Example], recipe: Recipe, backend: Backend, at: KeyPath) -> None:
    """Raise UserError for a stage whose rows, reference or backend do not go with it."""
    proxy_rows.check(stage, examples, recipe, at)
    samples = samples_of(stage)
    if samples is not None and not getattr(backend, "draws", False):
        raise UserError("the hosted trainer does not learn from samples that are drawn first.", at=(*at, "samples"))
    if getattr(stage, "environment", None) is not None and not getattr(backend, "plays", False):
        raise UserError("the hosted trainer plays no episodes; use trainer: local.", at=(*at, "environment"))
    if isinstance(stage, Dpo) and samples is None:
        _check_pairs(examples, (*at, "data"))
    if isinstance(stage, Supervised) and samples is None:
        _check_targets(examples, recipe.task.use, (*at, "data"))
    if isinstance(stage, Dpo | Grpo):
        _check_reference(stage.reference, recipe, (*at, "reference"))
    if isinstance(stage, Distill):
        distilling.check(stage, examples, recipe, backend, at)


def _check_targets(examples: Sequence[Example], task: str, at: KeyPath) -> None:
    bare = [e.id for e in examples if e.completion is None]
    if bare:
        raise UserError(
            f"SFT trains on completions, and the task {task}: example gives none for row {bare[0]!r}"
            f"{f' and {len(bare) - 1} more' if bare[1:] else ''}.",
            at=at,
        )


def _check_pairs(examples: Sequence[Example], at: KeyPath) -> None:
    for e in examples:
        if e.completion is None or e.rejected is None:
            missing = "chosen" if e.completion is None else "rejected"
            raise UserError(
                f"DPO learns from pairs, and row {e.id!r} has no {missing} side; a pair is a row with prompt, chosen "
                "and rejected (see: adapters pairs).",
                at=at,
            )
        if e.completion == e.rejected:
            raise UserError(f"the chosen and the rejected side of row {e.id!r} are the same text.", at=at)


def _check_reference(reference: str, recipe: Recipe, at: KeyPath) -> None:
    if reference in ("start", "base"):
        return
    if problems := adapter_folder.problems(Path(reference)):
        raise UserError(f"{problems[0]}; a reference is start, base or an adapter's folder.", at=at)
    # Its tensors replace those of a copy of this adapter, and are scaled as this adapter is.
    if other := starting.other_lora(Path(reference), recipe.lora):
        raise UserError(f"the reference must have this recipe's LoRA shape; it has {', '.join(other)}.", at=at)


class Divided(NamedTuple):
    """The rows of a stage that are trained on, and those that are not."""

    examples: Sequence[Example]
    """All rows as the trainer takes them."""
    lengths: Sequence[Lengths] | None
    windows: Mapping[str, int]
    """By id, of a stage that tags words."""
    training: Sequence[Example]
    validation: Sequence[Example]
    too_long: int
    tokens: dict[str, float]
    audit: list[dict[str, Any]]
    """Counts by source."""


def divided(loaded: Loaded, recipe: Recipe, n: int, measure: Measure) -> Divided:
    """The rows of stage n within its length limits, and what is held out. Raises UserError."""
    stage, at = recipe.stages[n], ("stages", n)
    windows = measure.windows(loaded, stage, recipe.max_bad_rows, at)
    examples = measure.sequences(loaded.examples, at) if isinstance(stage, Sft) else loaded.examples
    lengths = measure.lengths(examples)
    fitting, tokens, audit = within_limits(stage, examples, lengths, at)
    share, most = selecting.held_out_share(recipe.stages, n)
    training, validation = hold_out(fitting, share, recipe.seed, most)
    too_long = len(examples) - len(fitting)
    return Divided(examples, lengths, windows, training, validation, too_long, tokens, audit)


def within_limits(
    stage: Stage, examples: Sequence[Example], lengths: Sequence[Lengths] | None, at: KeyPath
) -> tuple[Sequence[Example], dict[str, float], list[dict[str, Any]]]:
    """The rows within the length limits, their token figures, and the counts by source."""
    if lengths is None:
        return examples, {}, []
    within = [fits(stage, length) for length in lengths]
    if not any(within):
        raise UserError("every row is longer than the stage's length limits; raise them.", at=at)
    fitting = np.flatnonzero(within)
    figures = _token_figures(as_array(lengths)[fitting])
    kept = examples if all(within) else take(examples, fitting)
    return kept, figures, by_source(examples, lengths, within)


def beyond(stage: Stage, examples: Sequence[Example], lengths: Sequence[Lengths]) -> Sequence[Example]:
    """The rows that a GRPO stage drops for their gold answer."""
    if not isinstance(stage, Grpo) or stage.environment:
        return ()
    longer = [n for n, length in enumerate(lengths) if length.completion > stage.max_completion_length]
    return take(examples, np.array(longer, dtype=int))


def fits(stage: Stage, length: Lengths) -> bool:
    """Whether a row keeps to the stage's length limits."""
    if isinstance(stage, TokenClassification):  # a long text is read in several windows
        return True
    if isinstance(stage, Grpo):
        answer = 0 if stage.environment else length.completion  # of episodes, that of the first turn at most
        return length.prompt <= stage.max_prompt_length and answer <= stage.max_completion_length
    if isinstance(stage, Distill):  # its gold answers are not learned
        return length.prompt <= stage.max_prompt_length
    return length.prompt + max(length.completion, length.rejected) <= stage.max_length


def answer_tokens(
    stage: Stage, examples: Sequence[Example], lengths: Sequence[Lengths] | None, *, thinking: bool
) -> int:
    """Most tokens of an answer to these rows: by the gold ones, or what the stage can learn.

    The latter where a row has no gold answer, and where the model thinks first, which gold answers do not.
    """
    lengths = lengths or ()
    known = not thinking and all(example.completion is not None for example in examples)
    if isinstance(stage, TokenClassification) or known:
        return answer_limit(length.completion for length in lengths)
    if isinstance(stage, Grpo | Distill):
        return stage.max_completion_length
    return max(1, stage.max_length - min((length.prompt for length in lengths), default=0))


def _token_figures(lengths: NDArray[Any]) -> dict[str, float]:
    prompts, answers, rejected = np.sort(lengths.T)
    middle, high, pairs = len(prompts) // 2, int(0.99 * (len(prompts) - 1)), bool(rejected.any())
    asked, said, refused = lengths.sum(axis=0, dtype=np.int64).tolist()
    figures: dict[str, float] = {"total": (1 + pairs) * asked + said + refused}
    figures |= {"prompt_p50": int(prompts[middle]), "prompt_p99": int(prompts[high])}
    for name, side in {"completion": answers, **({"rejected": rejected} if pairs else {})}.items():
        middling, highest = int(side[middle]), int(side[-1])
        figures |= {f"{name}_p50": middling, f"{name}_p99": int(side[high]), f"{name}_max": highest}
    return figures


def hold_out(
    examples: Sequence[Example], share: float, seed: int, most: int = selecting.VALIDATION_ROWS
) -> tuple[Sequence[Example], list[Example]]:
    """Hold out whole ids, so that repeats and variants of a row never stand on both sides; each row of them once."""
    if not share:
        return examples, []
    places = np.fromiter((_place(e.id, seed) for e in examples), dtype=np.uint64)
    ids = np.unique(places)
    few = ids[: min(most, int(share * len(ids)))]
    held_out = once(take(examples, np.flatnonzero(np.isin(places, few))))
    if len(held_out) > most:  # ids have several questions: as many ids as have so many rows, one at least
        rows = Counter(_place(e.id, seed) for e in held_out)
        few = few[: max(1, int((np.cumsum([rows[int(place)] for place in few]) <= most).sum()))]
        held_out = once(take(examples, np.flatnonzero(np.isin(places, few))))
    return take(examples, np.flatnonzero(~np.isin(places, few))), held_out


def _place(id: str, seed: int) -> int:
    """The place of an id in a seeded order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id}".encode()).digest()[:8])


def once(examples: Sequence[Example]) -> list[Example]:
    """The first copy of each row. Several rows may share an id: questions about a text, turns of a conversation."""
    return list({copy_key(e): e for e in reversed(examples)}.values())


def steps(stage: Stage, rows: int, epochs: float, at: KeyPath) -> int:
    """Optimizer steps over so many rows. Raises UserError for too few rows."""
    updates = stage.updates_per_generation if isinstance(stage, Grpo) else 1
    prompts = updates * stage.batch_size
    if isinstance(stage, Grpo) and rows < prompts:
        what = f"a generation of {updates} batches of {stage.batch_size}" if updates > 1 else f"a batch of {prompts}"
        fault = f"{what} prompts needs at least as many rows, and {rows} are left."
        raise UserError(fault, at=(*at, "batch_size"))
    if isinstance(stage, Grpo) and stage.flat_groups == "replace" and rows < 2 * prompts:
        fault = f"fresh prompts need the rows of two generations (2 x {prompts}), and {rows} are left; use leave_out."
        raise UserError(fault, at=(*at, "flat_groups"))
    # Full batches only: the remainder of an epoch is carried into the next, or left out at the end.
    return stage.max_steps or updates * max(1, int(rows * epochs / prompts))


def replacing_note(stage: Grpo, n: int) -> str:
    """A note on what it costs to replace flat groups."""
    rounds = range(stage.replace_rounds + 1)
    return (
        f"stage {n + 1}: with flat groups replaced, a step samples up to {len(rounds)} times as many completions "
        f"(where half of the groups are flat about {sum(0.5**k for k in rounds):.3g} times as many)"
    )
