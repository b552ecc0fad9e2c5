"""A run folder on disk. Damaged files count as missing; half-written lines are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

from adapters.backends import adapter_folder
from adapters.data.on_disk import collect
from adapters.errors import UserError
from adapters.evaluation.evaluate import SetFigures, read_figures
from adapters.evaluation.metrics import number
from adapters.files import numbered_jsonl, read_json, read_jsonl, read_run_json, sha256
from adapters.plugins import source_files, trust
from adapters.plugins.trust import Consent
from adapters.recipe.load import RecipeFile, as_overrides, load_recipe, present_keys
from adapters.recipe.stages import READ_AFTERWARDS, Distill

State = Literal["done", "in progress", "waiting"]
START: Final = "start"
"""Label of the adapter that a recipe's first stage starts from, beside `base` and the stages."""
TEACHER: Final = "teacher-"
"""Beginning of the labels of a distill stage's teachers, before their domain."""
GIVEN: Final = "@"
"""Part of the names of test sets given with `adapters eval --data`: NAME@HASH."""


@dataclass(frozen=True)
class Stage:
    """One stage of a run: its settings, its state, and what it wrote."""

    path: Path
    """Where its adapter is once it is finished."""
    index: int
    kind: str
    settings: Mapping[str, Any]
    manifest: Mapping[str, Any]
    """Empty until the stage is finished."""

    @property
    def name(self) -> str:
        """Folder name and label in reports: 1-sft, 2-grpo …"""
        return self.path.name

    @property
    def folder(self) -> Path | None:
        """Where its files are now; None before it starts."""
        working = adapter_folder.work_folder(self.path)
        return self.path if self.manifest else working if working.is_dir() else None

    @property
    def state(self) -> State:
        """How far the stage is."""
        return "done" if self.manifest else "in progress" if self.folder else "waiting"

    @property
    def weights_hash(self) -> str | None:
        """Hash of the adapter's weights; None until the stage is finished."""
        return adapter_folder.weights_hash(self.path)

    @cached_property
    def log(self) -> tuple[Mapping[str, float], ...]:
        """One entry per step; of a step logged twice (after a restart) the later figures."""
        steps: dict[float, dict[str, float]] = {}
        for entry in read_jsonl(self.folder / "log.jsonl") if self.folder else ():
            figures = {name: v for name, value in entry.items() if (v := number(value)) is not None}
            if "step" in figures and "train_runtime" not in entry:  # the trainer's closing summary is no step
                steps.setdefault(figures["step"], {}).update(figures)
        return tuple(steps[step] for step in sorted(steps))


@dataclass(frozen=True)
class EvaluatedModel:
    """One model on one test set."""

    model: str
    """`base` or the name of a stage."""
    figures: SetFigures
    stale: bool
    """Measured on other weights than the stage holds now."""
    folder: Path
    beside: bool = False
    """No model of the run's own: a teacher, or an adapter given with `adapters eval --compare`."""

    @cached_property
    def samples(self) -> Sequence[Mapping[str, Any]]:
        """Every row of the test set with the model's answer and its counts; many are on disk, read when asked for."""
        return collect(row for _, row in numbered_jsonl(self.folder / "samples.jsonl"))

    def checked_samples(self) -> Sequence[Mapping[str, Any]]:
        """The samples, if stored. Raises UserError when not all of them can be read."""
        path = self.folder / "samples.jsonl"
        variants = 1 + max((s.get("variant", 0) for s in self.samples), default=0)
        if path.is_file() and len(self.samples) != self.figures["n"] * variants:
            remedy = f"Delete {self.folder} and run the recipe again, which repeats that evaluation."
            raise UserError(f"{path} is damaged. {remedy}")
        return self.samples


Sets = Mapping[str, tuple[EvaluatedModel, ...]]
"""Test set -> the models measured on it, the base first, then the stages in their order."""


