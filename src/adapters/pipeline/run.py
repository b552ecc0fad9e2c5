"""The loop: jobs in order, what is done is skipped, the adapter is handed on, every stage is evaluated."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapters import console
from adapters.backends import adapter_folder
from adapters.backends.jobs import Backend, Evaluation, Job
from adapters.environment import peak_memory_gb, versions
from adapters.errors import UserError
from adapters.evaluation import comparison
from adapters.evaluation.evaluate import evaluate
from adapters.files import read_json, write_json, write_text
from adapters.pipeline import ledger
from adapters.pipeline.plan import Plan
from adapters.plugins.rewards import NamedReward
from adapters.recipe.load import present_keys
from adapters.types import Task

# Keys that may change between two starts of one run: they alter no trained weight.
CHANGEABLE_RECIPE_KEYS = (
    "evaluate",
    "evaluate_base",
    "publish",
    "report_to",
    "data_root",
    "run_dir",
    'if __name__ == "__main__"',
)


def run_plan(plan: Plan, backend: Backend) -> dict[str, Any]:
    """Train what is not yet trained, evaluate what is not yet evaluated; returns the report.

    Started again with the same recipe it continues where it stopped. Raises UserError when the run's folder belongs
    to another recipe.
    """
    folder = plan.folder
    if console.is_main():
        open_or_resume(plan)
        _write_ledger(plan)
    backend.barrier()
    start: Path | None = None
    for job in plan.jobs:
        if not job.is_complete(start):
            _train(plan, job, start, backend)
        elif console.is_main():
            adapter_folder.remove_work_files(job.folder)
        start = job.folder
    report: dict[str, Any] = {"name": plan.recipe.name, "sets": {}, "stages": {}}
    for job in plan.jobs:
        held = adapter_folder.manifest(job.folder) or {}
        report["stages"][job.name] = {k: held.get(k) for k in ("figures", "seconds", "peak_memory_gb", "steps")}
    if plan.evaluations:
        models: list[tuple[str, Path | None]] = [(job.name, job.folder) for job in plan.jobs]
        if plan.recipe.evaluate_base:
            models.insert(0, ("base", None))
        rewards = {r.name: r for job in plan.jobs for r in job.rewards}
        report["sets"] = evaluate_all(models, plan.evaluations, plan.task, list(rewards.values()), folder, backend)
        report["deltas"] = comparison.deltas(report["sets"])
    if console.is_main():
        write_json(folder / "report.json", report)
    backend.barrier()
    return report


def open_or_resume(plan: Plan) -> None:
    """Make the run folder this recipe's, or refuse one that holds another recipe's work.

    Work belongs to this recipe when its fingerprint is the job's; what does not bear on trained weights may change.
    """
    path = plan.folder / "recipe.json"
    inside = plan.folder.resolve()  # the folder itself may be a link to a larger disk
    for link in (p for p in plan.folder.rglob("*") if p.is_symlink() and not p.resolve().is_relative_to(inside)):
        raise UserError(f"{link} is a link that leads out of the run folder; the run would write there. Remove it.")
    for job in plan.jobs:
        mark = adapter_folder.work_folder(job.folder) / adapter_folder.OWNER_FILE
        held = adapter_folder.manifest(job.folder) or {}
        if held.get("fingerprint") == job.fingerprint and (problems := adapter_folder.problems(job.folder)):
            raise UserError(f"{problems[0]}. Delete {job.folder} to train that stage again.")
        strange = job.folder.is_dir() and held.get("fingerprint") != job.fingerprint
        if strange or (mark.is_file() and mark.read_text().partition(" ")[0] != job.fingerprint):
            old = read_json(path)
            changed = _changes(present_keys(old), plan.file.tree) if old else []
            raise UserError(
                f"{plan.folder} holds a run of another recipe, from {job.name} on. "
                f"Changed: {'; '.join(changed) or 'the training data or a plug-in file (content, not path)'}.\n"
                "Add --fork to keep the stages before it and train again from there, --fresh to start over (both keep "
                "the old folder under another name), or give this run its own name with name=…"
            )
    write_json(path, plan.file.tree)
    write_json(plan.folder / "origin.json", {"folder": str(plan.file.folder.resolve())})
    if plan.file.path.resolve() != (plan.folder / "recipe.yaml").resolve():
        shutil.copyfile(plan.file.path, plan.folder / "recipe.yaml")


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process. The lock ends with its process, however that ends.

    Raises UserError when another process holds it, or when the folder cannot be written.
    """
    path = folder.parent / f".{folder.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path, timeout=0)
        held.acquire()
    except Timeout:
        raise UserError(f"another process is working on {folder} (it holds {path}); wait for it, or stop it.") from None
    except OSError as error:
        raise UserError(f"{folder.parent} cannot be written: {error.strerror or error}. Set run_dir=…") from None
    try:
        yield
    finally:
        held.release()


