"""Run a plan: train what is not finished, evaluate every adapter, report."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock, Timeout

from adapters import console
from adapters.backends import adapter_folder
from adapters.backends.jobs import PICKED, Backend, Evaluation, Job
from adapters.environment import peak_memory, versions
from adapters.errors import UserError
from adapters.evaluation import comparison, constraining, episodes
from adapters.evaluation.evaluate import SetFigures, Stored, evaluate, read_figures, store_alignment, stored_answers
from adapters.evaluation.picking import PickingSampler
from adapters.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from adapters.pipeline import distilling, ledger, starting
from adapters.pipeline.own_answers import Answering
from adapters.pipeline.plan import Plan
from adapters.pipeline.readable_prompts import keep_readable
from adapters.pipeline.run_folder import START, refuse_links
from adapters.plugins import source_files, trust
from adapters.plugins.registry import self_contained
from adapters.plugins.rewards import NamedReward, once_each
from adapters.recipe.first_line import HEADER
from adapters.recipe.load import present_keys
from adapters.recipe.stages import Distill, TokenClassification, samples_of
from adapters.types import Progress, Task

CHANGEABLE_RECIPE_KEYS = ("evaluate", "evaluate_base", "publish", "report_to", "data_root", "run_dir", HEADER)
"""A run may be continued with other values of these keys: none affects trained weights."""


def run_plan(plan: Plan, backend: Backend) -> dict[str, Any]:
    """Train and evaluate what is not done yet. Returns the report. Raises UserError in another run's folder."""
    folder = plan.folder
    if console.is_main():
        notes = open_or_resume(plan)
        with console.progress("plan", "looking for duplicates"):
            _write_ledger(plan)
        for note in [*notes, *ready(plan, backend)]:
            console.note(note)
    backend.barrier()
    start = plan.start
    for job in plan.jobs:
        if not job.is_complete(start):
            _train(plan, job, start, backend)
        elif console.is_main():
            adapter_folder.remove_work_files(job.folder)
        start = job.folder
    report: dict[str, Any] = {"name": plan.recipe.name, "sets": {}, "stages": {}}
    for job in plan.jobs:
        manifest = adapter_folder.manifest(job.folder) or {}
        keys = ("figures", "seconds", "peak_memory_gb", "peak_host_memory_gb", "steps")
        report["stages"][job.name] = {k: manifest.get(k) for k in keys}
    if plan.evaluations:
        base = [("base", None)] if plan.recipe.evaluate_base else []
        begin = [(START, plan.start)] if plan.start else []
        teachers = distilling.models(plan.jobs)
        models = [*base, *begin, *teachers.items(), *((job.name, job.folder) for job in plan.jobs)]
        rewards = once_each([(job.name, job.rewards) for job in plan.jobs])
        earlier = {"base": plan.start.parent / "eval" / "base", START: evaluated(plan.start)} if plan.start else {}
        earlier |= {label: evaluated(folder) for label, folder in teachers.items()}
        report["sets"] = evaluate_all(models, plan.evaluations, plan.task, rewards, folder, backend, earlier)
        report["deltas"] = comparison.deltas(report["sets"])
    if console.is_main():
        write_json(folder / "report.json", report)
    backend.barrier()
    return report


def ready(plan: Plan, backend: Backend) -> list[str]:
    """Notes of the backend on the stages that are not finished. Raises UserError when one could not be trained."""
    ask = getattr(backend, "ready", None)
    return ask([job for job in plan.jobs if not adapter_folder.manifest(job.folder)]) if ask else []


def open_or_resume(plan: Plan) -> list[str]:
    """Write the recipe into the run folder; returns notes. Raises UserError when it holds a stage of another recipe."""
    path = plan.folder / "recipe.json"
    refuse_links(plan.folder)
    for job in plan.jobs:
        owner = adapter_folder.work_folder(job.folder) / adapter_folder.OWNER_FILE
        trained = (adapter_folder.manifest(job.folder) or {}).get("fingerprint") == job.fingerprint
        if trained and (problems := adapter_folder.problems(job.folder)):
            raise UserError(f"{problems[0]}. Delete {job.folder} to train that stage again.")
        foreign = job.folder.is_dir() and not trained
        if foreign or (owner.is_file() and owner.read_text().partition(" ")[0] != job.fingerprint):
            old = read_json(path)
            changed = _changes(present_keys(old), _self_contained(plan)) if old else []
            manifest = adapter_folder.manifest(job.folder)
            if manifest and not changed and "fingerprint_version" not in manifest:
                changed = [
                    "nothing in the recipe, but an older version of this project made it, and fingerprints differ"
                ]
            unseen = ["the training data", "a plug-in file", *(["a teacher"] if isinstance(job.stage, Distill) else [])]
            raise UserError(
                f"{plan.folder} holds a run of another recipe: {job.name} differs. "
                f"Changed: {'; '.join(changed) or ' or '.join(unseen)}.\n"
                f"--fork keeps the stages before {job.name} and trains from there; --fresh trains all stages again. "
                "Both keep the old folder under another name. Or give this run a name of its own with name=…"
            )
    write_json(path, _self_contained(plan))
    recorded = trust.sign(plan.folder, plan.file.folder, source_files.of_recipe(plan.recipe, plan.file.folder))
    if plan.file.path.resolve() != (plan.folder / "recipe.yaml").resolve():
        shutil.copyfile(plan.file.path, plan.folder / "recipe.yaml")
    unwritable = f"{trust.state_folder()} cannot be written: other commands will ask before they import this run's code"
    return [] if recorded else [unwritable]


