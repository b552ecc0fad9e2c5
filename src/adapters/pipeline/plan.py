"""Recipe to jobs: everything resolved, hashed and tried before the first optimizer step."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters import console
from adapters.backends import adapter_folder
from adapters.backends.jobs import Backend, Evaluation, Job
from adapters.data.lengths import by_source
from adapters.data.load import Loaded, load_examples, overlap
from adapters.data.noise import RowNoiser, make_row_noiser
from adapters.errors import KeyPath, UserError
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward, probe, stage_rewards
from adapters.plugins.source_files import identity, score_hash
from adapters.recipe.fields import Source
from adapters.recipe.load import RecipeFile, run_folder
from adapters.recipe.recipe import EvalSet, Recipe
from adapters.recipe.stages import Dpo, Grpo, Sft, Stage
from adapters.types import Example, Lengths, Task

VALIDATION_ROWS = 200


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    file: RecipeFile
    task: Task
    jobs: tuple[Job, ...]
    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """The recipe behind the plan."""
        return self.file.recipe

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return run_folder(self.recipe)


def make_plan(file: RecipeFile, backend: Backend, *, tokenizer_needed: bool = True, estimate: bool = True) -> Plan:
    """Resolve a recipe against its backend.

    With `tokenizer_needed` off, a base model that cannot be had is a note instead of an error, and lengths are not
    audited (for a dry run elsewhere). With `estimate` off, a service that trains elsewhere is not asked yet. Raises
    UserError for every mistake that can be found without training.
    """
    recipe = file.recipe
    task: Task = resolve("tasks", recipe.task, folder=file.folder, at=("task",))
    rewards = stage_rewards(file)
    notes = backend.check(recipe.stages)
    jobs: list[Job] = []
    for n in range(len(recipe.stages)):
        job = _job(file, backend, task, n, rewards[n], jobs[-1].fingerprint if jobs else "", tokenizer_needed, notes)
        jobs.append(job)
    trained = set().union(*(job.texts for job in jobs))
    tests = evaluations(file, backend, task, trained, tokenizer_needed=tokenizer_needed)
    for test in tests:
        if test.leaked:
            share = f"{test.leaked} of {len(test.examples) // test.variants} texts"
            notes.append(f"test set {test.name}: {share} also stand in the training data")
        if test.beyond:
            notes.append(
                f"test set {test.name}: {test.beyond} of {len(test.examples)} gold answers longer than "
                f"{test.max_new_tokens} tokens"
            )
    if estimate:
        notes += cost_notes(backend, jobs, tests, certain=tokenizer_needed)
    return Plan(file, task, tuple(jobs), tests, tuple(dict.fromkeys(notes)))


def cost_notes(backend: Backend, jobs: Sequence[Job], tests: Sequence[Evaluation], *, certain: bool) -> list[str]:
    """What a service elsewhere says to the plan, and what the run will use of it; nothing for a local backend."""
    ask = getattr(backend, "estimate", None)
    return ask(jobs, tests, certain=certain) if ask else []


def check_dropped_share(plan: Plan) -> None:
    """Raise UserError when length limits cost a stage more rows than its recipe allows."""
    for job in plan.jobs:
        rows = len(job.examples) + len(job.validation) + job.too_long
        if job.too_long > job.stage.max_dropped * rows:
            limits = [k for k in ("max_length", "max_prompt_length", "max_completion_length") if hasattr(job.stage, k)]
            raise UserError(
                f"{job.too_long} of {rows} rows are longer than {' and '.join(limits)} and would be dropped; "
                f"max_dropped allows {job.stage.max_dropped:.0%}. Raise the limits, or max_dropped if that is meant.",
                at=("stages", job.index, "max_dropped"),
            )


def evaluations(
    file: RecipeFile, backend: Backend, task: Task, trained: Set[str] = frozenset(), *, tokenizer_needed: bool = True
) -> tuple[Evaluation, ...]:
    """The recipe's test sets, resolved. `trained` are the texts that leakage is counted against."""
    return tuple(
        _evaluation(file, backend, task, n, spec, trained, tokenizer_needed)
        for n, spec in enumerate(file.recipe.evaluate)
    )


def _rows(
    file: RecipeFile,
    task: Task,
    sources: Sequence[Source],
    at: KeyPath,
    noising: RowNoiser | None = None,
    epochs: int = 1,
) -> Loaded:
    return load_examples(
        sources,
        task,
        root=file.data_root,
        seed=file.recipe.seed,
        max_rejected=file.recipe.max_rejected,
        noising=noising,
        epochs=epochs,
        at=(*at, "data"),
    )