def set_aside(folder: Path) -> Path | None:
    """Keep an old run folder under a free name (`<name>.1`, `.2` …); None when there is none."""
    if not folder.is_dir():
        return None
    n = next(n for n in range(1, 10_000) if not folder.with_name(f"{folder.name}.{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}.{n}"))


def fork(plan: Plan) -> tuple[Path | None, list[str]]:
    """Keep an old run folder as `set_aside` does, and copy from it what this plan would make again just so.

    Returns where the old run is kept, and the names of the stages that were taken over. Nothing is moved before all
    is copied, so that a full disk leaves the old run where it was.
    """
    old, work = plan.folder, plan.folder.with_name(f".{plan.folder.name}.fork")
    shutil.rmtree(work, ignore_errors=True)
    kept: list[str] = []
    for job in plan.jobs:
        held = adapter_folder.manifest(old / job.name) or {}
        if held.get("fingerprint") != job.fingerprint or adapter_folder.problems(old / job.name):
            break
        shutil.copytree(old / job.name, work / job.name)
        kept.append(job.name)
    for label in ["base", *kept]:
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
        # `open_or_resume` has made sure that neither folder is another recipe's work.
        shutil.rmtree(job.folder, ignore_errors=True)
        mark = adapter_folder.owner_line(job.fingerprint, start)
        if work.is_dir() and _text(work / adapter_folder.OWNER_FILE) != mark:
            shutil.rmtree(work)  # checkpoints that grew from other weights than the stage before has now
        work.mkdir(parents=True, exist_ok=True)
        write_text(work / adapter_folder.OWNER_FILE, mark)
    backend.barrier()
    began = time.time()
    with console.progress(job.name) as progress:
        figures = backend.train(job, start, work, progress)
    if console.is_main():
        describe = getattr(backend, "describe", dict)
        adapter_folder.commit(
            job.folder,
            {
                "fingerprint": job.fingerprint,
                "stage": job.stage.model_dump(exclude={"data"}),
                "scoring": [reward.record for reward in job.rewards],
                "data": job.ledger,
                "too_long": job.too_long,
                "start": start.name if start else None,
                "start_hash": adapter_folder.weights_hash(start),
                "reference": getattr(job.stage, "reference", None),
                "model": describe(),
                "task": plan.recipe.task.model_dump(),
                "thinking": plan.recipe.model.thinking,
                "figures": dict(figures),
                "steps": job.steps,
                "seconds": round(time.time() - began, 1),
                "peak_memory_gb": peak_memory_gb(),
                "versions": versions(),
            },
        )
    backend.barrier()


def evaluate_all(
    models: Sequence[tuple[str, Path | None]],
    evaluations: Sequence[Evaluation],
    task: Task,
    rewards: Sequence[NamedReward],
    folder: Path,
    backend: Backend,
) -> dict[str, Any]:
    """Every model (label, adapter directory or None for the base) on every test set; what still holds is reused.

    Returns test set -> label -> figures, as in `report.json`.
    """
    sets: dict[str, Any] = {e.name: {} for e in evaluations}
    for label, adapter in models:
        sampler = None
        for evaluation in evaluations:
            out = folder / "eval" / label / evaluation.name
            key = _evaluation_key(evaluation, adapter, rewards)
            held = read_json(out / "metrics.json")
            if held.get("key") != key:
                if console.is_main():
                    (out / "metrics.json").unlink(missing_ok=True)  # it is not the coming samples' any more
                sampler = sampler or backend.sampler(adapter)
                with console.progress(f"evaluate {label} on {evaluation.name}") as progress:
                    held = evaluate(sampler, evaluation, task, rewards, out, progress, write=console.is_main())
                held = {"key": key, **held}
                backend.barrier()
                if console.is_main():
                    write_json(out / "metrics.json", held)
            sets[evaluation.name][label] = held
        del sampler
    return sets


def _evaluation_key(evaluation: Evaluation, folder: Path | None, rewards: Sequence[NamedReward]) -> str:
    weights = adapter_folder.weights_hash(folder) or "base"
    return f"{evaluation.fingerprint}:{weights}:{','.join(r.identity for r in rewards)}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _write_ledger(plan: Plan) -> None:
    write_json(plan.folder / "ledger.json", ledger.of_plan(plan))
    places = [(job.name, job.rejected) for job in plan.jobs] + [(e.name, e.rejected) for e in plan.evaluations]
    rejected = [
        {"for": name, "source": r.source, "row": r.row, "reason": r.reason} for name, rows in places for r in rows
    ]
    if rejected:
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rejected)
        write_text(plan.folder / "rejected.jsonl", text)
    else:
        (plan.folder / "rejected.jsonl").unlink(missing_ok=True)
