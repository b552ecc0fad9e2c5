"""From a recipe to jobs: data read, plug-ins resolved, rewards tried, before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from adapters import console
from adapters.backends.base_files import check_base
from adapters.backends.jobs import Backend, Evaluation, Job, Picking
from adapters.data.lengths import answer_limit, by_source
from adapters.data.load import Loaded, load_examples
from adapters.data.noise import make_row_noiser
from adapters.data.on_disk import collect, settled
from adapters.data.text_keys import TextKeys, text_hash
from adapters.errors import KeyPath, UserError
from adapters.evaluation.constraining import of_test_set
from adapters.evaluation.picking import can_vote
from adapters.pipeline import distilling, proxy_rows, selecting, starting
from adapters.pipeline.fingerprint import digest_of_rows, model_settings, stage_fingerprint
from adapters.pipeline.stage_rows import beyond, check_stage, hold_out, once, replacing_note, steps, within_limits
from adapters.plugins import environments, task_bench
from adapters.plugins.registry import resolve
from adapters.plugins.reward_probe import probe
from adapters.plugins.rewards import NamedReward, stage_rewards
from adapters.plugins.source_files import identity, score_hash
from adapters.recipe.fields import Source
from adapters.recipe.load import RecipeFile, run_folder
from adapters.recipe.recipe import EvalSet, Recipe
from adapters.recipe.stages import Distill, Grpo, Sft, TokenClassification
from adapters.types import Example, Lengths, Row, Task


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    file: RecipeFile
    task: Task
    jobs: tuple[Job, ...]
    evaluations: tuple[Evaluation, ...]
    notes: tuple[str, ...]
    start: Path | None = None
    """The adapter that the first stage goes on from; None for a new one."""

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return self.file.recipe

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return run_folder(self.recipe)

    @property
    def stages_and_tests(self) -> tuple[Job | Evaluation, ...]:
        """The stages and the test sets."""
        return (*self.jobs, *self.evaluations)


@dataclass(frozen=True)
class Measure:
    """What a backend's tokenizer makes of examples; without it, unless it is `needed`, a note says why not."""

    backend: Backend
    needed: bool
    notes: list[str]

    def lengths(self, examples: Sequence[Example]) -> Sequence[Lengths] | None:
        """Tokens of each example. Raises UserError."""
        found: Sequence[Lengths] | None = self._tried(self.backend.lengths, examples)
        return found

    def sequences(self, examples: Sequence[Example], at: KeyPath) -> Sequence[Example]:
        """The examples that SFT trains; see `Backend.sequences`. Raises UserError."""
        sequences: Sequence[Example] = self._tried(self.backend.sequences, examples) or examples
        if len(sequences) > len(examples):
            self.notes.append(
                f"stage {int(at[-1]) + 1}: {len(examples):,} conversations become {len(sequences):,} rows, one for "
                "each answer, as the chat template writes earlier turns in another way than it asks for them"
            )
        return sequences

    def windows(self, loaded: Loaded, stage: Any, most: float, at: KeyPath) -> dict[str, int]:
        """Windows by id of the rows of a stage that tags words; takes the rows out whose question fills a window."""
        if not isinstance(stage, TokenClassification) or not hasattr(self.backend, "readings"):
            return {}
        readings = self._tried(partial(self.backend.readings, stage), loaded.examples)
        if readings is None:
            return {}
        loaded.examples, windows = proxy_rows.readable(loaded, readings, most, at)
        most_windows: dict[str, int] = {}
        for example, n in zip(loaded.examples, windows, strict=True):
            most_windows[example.id] = max(n, most_windows.get(example.id, 0))
        return most_windows

    def _tried(self, ask: Callable[[Sequence[Example]], Any], examples: Sequence[Example]) -> Any:
        try:
            return ask(examples)
        except UserError as error:
            if self.needed:
                raise
            self.notes.append(f"lengths not audited: {error}")
            return None