def _job(
    file: RecipeFile,
    backend: Backend,
    task: Task,
    n: int,
    rewards: tuple[NamedReward, ...],
    previous: str,
    tokenizer_needed: bool,
    notes: list[str],
) -> Job:
    recipe = file.recipe
    stage, at = recipe.stages[n], ("stages", n)
    console.phase(f"reading the data of {n + 1}-{stage.kind}")
    noising, laid_out = None, 1
    if stage.noise is not None:
        noising = make_row_noiser(stage.noise, seed=recipe.seed, folder=file.folder, at=(*at, "noise"))
        laid_out = math.ceil(stage.epochs) if isinstance(stage, Sft) else 1
    loaded = _rows(file, task, stage.data, at, noising, laid_out)
    epochs = stage.epochs / laid_out
    for i, reward in enumerate(rewards):
        console.phase(f"trying the reward {reward.name}")
        notes += probe(reward, loaded.examples, (*at, "rewards", i))
    if isinstance(stage, Dpo):
        _check_pairs(loaded.examples, (*at, "data"))
    lengths = _lengths(backend, loaded.examples, tokenizer_needed, notes)
    examples, too_long = list(loaded.examples), 0
    audit: list[dict[str, Any]] = []
    if lengths is not None:
        fits = [_fits(stage, length) for length in lengths]
        audit = by_source(examples, lengths, fits)
        examples = [e for e, fit in zip(examples, fits, strict=True) if fit]
        lengths = [length for length, fit in zip(lengths, fits, strict=True) if fit]
        too_long = fits.count(False)
        if not examples:
            raise UserError("every row is longer than the stage's length limits; raise them.", at=at)
    validation: list[Example] = []
    if not isinstance(stage, Grpo):
        examples, validation = _hold_out(examples, stage.validation, recipe.seed)
    if not isinstance(stage, Sft):
        _check_reference(stage.reference, recipe, (*at, "reference"))
    if isinstance(stage, Grpo) and len(examples) < stage.batch_size:
        raise UserError(
            f"a batch of {stage.batch_size} prompts needs at least as many rows, and {len(examples)} are left.",
            at=(*at, "batch_size"),
        )
    # Full batches only: the remainder of an epoch is carried into the next, or left out at the end.
    steps = stage.max_steps or max(1, int(len(examples) * epochs / stage.batch_size))
    what = {
        "stage": fingerprinted_settings(stage),
        "plugins": [identity("tasks", recipe.task, task, file.folder), *([r.identity, r.weight] for r in rewards)],
        "reference": None if isinstance(stage, Sft) else adapter_folder.weights_hash(Path(stage.reference)),
        "model": recipe.model.model_dump(),
        "lora": recipe.lora.model_dump(),
        "seed": recipe.seed,
        "trainer": [recipe.trainer, recipe.tinker.base, recipe.tinker.loss, recipe.tinker.bounds]
        if recipe.trainer == "tinker"
        else recipe.trainer,
        "rows": loaded.fingerprint,
        "previous": previous,
    }
    return Job(
        index=n,
        stage=stage,
        folder=run_folder(recipe) / f"{n + 1}-{stage.kind}",
        examples=tuple(examples),
        validation=tuple(validation),
        rewards=rewards,
        fingerprint=_hash(what),
        steps=steps,
        texts=loaded.texts,
        by_source=loaded.by_source,
        lengths=audit,
        ledger=loaded.ledger,
        rejected=loaded.rejected,
        too_long=too_long,
        tokens=_token_figures(lengths) if lengths else {},
    )


def _check_pairs(examples: Sequence[Example], at: KeyPath) -> None:
    for e in examples:
        if e.completion is None or e.rejected is None:
            raise UserError(
                f"DPO learns from pairs, and row {e.id!r} has no {'chosen' if e.completion is None else 'rejected'} "
                "side; a pair is a row with prompt, chosen and rejected (see: adapters pairs).",
                at=at,
            )
        if e.completion == e.rejected:
            raise UserError(f"the chosen and the rejected side of row {e.id!r} are the same text.", at=at)


def fingerprinted_settings(stage: Stage) -> dict[str, Any]:
    """The settings that bear on the trained weights."""
    apart = {"data", "rewards"}  # the fingerprint holds rows, and what the rewards compute
    unrelated = {"micro_batch_size", "save_every", "gradient_checkpointing", "health", "max_dropped"}
    return stage.model_dump(exclude=apart | unrelated)


