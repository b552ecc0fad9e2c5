"""From a recipe to jobs: data read, plug-ins resolved, rewards tried, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters import console
from adapters.backends.base_files import check_base
from adapters.backends.jobs import Backend, Evaluation, Job
from adapters.data.load import Loaded
from adapters.data.on_disk import settled
from adapters.data.text_keys import TextKeys
from adapters.errors import UserError
from adapters.pipeline import distilling, selecting, starting, stored_samples
from adapters.pipeline.evaluations import evaluations, leakage
from adapters.pipeline.fingerprint import stage_fingerprint
from adapters.pipeline.reading import Measure, Reader, rows_of_stage, task_of
from adapters.pipeline.stage_rows import answer_tokens, beyond, check_stage, divided, once, replacing_note, steps
from adapters.plugins import environments
from adapters.plugins.reward_probe import probe
from adapters.plugins.rewards import NamedReward, stage_rewards
from adapters.plugins.source_files import identity
from adapters.recipe.load import RecipeFile, run_folder
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Grpo, samples_of
from adapters.types import Task


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
        notes.append(f"stage 1 starts from {start}; `adapters check` alone looks for the rows that this was trained on")
    before = starting.fingerprint(start)
    read = Reader(file, task, notes)
    jobs: list[Job] = []
    for n in range(len(recipe.stages)):
        jobs.append(_job(read, n, rewards, jobs[-1].fingerprint if jobs else before, measure, notes, start))
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


def _renamed(keys: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each old key, with the first place where it stands."""
    places = [(path.rpartition(".")[2], path, new) for path, new in keys.items()]
    for key in dict.fromkeys(key for key, *_ in places):
        first, *more = [(path, new) for old, path, new in places if old == key]
        yield f"{first[0]}{f' (and in {len(more)} more places)' if more else ''} is now {first[1]}"


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


def _job(
    read: Reader,
    n: int,
    all_rewards: Sequence[tuple[NamedReward, ...]],
    previous: str,
    measure: Measure,
    notes: list[str],
    start: Path | None,
) -> Job:
    file, task, recipe = read.file, read.task, read.file.recipe
    stage, at, rewards, thinking = recipe.stages[n], ("stages", n), all_rewards[n], recipe.model.thinking
    console.phase(f"reading the data of {n + 1}-{stage.kind}")
    environment = environments.configured(getattr(stage, "environment", None), file.folder, (*at, "environment"))
    measured = selecting.measured_rewards(recipe.stages, all_rewards, n, environment)
    loaded, epochs = rows_of_stage(read, n)
    for i, reward in enumerate(rewards):
        console.phase(f"trying the reward {reward.name}")
        notes += probe(reward, loaded.examples, (*at, "rewards", i))
    check_stage(stage, loaded.examples, recipe, measure.backend, at)
    if isinstance(stage, Distill):
        stage = distilling.with_folders(stage)
    if environment is not None:
        console.phase(f"trying the environment {environment.name}")
        notes += environments.try_environment(environment, loaded.examples, (*at, "environment"))
    if isinstance(stage, Grpo) and stage.flat_groups == "replace":
        notes.append(replacing_note(stage, n))
    rows = divided(loaded, recipe, n, measure)
    examples, lengths, windows, training = rows[:4]
    notes += distilling.left(stage, training, at)
    stage = stored_samples.with_path(file, n, start, training) if samples_of(stage) else stage
    plugins = [identity("tasks", recipe.task, task, file.folder), *([r.identity, r.weight] for r in rewards)]
    plugins += [[r.identity, r.weight] for r in measured if r not in rewards] + distilling.identity(stage, training)
    plugins += [*([environment.identity] if environment else []), *stored_samples.identity(stage)]
    job = Job(
        index=n,
        stage=stage,
        folder=run_folder(recipe) / f"{n + 1}-{stage.kind}",
        examples=settled(training),
        validation=tuple(rows.validation),
        rewards=rewards,
        environment=environment,
        fingerprint=stage_fingerprint(file, n, plugins, loaded.fingerprint, previous),
        steps=steps(stage, sum(windows.get(e.id, 1) for e in training) if windows else len(training), epochs, at),
        texts=loaded.texts,
        by_source=loaded.by_source,
        lengths=rows.audit,
        ledger=loaded.ledger,
        rejected=loaded.rejected,
        too_long=rows.too_long,
        tokens=rows.tokens,
        beyond=beyond(stage, examples, lengths or ()),
        longest_answer=max((length.completion for length in lengths or ()), default=0),
        answer_tokens=answer_tokens(stage, examples, lengths, thinking=thinking) if samples_of(stage) else 0,
    )
    if not stage.select:
        return job
    return _with_selection(job, task, loaded, measured, measure, notes, thinking=thinking)


def _with_selection(
    job: Job,
    task: Task,
    loaded: Loaded,
    rewards: tuple[NamedReward, ...],
    measure: Measure,
    notes: list[str],
    *,
    thinking: bool,
) -> Job:
    """The job with what its held-out rows are measured by."""
    ids = {e.id for e in job.validation}
    held_out = once([e for e in loaded.examples if e.id in ids])  # conversations are whole
    lengths = measure.lengths(held_out) if held_out else None
    limit = answer_tokens(job.stage, held_out, lengths, thinking=thinking)
    job = replace(job, select=selecting.selection(task, job, rewards, held_out, limit))
    notes += selecting.note(job)
    return job
