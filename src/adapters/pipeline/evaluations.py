"""The test sets of a recipe, resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from itertools import chain
from typing import Any

from adapters import console
from adapters.backends.jobs import Backend, Evaluation, Picking
from adapters.data.lengths import answer_limit, by_source
from adapters.data.on_disk import collect, settled
from adapters.data.text_keys import text_hash
from adapters.errors import KeyPath, UserError
from adapters.evaluation.constraining import of_test_set
from adapters.evaluation.picking import can_vote
from adapters.pipeline import proxy_rows
from adapters.pipeline.fingerprint import digest_of_rows, model_settings
from adapters.pipeline.reading import Measure, Reader
from adapters.plugins import environments
from adapters.plugins.source_files import score_hash
from adapters.recipe.load import RecipeFile
from adapters.recipe.recipe import EvalSet, Recipe
from adapters.recipe.stages import Grpo
from adapters.types import Task


def leakage(tests: Sequence[Evaluation]) -> list[str]:
    """A note for every test set with texts that also stand in the training data (folded)."""
    return [
        f"test set {test.name}: {test.leaked} of {test.rows} texts also stand in the training data"
        for test in tests
        if test.leaked
    ]


def evaluations(
    file: RecipeFile,
    backend: Backend,
    task: Task,
    trained: Set[int] = frozenset(),
    *,
    tokenizer_needed: bool = True,
    read: Reader | None = None,
) -> tuple[Evaluation, ...]:
    """The recipe's test sets, resolved. `trained` are hashes of the texts that leakage is counted against."""
    measure = Measure(backend, tokenizer_needed, [])
    read = read or Reader(file, task)
    for n, spec in enumerate(file.recipe.evaluate):
        _check_picking(spec, file, task, getattr(backend, "draws", False), ("evaluate", n))
        _check_played(spec, file.recipe, ("evaluate", n))
    return tuple(_evaluation(read, n, spec, trained, measure) for n, spec in enumerate(file.recipe.evaluate))


def _check_picking(spec: EvalSet, file: RecipeFile, task: Task, draws: bool, at: KeyPath) -> None:
    if spec.samples is None:
        if extra := {"pick", "temperature"} & spec.model_fields_set:
            raise UserError("it says how one of several answers is picked; set samples too.", at=(*at, min(extra)))
        return
    if not draws:
        raise UserError("the hosted trainer gives one answer to a row; leave samples out.", at=(*at, "samples"))
    if spec.pick == "vote" and not can_vote(task):
        fault = f"the task {file.recipe.task.use} cannot compare two answers (it has neither as_gold nor record)."
        raise UserError(f"{fault} Use pick: likelihood.", at=(*at, "pick"))


def _check_played(spec: EvalSet, recipe: Recipe, at: KeyPath) -> None:
    if spec.environment is None:
        return
    odd = [key for key in ("samples", "prompt_variants", "constrain", "benchmark") if key in spec.model_fields_set]
    if odd or recipe.tags_words:
        what = f"{odd[0]} is for rows that are answered, and these are played" if odd else "an encoder plays nothing"
        raise UserError(f"{what}; leave it out.", at=(*at, odd[0] if odd else "environment"))


def _turn_limit(spec: EvalSet, recipe: Recipe, at: KeyPath) -> int:
    """Most tokens of a turn of a played test set: its own, or that of the last stage that plays."""
    own = spec.environment.max_turn_length if spec.environment else None
    for stage in reversed(recipe.stages):
        if own is None and isinstance(stage, Grpo) and stage.environment is not None:
            own = stage.environment.max_turn_length or stage.max_completion_length
    if own is None:
        fault = "no stage plays, so a turn has no length to take over: set max_turn_length, or max_new_tokens."
        raise UserError(fault, at=(*at, "environment"))
    return own


def _evaluation(read: Reader, n: int, spec: EvalSet, trained: Set[int], measure: Measure) -> Evaluation:
    file, task, recipe, at = read.file, read.task, read.file.recipe, ("evaluate", n)
    console.phase(f"reading the data of test set {spec.name}")
    environment = environments.configured(spec.environment, file.folder, (*at, "environment"))
    loaded = read(spec.data, at, keep_rows=environment is not None)
    if environment is not None:
        environments.try_environment(environment, loaded.examples, (*at, "environment"))
    measure.windows(loaded, recipe.stages[-1], recipe.max_bad_rows, at)
    examples = loaded.examples
    if spec.prompt_variants > 1:
        rephrase = getattr(task, "rephrase", None)
        if rephrase is None:
            fault = f"the task {recipe.task.use} asks in one form only (it has no rephrase method)."
            raise UserError(fault, at=(*at, "prompt_variants"))
        others = [read(spec.data, at, rephrase(variant)).examples for variant in range(1, spec.prompt_variants)]
        examples = collect(chain(examples, *others))
    lengths = measure.lengths(examples)
    answers = [length.completion for length in lengths or ()]
    limit = spec.max_new_tokens or (_turn_limit(spec, recipe, at) if environment else answer_limit(answers))
    rows: Iterable[list[Any]] = ([e.id, e.source, e.prompt, e.gold] for e in examples)
    if environment:
        rows = chain(rows, [[environment.identity, environment.reward.score_hash, loaded.fingerprint]])
    scorer = score_hash("tasks", recipe.task, task, file.folder)
    return Evaluation(
        name=spec.name,
        examples=settled(examples),
        max_new_tokens=limit,
        batch_size=spec.batch_size,
        fingerprint=digest_of_rows({"task": scorer, "model": model_settings(recipe), "limit": limit}, rows),
        leaked=sum(text_hash(text) in trained for texts in loaded.by_source.values() for text in texts),
        variants=spec.prompt_variants,
        picking=Picking(spec.samples, spec.pick, spec.temperature) if spec.samples else None,
        constraint=of_test_set(
            spec.constrain,
            task,
            examples,
            measure.backend,
            thinking=recipe.model.thinking,
            at=(*at, "constrain"),
        ),
        ledger=loaded.ledger,
        rejected=loaded.rejected,
        by_source=loaded.by_source,
        annotator=proxy_rows.one_annotator(examples, spec.name, at),
        lengths=by_source(examples, lengths, [a <= limit for a in answers]) if lengths else [],
        beyond=0 if environment else sum(a > limit for a in answers),
        environment=environment,
    )