def _check_reference(reference: str, recipe: Recipe, at: KeyPath) -> None:
    if reference in ("start", "base"):
        return
    if problems := adapter_folder.problems(Path(reference)):
        raise UserError(f"{problems[0]}; a reference is start, base or an adapter's folder.", at=at)
    held = json.loads((Path(reference) / adapter_folder.CONFIG).read_text(encoding="utf-8"))
    # Its tensors take the place of a copy of this adapter, whose scale they would get.
    ours = {"r": recipe.lora.rank, "lora_alpha": recipe.lora.alpha, "use_rslora": recipe.lora.rslora}
    if odd := [f"{k} {held.get(k)} (here {v})" for k, v in ours.items() if held.get(k, v) != v]:
        raise UserError(f"the reference must have this recipe's LoRA shape; it has {', '.join(odd)}.", at=at)


def _evaluation(
    file: RecipeFile,
    backend: Backend,
    task: Task,
    n: int,
    spec: EvalSet,
    trained: Set[str],
    tokenizer_needed: bool,
) -> Evaluation:
    recipe = file.recipe
    console.phase(f"reading the data of test set {spec.name}")
    loaded = _rows(file, task, spec.data, ("evaluate", n))
    examples = list(loaded.examples)
    if spec.variants > 1:
        rephrase = getattr(task, "rephrase", None)
        if rephrase is None:
            raise UserError(
                f"the task {recipe.task.use} asks in one form only (it has no rephrase method).",
                at=("evaluate", n, "variants"),
            )
        for variant in range(1, spec.variants):
            examples += _rows(file, rephrase(variant), spec.data, ("evaluate", n)).examples
    lengths = _lengths(backend, examples, tokenizer_needed, [])
    answers = [length.completion for length in lengths or ()]
    limit = spec.max_new_tokens or max(32, 16 * math.ceil(1.5 * max(answers, default=0) / 16))
    rows = [[e.id, e.source, e.prompt, e.gold] for e in examples]
    scorer = score_hash("tasks", recipe.task, task, file.folder)
    what = {"rows": rows, "task": scorer, "model": recipe.model.model_dump(), "limit": limit}
    return Evaluation(
        name=spec.name,
        examples=tuple(examples),
        max_new_tokens=limit,
        batch_size=spec.batch_size,
        fingerprint=_hash(what),
        leaked=overlap(trained, loaded.examples),
        variants=spec.variants,
        ledger=loaded.ledger,
        rejected=loaded.rejected,
        by_source=loaded.by_source,
        lengths=by_source(examples, lengths, [a <= limit for a in answers]) if lengths else [],
        beyond=sum(a > limit for a in answers),
    )


def _lengths(backend: Backend, examples: Sequence[Example], needed: bool, notes: list[str]) -> list[Lengths] | None:
    try:
        return backend.lengths(examples)
    except UserError as error:
        if needed:
            raise
        notes.append(f"lengths not audited: {error}")
        return None


def _fits(stage: Stage, length: Lengths) -> bool:
    if isinstance(stage, Grpo):
        return length.prompt <= stage.max_prompt_length and length.completion <= stage.max_completion_length
    return length.prompt + max(length.completion, length.rejected) <= stage.max_length


def _hold_out(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out whole ids, so that repeats and variants of a row never stand on both sides."""
    ids = sorted({e.id for e in examples}, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())
    held = set(ids[: min(VALIDATION_ROWS, int(share * len(ids)))])
    first = {e.id: e for e in reversed(examples) if e.id in held}
    return [e for e in examples if e.id not in held], list(first.values())


def _token_figures(lengths: Sequence[Lengths]) -> dict[str, float]:
    prompts, answers, rejected = (sorted(column) for column in zip(*lengths, strict=True))
    middle, high = len(prompts) // 2, int(0.99 * (len(prompts) - 1))
    figures: dict[str, float] = {
        "total": sum(prompts) + sum(answers),
        "prompt_p50": prompts[middle],
        "prompt_p99": prompts[high],
        "completion_p50": answers[middle],
        "completion_p99": answers[high],
        "completion_max": answers[-1],
    }
    if not any(rejected):
        return figures
    sides = {"rejected_p50": rejected[middle], "rejected_p99": rejected[high], "rejected_max": rejected[-1]}
    return figures | sides | {"total": 2 * sum(prompts) + sum(answers) + sum(rejected)}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()