@dataclass(frozen=True)
class RunFolder:
    """A run folder, and the stage whose folder was named, if one was."""

    path: Path
    recipe: Mapping[str, Any]
    """The recipe's keys as the run was started, overrides included."""
    named: str | None = None

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run of a run's or a stage's folder. Raises UserError for any other."""
        if recipe := _recipe(path):
            return cls(path, recipe)
        if run := cls.of_stage(path):
            return run
        raise UserError(f"{path} is no run folder: it holds no readable recipe.json. Give a folder such as runs/NAME.")

    @classmethod
    def of_stage(cls, path: Path) -> RunFolder | None:
        """The run that this folder is a stage of; None when there is none."""
        path = path if path.name not in ("", "..") else path.resolve()
        run = cls(path.parent, _recipe(path.parent), path.name.removesuffix(".partial"))
        return run if run.named in [stage.name for stage in run.stages] else None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return str(self.recipe.get("name") or self.path.name)

    @property
    def recipe_text(self) -> str:
        """The recipe's file as it was written; empty when it is missing."""
        with suppress(OSError):
            return (self.path / "recipe.yaml").read_text(encoding="utf-8", errors="replace")
        return ""

    @property
    def origin(self) -> Path:
        """Folder of the recipe that was run, where `./plugin.py` is looked for."""
        return Path(str(read_json(self.path / trust.ORIGIN).get("folder") or self.path))

    def recipe_file(self, overrides: Sequence[str] = (), *, consent: Consent | None = None) -> RecipeFile:
        """The run's recipe with further overrides, whose plug-ins may then be imported.

        Raises Refused when they are not of this machine and nobody consents, and UserError if the recipe is damaged.
        """
        file = self._recipe_file(overrides)
        trust.admit(source_files.of_recipe(file.recipe, file.folder), self.path, consent or Consent())
        return file

    def known_recipe_file(self) -> RecipeFile | None:
        """The run's recipe; None where somebody must consent before its plug-ins are imported."""
        file = self._recipe_file(())
        return None if trust.unknown_here(source_files.of_recipe(file.recipe, file.folder), self.path) else file

    def names_unknown_code(self) -> bool:
        """Whether somebody must consent before the recipe's plug-ins are imported."""
        return self.known_recipe_file() is None

    def _recipe_file(self, overrides: Sequence[str]) -> RecipeFile:
        tree = read_run_json(self.path / "recipe.json")
        return load_recipe(self.path / "recipe.yaml", [*as_overrides(tree), *overrides], origin=self.origin)

    def stored_figures(self, stage: Stage) -> dict[str, dict[str, SetFigures]] | None:
        """Test set -> model -> figures of a stage and the base; None unless all are stored and of these weights."""
        wanted = {"base", stage.name} if self.recipe.get("evaluate_base", True) else {stage.name}
        sets = {
            name: {m.model: m.figures for m in models if m.model in wanted and not m.stale}
            for name, models in self.sets.items()
        }
        names = {str(s.get("name")) for s in self._listed("evaluate")}
        return sets if names and names == set(sets) and all(set(models) == wanted for models in sets.values()) else None

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage of the recipe, in its order."""
        return tuple(self._stage(n, settings) for n, settings in enumerate(self._listed("stages")))

    def _listed(self, key: str) -> list[Mapping[str, Any]]:
        values = self.recipe.get(key)
        return [v if isinstance(v, dict) else {} for v in values] if isinstance(values, list) else []

    def _stage(self, index: int, settings: Mapping[str, Any]) -> Stage:
        kind = str(settings.get("kind", "stage"))
        path = self.path / f"{index + 1}-{kind}"
        manifest = adapter_folder.manifest(path) or {}
        if isinstance(stored := manifest.get("stage"), dict):
            defaults = {key: Distill.model_fields[key].default for key in READ_AFTERWARDS if key in stored}
            settings = {**stored, **{key: settings.get(key, value) for key, value in defaults.items()}}
        return Stage(path, index, kind, settings, manifest)

    @property
    def done(self) -> bool:
        """Whether every stage is finished."""
        return all(stage.manifest for stage in self.stages)

    def stages_up_to_named(self) -> tuple[Stage, ...]:
        """The stages up to the named one; all when none was named."""
        return self.stages[: 1 + next((s.index for s in self.stages if s.name == self.named), len(self.stages))]

    def adapter_stage(self) -> Stage:
        """The named stage, else the last finished one. Raises UserError if not finished."""
        finished = [stage for stage in self.stages if self.named in (None, stage.name) and stage.manifest]
        if finished:
            return finished[-1]
        named = f"{self.path / self.named} is not finished yet." if self.named else None
        raise UserError(named or f"{self.path} holds no finished stage yet.")

    @cached_property
    def ledger(self) -> Mapping[str, Any]:
        """What became of every data source; empty before the run has written it."""
        return read_json(self.path / "ledger.json")

    @cached_property
    def rejected(self) -> tuple[Mapping[str, Any], ...]:
        """The unreadable rows, with the reason of each."""
        return tuple(read_jsonl(self.path / "rejected.jsonl"))

    @property
    def sets(self) -> Sets:
        """The recipe's own test sets, in its order."""
        names = [str(s.get("name")) for s in self._listed("evaluate")]
        return {name: self._evaluated[name] for name in names if name in self._evaluated}

    @property
    def other_sets(self) -> Sets:
        """Test sets given with `adapters eval --data`, or since removed from the recipe."""
        return {name: models for name, models in self._evaluated.items() if name not in self.sets}

    @cached_property
    def _evaluated(self) -> Sets:
        start = next((stage.manifest.get("start_hash") for stage in self.stages), None)
        taught = [as_dict(stage.manifest.get("teachers")) for stage in self.stages]
        teachers = {f"{TEACHER}{d}": as_dict(t).get("weights") for found in taught for d, t in found.items()}
        hashes = {"base": None, START: start, **teachers, **{stage.name: stage.weights_hash for stage in self.stages}}
        order = list(hashes)
        sets: dict[str, list[EvaluatedModel]] = {}
        for folder in sorted((self.path / "eval").glob("*/*/")):
            figures, model = read_figures(folder), folder.parent.name
            if not isinstance(figures.get("metrics"), dict):
                continue
            measured = str(figures.get("key", "")).partition(":")[2].partition(":")[0]
            stale = bool(measured and hashes.get(model)) and measured != hashes[model]
            beside = model in teachers or model not in hashes
            sets.setdefault(folder.name, []).append(EvaluatedModel(model, figures, stale, folder, beside))
        for models in sets.values():
            models.sort(key=lambda m: order.index(m.model) if m.model in order else len(order))
        return {name: tuple(models) for name, models in sets.items()}