def make_plan(file: RecipeFile, backend: Backend, *, tokenizer_needed: bool = True, estimate: bool = True) -> Plan:
    """Resolve a recipe against its backend.

    With `tokenizer_needed` off, a base model that cannot be had is a note instead of an error, and lengths are not
    audited (for a dry run elsewhere). With `estimate` off, a service that trains elsewhere is not asked yet. Raises
    UserError for every mistake that can be found without training.
    """
    recipe = file.recipe
    task = task_of(file)
    rewards = stage_rewards(file)
    notes = backend.check(recipe.stages)
    measure = Measure(backend, tokenizer_needed, notes)
    start = starting.adapter(recipe, backend)
    if start is not None:
        notes.append(f"stage 1 starts from {recipe.start}; its training rows are not looked for in the test sets")
    before = starting.fingerprint(start)
    read = Reader(file, task, notes)
    jobs: list[Job] = []
    for n in range(len(recipe.stages)):
        jobs.append(_job(read, n, rewards, jobs[-1].fingerprint if jobs else before, measure, notes))
    trained = TextKeys.union(job.texts for job in jobs)
    tests = evaluations(file, backend, task, trained, tokenizer_needed=tokenizer_needed, read=read)
    notes += leakage(tests)
    notes += [
        f"test set {t.name}: {t.beyond} of {len(t.examples)} gold answers longer than {t.max_new_tokens} tokens"
        for t in tests
        if t.beyond
    ]
    if estimate:
        notes += cost_notes(backend, jobs, tests, certain=tokenizer_needed)
    if file.renamed:
        notes.append(f"renamed keys, of which the old names still work: {', '.join(_renamed(file.renamed))}")
    return Plan(file, task, tuple(jobs), tests, tuple(dict.fromkeys(notes)), start)


def check_first(file: RecipeFile) -> None:
    """Raise UserError for a task that is none and a base that is not there, which needs no library that trains."""
    task_of(file)
    if file.recipe.trainer == "local":
        console.phase("looking for the base model")
        check_base(file.recipe.model.base, file.recipe.model.revision)


def task_of(file: RecipeFile) -> Task:
    """The recipe's task. Raises UserError for what has not the parts of one."""
    task: Task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    task_bench.check_is_task(task, file.recipe.task.use, ("task",))
    return task


@dataclass
class Reader:
    """Reads the rows of a recipe, and tries the task on the first of each source."""

    file: RecipeFile
    task: Task
    notes: list[str] = field(default_factory=list)
    tried: set[str] = field(default_factory=set)

    def __call__(self, sources: Sequence[Source], at: KeyPath, task: Task | None = None, **noise: Any) -> Loaded:
        """The examples of a `data:` list; `task` reads them where it is another form of the recipe's."""
        seed, bad, root = self.file.recipe.seed, self.file.recipe.max_bad_rows, self.file.data_root
        at, look = (*at, "data"), None if task else self._try
        return load_examples(
            sources, task or self.task, root=root, seed=seed, max_bad_rows=bad, at=at, look=look, **noise
        )

    def _try(self, rows: Sequence[tuple[Row, Example]]) -> None:
        console.phase("trying the task")
        several = task_bench.LATER_ROWS if self.tried else task_bench.ROWS
        first = [(row, example) for row, example in rows[:several] if repr(example) not in self.tried]
        self.tried.update(repr(example) for _, example in first)
        result = task_bench.try_task(self.task, self.file.recipe.task.use, first)
        if result.errors:
            others = len(result.errors) - 1
            more = f" ({others} more: adapters tasks test shows them)" if others else ""
            raise UserError(f"{result.errors[0]}{more}.", at=("task",))
        self.notes += result.warnings


