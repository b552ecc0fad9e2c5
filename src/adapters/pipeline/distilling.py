"""The teachers of a `distill` stage: which adapter judges which domain, and what must hold before it trains."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from adapters.backends import adapter_folder
from adapters.backends.jobs import Backend, Job
from adapters.data.examples import clean_prompt, domain_of
from adapters.errors import KeyPath, UserError
from adapters.pipeline import starting
from adapters.pipeline.run_folder import START, TEACHER, RunFolder, adapter_in, as_dict, finished_adapter_in
from adapters.pipeline.run_folder import Stage as FinishedStage
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Stage
from adapters.types import Example, Extracting, Row, Task

SHOWN: Final = 3
"""Rows or sources that a message names."""


class PromptTask:
    """A task whose rows need no labels: of what it cannot read as an example it makes the prompt alone."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __getattr__(self, name: str) -> Any:
        """The task's own attribute."""
        return getattr(self.task, name)

    def example(self, row: Row, *, source: str = "", id: str = "") -> Example:
        """The task's example, or one without labels. Raises ValueError for a row without a prompt."""
        try:
            return self.task.example(row, source=source, id=id)
        except ValueError:
            if not isinstance(self.task, Extracting):
                raise
            prompt = self.task.request(row)
        return Example(id, source, prompt, meta={"text": row.get(self.task.text_field)})


def folders(stage: Distill) -> dict[str, Path]:
    """The teachers' adapters by domain. Raises UserError for a folder that holds none."""
    return {domain: adapter_in(Path(path).expanduser()) for domain, path in sorted(stage.teachers.items())}


def with_folders(stage: Distill) -> Distill:
    """The stage with the adapters' own folders as teachers."""
    return stage.model_copy(update={"teachers": {domain: str(folder) for domain, folder in folders(stage).items()}})


def check(stage: Distill, examples: Sequence[Example], recipe: Recipe, backend: Backend, at: KeyPath) -> None:
    """Raise UserError for teachers and rows that do not go together."""
    _check_teachers(stage, recipe, backend, (*at, "teachers"))
    _check_names(stage, recipe, at)
    _check_domains(stage, examples, at)
    _check_prompts(examples, (*at, "data"))


def _check_teachers(stage: Distill, recipe: Recipe, backend: Backend, at: KeyPath) -> None:
    for domain, path in sorted(stage.teachers.items()):
        try:
            folder = finished_adapter_in(Path(path).expanduser())
        except UserError as error:
            raise UserError(str(error), at=(*at, domain)) from None
        if problems := adapter_folder.problems(folder):
            raise UserError(f"{problems[0]}.", at=(*at, domain))
        if odd := starting.not_plain(folder, recipe):
            raise UserError(f"{domain!r} is no plain LoRA adapter ({odd}).", at=at)
        if theirs := starting.other_base(folder, recipe, backend):
            fault = f"{domain!r} was trained on {theirs}, the recipe's base is {recipe.model.base}."
            raise UserError(fault, at=at)
        if theirs := starting.other_revision(folder, recipe):
            here = recipe.model.revision
            fault = f"{domain!r} was trained on revision {theirs} of the base, and model.revision is {here}."
            raise UserError(fault, at=at)
        if (check_teacher := getattr(backend, "check_teacher", None)) is not None:
            try:
                check_teacher(folder)
            except UserError as error:
                raise UserError(f"{domain!r} ({folder}) {error}", at=at) from None


def _check_names(stage: Distill, recipe: Recipe, at: KeyPath) -> None:
    """A domain names its teacher's figures, so two stages must mean one adapter by it."""
    for n, earlier in enumerate(recipe.stages[: int(at[-1])]):
        if isinstance(earlier, Distill):
            for domain in sorted(stage.teachers.keys() & earlier.teachers.keys()):
                one, two = (adapter_in(Path(s.teachers[domain]).expanduser()) for s in (stage, earlier))
                if _adapter(one) != _adapter(two):
                    fault = f"stages.{n} has another teacher for the domain {domain!r}; give one of them another name."
                    raise UserError(fault, at=(*at, "teachers"))


def _check_domains(stage: Distill, examples: Sequence[Example], at: KeyPath) -> None:
    bare = [e for e in examples if domain_of(e) is None]
    if bare:
        more = f" (and {len(bare) - 1:,} more rows)" if len(bare) > 1 else ""
        fault = f"row {bare[0].id!r} of {bare[0].source}{more} has no domain; give the source one with domain:."
        raise UserError(fault, at=(*at, "data"))
    found = Counter(domain_of(e) for e in examples)
    for domain in sorted(str(d) for d in found.keys() - stage.teachers.keys()):
        sources = Counter(e.source for e in examples if domain_of(e) == domain)
        named = ", ".join(f"{n:,} rows of {source}" for source, n in sources.most_common(SHOWN))
        raise UserError(f"no teacher for the domain {domain!r} ({named}).", at=(*at, "teachers"))
    for domain in sorted(stage.teachers.keys() - found.keys()):
        raise UserError(f"the teacher {domain!r} has no rows.", at=(*at, "teachers"))
    if stage.batch_size % len(stage.teachers):
        fault = f"{stage.batch_size} cannot be shared equally by {len(stage.teachers)} domains."
        raise UserError(fault, at=(*at, "batch_size"))