def _self_contained(plan: Plan) -> dict[str, Any]:
    """The recipe's keys, with the schemas that it names as they are now."""
    tree = plan.file.tree
    out = {**tree, "task": self_contained(tree["task"], plan.task), "stages": [dict(stage) for stage in tree["stages"]]}
    for stage, job in zip(out["stages"], plan.jobs, strict=True):
        if rewards := stage.get("rewards"):
            instances = [named.reward for named in job.rewards]
            stage["rewards"] = [self_contained(r, i) for r, i in zip(rewards, instances, strict=True)]
    return out


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process. Raises UserError if it is locked or not writable."""
    path = folder.parent / f".{folder.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file_lock = FileLock(path, timeout=0)
        file_lock.acquire()
    except Timeout:
        text = f"another process is working on {folder} (it has locked {path}). Wait for it, or stop it."
        raise UserError(text) from None
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be written: {error.strerror or error}. Set run_dir=…") from None
    try:
        yield
    finally:
        file_lock.release()


def set_aside(folder: Path) -> Path | None:
    """Rename an old run folder to a free name (NAME.1, NAME.2 …); None if there is none."""
    if not folder.is_dir():
        return None
    n = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}.{n}"))


def fork(plan: Plan) -> tuple[Path | None, list[str]]:
    """Rename an old run folder and copy the stages that this plan would repeat.

    Returns the old run's new folder and the copied stages. Nothing is renamed before all is copied, so that a full disk
    leaves the old run where it was.
    """
    old, work = plan.folder, plan.folder.with_name(f".{plan.folder.name}.fork")
    shutil.rmtree(work, ignore_errors=True)
    kept: list[str] = []
    for job in plan.jobs:
        manifest = adapter_folder.manifest(old / job.name) or {}
        if manifest.get("fingerprint") != job.fingerprint or adapter_folder.problems(old / job.name):
            break
        shutil.copytree(old / job.name, work / job.name)
        kept.append(job.name)
    for label in ["base", START, *kept]:
        if (old / "eval" / label).is_dir():
            shutil.copytree(old / "eval" / label, work / "eval" / label)
    aside = set_aside(plan.folder)
    if work.is_dir():
        work.rename(plan.folder)
    return aside, kept


def _changes(old: Any, new: Any, at: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [k for k in {**old, **new} if at or k not in CHANGEABLE_RECIPE_KEYS]
        return [c for k in keys for c in _changes(old.get(k), new.get(k), f"{at}.{k}" if at else k)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [c for n, pair in enumerate(zip(old, new, strict=True)) for c in _changes(*pair, f"{at}.{n}")]
    return [] if old == new else [f"{at} was {json.dumps(old)[:80]}, is {json.dumps(new)[:80]}"]


def _train(plan: Plan, job: Job, start: Path | None, backend: Backend) -> None:
    work = adapter_folder.work_folder(job.folder)
    if console.is_main():
        # `open_or_resume` has made sure that neither folder belongs to another recipe.
        shutil.rmtree(job.folder, ignore_errors=True)
        owner, owner_file = adapter_folder.owner_line(job.fingerprint, start), work / adapter_folder.OWNER_FILE
        if work.is_dir() and not (owner_file.is_file() and owner_file.read_text(encoding="utf-8") == owner):
            shutil.rmtree(work)  # its checkpoints started from other weights than the previous stage has now
        write_text(owner_file, owner)
    backend.barrier()
    began = time.time()
    with console.progress(job.name, "starting") as progress:
        sampled: dict[str, Any] = {}
        if samples_of(job.stage) is not None:
            job, sampled = Answering(job, plan.task, backend, start, work, plan.recipe.seed).prepared(progress)
        if isinstance(job.stage, Distill) and job.stage.skip_unreadable:
            job, sampled = keep_readable(job, plan.task, backend, work, progress, plan.recipe.seed)
        figures = sampled | dict(backend.train(job, start, work, progress))
    if console.is_main():
        manifest = {
            "fingerprint": job.fingerprint,
            "fingerprint_version": 2,
            "stage": job.stage.model_dump(exclude={"data"}),
            "scoring": [reward.record for reward in job.all_rewards],
            "data": job.ledger,
            "too_long": job.too_long,
            "start": start and (plan.recipe.start if start == plan.start else start.name),
            "start_hash": adapter_folder.content_hash(start),
            **({"history": starting.history(start)} if start and start == plan.start else {}),
            "reference": getattr(job.stage, "reference", None),
            **distilling.record(job),
            "model": getattr(backend, "describe", dict)(),
            **({"labels": list(job.stage.labels)} if isinstance(job.stage, TokenClassification) else {}),
            "task": self_contained(plan.recipe.task.model_dump(), plan.task),
            "thinking": plan.recipe.model.thinking,
            "figures": figures,
            "steps": job.steps,
            "seconds": round(time.time() - began, 1),
            **peak_memory(),
            "versions": versions(),
        }
        adapter_folder.commit(job.folder, manifest)
        for told in filter(None, (figures.get("samples"), figures.get("select"), figures.get("unreadable"))):
            console.console(stderr=True).print(f"{job.name}: {told['text']}", markup=False, soft_wrap=True)
    backend.barrier()


def evaluate_all(
    models: Sequence[tuple[str, Path | None]],
    evaluations: Sequence[Evaluation],
    task: Task,
    rewards: Sequence[NamedReward],
    folder: Path,
    backend: Backend,
    earlier: Mapping[str, Path] = MappingProxyType({}),
) -> dict[str, dict[str, SetFigures]]:
    """Evaluate models (label, adapter; None: the base) where no valid result is stored: set -> label -> figures.

    Answers that are stored, here or in `earlier` (label -> folder of another run), are not asked for again: when only
    the rewards have changed, as they do when a stage is added, or when another model has the same weights, as a stage
    has that kept its start.
    """
    evaluations = [each for e in evaluations for each in e.ways]
    sets: dict[str, dict[str, SetFigures]] = {e.name: {} for e in evaluations}
    for label, adapter in models:
        asked = cache(partial(backend.sampler, adapter))  # a model is loaded once, if it is asked at all
        for evaluation in evaluations:
            if evaluation.picked and adapter is None:
                continue  # what an untrained model says several times is worth no time
            out = folder / "eval" / label / evaluation.name
            scoring = episodes.scoring(evaluation, task, rewards)
            key = _evaluation_key(evaluation, adapter, scoring[1])
            figures = read_figures(out)
            if figures.get("key") != key:
                answered = [folder / "eval" / name for name in dict.fromkeys([label, *(name for name, _ in models)])]
                answered += [earlier[label]] if label in earlier else []
                of_models = (stored_answers(of_model / evaluation.name, evaluation, key) for of_model in answered)
                stored = next(filter(None, of_models), None)
                backend.barrier()  # all have read what is now replaced
                with console.progress(f"evaluating {evaluation.name} ({label})") as progress:
                    figures = _evaluate(evaluation, stored, asked, task, scoring, out, progress)
                figures["key"] = key
                backend.barrier()
                if console.is_main():
                    write_json(out / "metrics.json", figures)
            elif console.is_main():
                store_alignment(scoring[0], out)
            sets[evaluation.name][label] = figures
    return sets


def _evaluate(
    evaluation: Evaluation,
    stored: Stored | None,
    asked: Callable[[], Any],
    task: Task,
    scoring: tuple[Task, Sequence[NamedReward]],
    out: Path,
    progress: Progress,
) -> SetFigures:
    """Figures of the stored answers, or of those of a model that is `asked` in the test set's way."""
    if console.is_main():
        (out / "metrics.json").unlink(missing_ok=True)  # it does not belong to the samples that follow
    answers: Any = stored
    if stored is None:
        answers = asked()
        if evaluation.picked:
            answers = PickingSampler(answers, evaluation, task)
        if evaluation.constrained:
            answers = constraining.ConstrainedSampler(answers, evaluation)
        if evaluation.environment:
            answers = episodes.EpisodeSampler(answers, evaluation.examples, evaluation.environment)
    figures = evaluate(answers, evaluation, *scoring, out, progress, write=console.is_main())
    if evaluation.constrained and console.is_main():
        free = read_jsonl(out.with_name(evaluation.name.partition(PICKED)[0]) / "samples.jsonl")
        effect = constraining.compared(task, free, read_jsonl(out / "samples.jsonl"))
        figures.update({"constraint": effect} if effect else {})
    return figures


def _evaluation_key(evaluation: Evaluation, folder: Path | None, rewards: Sequence[NamedReward]) -> str:
    weights = adapter_folder.content_hash(folder) or "base"
    return f"{evaluation.fingerprint}:{weights}:{','.join(f'{r.name}={r.score_hash}' for r in rewards)}"


def evaluated(stage: Path) -> Path:
    """Where a run keeps the evaluations of its stage."""
    return stage.parent / "eval" / stage.name


def _write_ledger(plan: Plan) -> None:
    write_json(plan.folder / "ledger.json", ledger.of_plan(plan))
    rejected = [{"for": part.name, **asdict(row)} for part in plan.stages_and_tests for row in part.rejected]
    path = plan.folder / "rejected.jsonl"
    if rejected:
        write_jsonl(path, rejected)
    else:
        path.unlink(missing_ok=True)