def _renamed(keys: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each old key, with the first place where it stands."""
    places = [(path.rpartition(".")[2], path, new) for path, new in keys.items()]
    for key in dict.fromkeys(key for key, *_ in places):
        first, *more = [(path, new) for old, path, new in places if old == key]
        yield f"{first[0]}{f' (and in {len(more)} more places)' if more else ''} is now {first[1]}"


def leakage(tests: Sequence[Evaluation]) -> list[str]:
    """A note for every test set with texts that also stand in the training data (folded)."""
    return [
        f"test set {test.name}: {test.leaked} of {test.rows} texts also stand in the training data"
        for test in tests
        if test.leaked
    ]


def cost_notes(backend: Backend, jobs: Sequence[Job], tests: Sequence[Evaluation], *, certain: bool) -> list[str]:
    """The cost estimate of a hosted backend; nothing for a local one."""
    ask = getattr(backend, "estimate", None)
    return ask(jobs, tests, certain=certain) if ask else []


def check_dropped_share(plan: Plan) -> None:
    """Raise UserError when length limits drop more of a stage's rows than its recipe allows."""
    for job in plan.jobs:
        rows, allowed = len(job.examples) + len(job.validation) + job.too_long, job.stage.max_too_long
        if job.too_long > allowed * rows:
            limits = "max_prompt_length and max_completion_length" if isinstance(job.stage, Grpo) else "max_length"
            limits = "max_prompt_length" if isinstance(job.stage, Distill) else limits
            raise UserError(
                f"{job.too_long} of {rows} rows are longer than {limits} and would be dropped; max_too_long allows "
                f"{allowed:.0%}. Raise the limits or max_too_long.",
                at=("stages", job.index, "max_too_long"),
            )


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


def _job(
    read: Reader,
    n: int,
    all_rewards: Sequence[tuple[NamedReward, ...]],
    previous: str,
    measure: Measure,
    notes: list[str],
) -> Job:
    file, task, recipe = read.file, read.task, read.file.recipe
    stage, at, rewards = recipe.stages[n], ("stages", n), all_rewards[n]
    measured = selecting.measured_rewards(recipe.stages, all_rewards, n)
    console.phase(f"reading the data of {n + 1}-{stage.kind}")
    environment = environments.configured(getattr(stage, "environment", None), file.folder, (*at, "environment"))
    loaded, epochs = _stage_rows(read, n)
    for i, reward in enumerate(rewards):
        console.phase(f"trying the reward {reward.name}")
        notes += probe(reward, loaded.examples, (*at, "rewards", i))
    check_stage(stage, loaded.examples, recipe, measure.backend, at)
    if isinstance(stage, Distill):
        stage = distilling.with_folders(stage)
    if environment is not None:
        console.phase(f"trying the environment {environment.name}")
        environments.try_environment(environment, loaded.examples, (*at, "environment"))
    if isinstance(stage, Grpo) and stage.flat_groups == "replace":
        notes.append(replacing_note(stage, n))
    windows = measure.windows(loaded, stage, recipe.max_bad_rows, at)
    examples = measure.sequences(loaded.examples, at) if isinstance(stage, Sft) else loaded.examples
    lengths = measure.lengths(examples)
    fitting, tokens, audit = within_limits(stage, examples, lengths, at)
    share, most = selecting.held_out_share(recipe.stages, n)
    training, validation = hold_out(fitting, share, recipe.seed, most)
    notes += distilling.left(stage, training, at)
    plugins = [identity("tasks", recipe.task, task, file.folder), *([r.identity, r.weight] for r in rewards)]
    plugins += [[r.identity, r.weight] for r in measured if r not in rewards] + distilling.identity(stage, training)
    plugins += [environment.identity] if environment else []
    job = Job(
        index=n,
        stage=stage,
        folder=run_folder(recipe) / f"{n + 1}-{stage.kind}",
        examples=settled(training),
        validation=tuple(validation),
        rewards=rewards,
        environment=environment,
        fingerprint=stage_fingerprint(file, n, plugins, loaded.fingerprint, previous),
        steps=steps(stage, sum(windows.get(e.id, 1) for e in training) if windows else len(training), epochs, at),
        texts=loaded.texts,
        by_source=loaded.by_source,
        lengths=audit,
        ledger=loaded.ledger,
        rejected=loaded.rejected,
        too_long=len(examples) - len(fitting),
        tokens=tokens,
        beyond=beyond(stage, examples, lengths or ()),
        longest_answer=max((length.completion for length in lengths or ()), default=0),
    )
    return _with_selection(job, task, loaded, measured, measure, notes) if stage.select else job


def _with_selection(
    job: Job, task: Task, loaded: Loaded, rewards: tuple[NamedReward, ...], measure: Measure, notes: list[str]
) -> Job:
    """The job with what its held-out rows are measured by."""
    ids = {e.id for e in job.validation}
    held_out = once([e for e in loaded.examples if e.id in ids])  # conversations are whole
    lengths = measure.lengths(held_out) if held_out else None
    limit = answer_limit([length.completion for length in lengths or ()])
    job = replace(job, select=selecting.selection(task, job, rewards, held_out, limit))
    notes += selecting.note(job)
    return job


def _stage_rows(read: Reader, n: int) -> tuple[Loaded, float]:
    """A stage's rows (with noise or variations, SFT's of all epochs), and the epochs over them to train."""
    recipe, at = read.file.recipe, ("stages", n)
    stage = recipe.stages[n]
    kept: dict[str, Any] = {"keep_rows": True} if getattr(stage, "environment", None) else {}
    vary: float = getattr(stage, "vary", 0.0)
    if vary and not hasattr(read.task, "vary"):
        fault = f"the task {recipe.task.use} asks for its rows in one way only (it has no vary method)."
        raise UserError(fault, at=(*at, "vary"))
    # Labels are not learned from where teachers judge.
    task: Any = distilling.PromptTask(read.task) if isinstance(stage, Distill) else None
    if stage.noise is None and not vary:
        return read(stage.data, at, task, **kept), stage.epochs
    noiser = stage.noise and make_row_noiser(stage.noise, seed=recipe.seed, folder=read.file.folder, at=(*at, "noise"))
    laid_out = math.ceil(stage.epochs) if isinstance(stage, Sft | TokenClassification) else 1
    return read(stage.data, at, task, noiser=noiser, vary=vary, epochs=laid_out, **kept), stage.epochs / laid_out


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
    limit = spec.max_new_tokens or (environment and environment.max_turn_length) or answer_limit(answers)
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