def _check_prompts(examples: Sequence[Example], at: KeyPath) -> None:
    first: dict[bytes, tuple[str | None, str]] = {}
    for example in examples:
        here = domain_of(example), f"row {example.id!r} of {example.source}"
        known = first.setdefault(_key(example.prompt), here)
        if known[0] != here[0]:
            one, two = known[1], here[1]
            raise UserError(f"{one} and {two} have one prompt and two domains.", at=at)


def _key(prompt: Any) -> bytes:
    return hashlib.blake2b(json.dumps(prompt, sort_keys=True, default=str).encode(), digest_size=16).digest()


def left(stage: Stage, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Notes on the rows that a stage trains on. Raises UserError when a domain has none of them left."""
    if not isinstance(stage, Distill):
        return []
    if gone := sorted(stage.teachers.keys() - {domain_of(e) for e in examples}):
        fault = f"no row of the domain {gone[0]!r} is left: all are too long, or held out."
        raise UserError(fault, at=(*at, "max_prompt_length"))
    if len(stage.teachers) == 1:
        return [f"stage {int(at[-1]) + 1}: one teacher alone; its student is a copy that learned from its own answers"]
    return []


def identity(stage: Stage, examples: Sequence[Example]) -> list[Any]:
    """What decides a stage's weights beside its rows: the teachers, and who judges which row, reading what."""
    if not isinstance(stage, Distill):
        return []
    digest = hashlib.sha256()
    for example in examples:
        digest.update(_key([domain_of(example), clean_prompt(example)]))
    adapters = {domain: _adapter(folder) for domain, folder in folders(stage).items()}
    return [["teachers", adapters, digest.hexdigest()]]


def _adapter(folder: Path) -> Any:
    """What decides how a teacher judges: its weights, and how they are scaled."""
    weights, scaled = adapter_folder.content_hash(folder), adapter_folder.scaling(folder)
    return [weights, scaled] if scaled else weights  # the hash alone is what it was before scaling counted


def record(job: Job) -> dict[str, Any]:
    """The teachers as the manifest of a stage records them, by domain; {} for other stages."""
    if not isinstance(job.stage, Distill):
        return {}
    rows = Counter(domain_of(e) for e in job.examples)
    return {"teachers": {d: _record(folder, rows[d]) for d, folder in folders(job.stage).items()}}


def _record(folder: Path, rows: int) -> dict[str, Any]:
    run = RunFolder.of_stage(folder)
    data = [
        {key: entry[key] for key in ("source", "license", "generated") if key in entry}
        for stage in starting.history(folder)
        for entry in stage["data"]
    ]
    return {
        "name": f"{run.name}/{folder.name}" if run else folder.name,
        "path": str(folder.resolve()),
        "weights": adapter_folder.content_hash(folder),
        "rows": rows,
        "data": data,
    }


def models(jobs: Sequence[Job]) -> dict[str, Path]:
    """The teachers to measure beside the stages: label -> adapter."""
    found: dict[str, Path] = {}
    for stage in (job.stage for job in jobs):
        if isinstance(stage, Distill) and stage.evaluate_teachers:
            found |= {f"{TEACHER}{domain}": folder for domain, folder in folders(stage).items()}
    return found


def recorded(stage: FinishedStage) -> tuple[dict[str, Path], list[str]]:
    """The teachers of a finished stage that are where and as they were: label -> adapter; notes on the others."""
    if not stage.settings.get("evaluate_teachers"):
        return {}, []
    found, notes = dict[str, Path](), []
    for domain, entry in as_dict(stage.manifest.get("teachers")).items():
        path = Path(str(entry["path"]))
        if adapter_folder.content_hash(path) == entry["weights"]:
            found[f"{TEACHER}{domain}"] = path
        else:
            why = "holds other weights now" if (path / adapter_folder.WEIGHTS).is_file() else "is gone"
            notes.append(f"the teacher {domain!r} is not measured: {path} {why}.")
    return found, notes


def others(given: Sequence[Path], recipe: Recipe, backend: Backend, own: RunFolder) -> dict[str, Path]:
    """Adapters given on the command line to be measured beside a stage: label -> adapter. Raises UserError."""
    found: dict[str, Path] = {}
    stages = {stage.name for stage in own.stages}
    for path in given:
        folder = adapter_in(path)
        if problems := adapter_folder.problems(folder):
            raise UserError(f"--compare: {problems[0]}.")
        if theirs := starting.other_base(folder, recipe, backend):
            raise UserError(f"--compare: {folder} was trained on {theirs}, this run's base is {recipe.model.base}.")
        if theirs := starting.other_revision(folder, recipe):
            here = recipe.model.revision
            raise UserError(f"--compare: {folder} was trained on revision {theirs} of the base, this run on {here}.")
        run = RunFolder.of_stage(folder)
        inside = run is not None and run.path.resolve() == own.path.resolve()
        label = folder.name if inside or run is None else f"{run.name}.{folder.name}"
        if not inside and (label in stages or label in ("base", START) or label.startswith(TEACHER)):
            label = f"compared-{label}"  # the label alone means a model of this run
        if found.setdefault(label, folder) != folder:
            raise UserError(f"--compare: two adapters are called {label}.")
    return found