def pairs(models: Sequence[EvaluatedModel]) -> list[tuple[EvaluatedModel, EvaluatedModel]]:
    """What is compared on a test set: each model of the run with the one before, and the last with those beside it."""
    own = [m for m in models if not m.beside]
    return [*pairwise(own), *((m, own[-1]) for m in models if m.beside and own)]


def as_dict(value: Any) -> Mapping[str, Any]:
    """The value, or {} for no dict: a damaged run is shown as far as it can be."""
    return value if isinstance(value, dict) else {}


def _recipe(path: Path) -> Mapping[str, Any]:
    return present_keys(read_json(path / "recipe.json"))


def adapter_in(folder: Path) -> Path:
    """The adapter of a folder: itself, or a run's last finished stage. Raises UserError for any other folder."""
    if (folder / adapter_folder.CONFIG).is_file():
        return folder
    if (folder / "recipe.json").is_file():
        return RunFolder.open(folder).adapter_stage().path
    raise UserError(f"{folder} is neither a run folder nor an adapter: it holds no {adapter_folder.CONFIG}.")


def finished_adapter_in(folder: Path) -> Path:
    """The adapter of a folder: itself, or a finished run's last stage. Raises UserError for any other folder.

    A recipe must not go on from one stage today and from another tomorrow.
    """
    adapter = adapter_in(folder)
    if adapter != folder and (missing := [s.name for s in RunFolder.open(folder).stages if not s.manifest]):
        raise UserError(f"{folder} is a run without {missing[0]} yet: name the stage ({adapter}), or finish the run.")
    return adapter


def refuse_links(folder: Path) -> None:
    """Raise UserError for a link in a run folder that leads out of it. The folder itself may be a link."""
    inside = folder.resolve()
    for link in (p for p in folder.rglob("*") if p.is_symlink() and not p.resolve().is_relative_to(inside)):
        raise UserError(f"{link} is a link to a place outside the run folder, where files would be written. Remove it.")


def given_name(file: Path) -> str:
    """Name of a test set given with `adapters eval --data`, unlike any other set's."""
    return f"{file.stem}{GIVEN}{sha256(file)[:8]}"


def read_rollouts(folder: Path | None) -> Iterator[dict[str, Any]]:
    """Graded completions of a stage, one entry per completion and reward."""
    for path in sorted(folder.glob("rollouts-*.jsonl")) if folder else ():
        for _, entry in numbered_jsonl(path):
            if isinstance(entry.get("step"), int) and "completion" in entry:
                yield {**entry, "id": str(entry.get("id"))}
