"""A finished run, read from its folder: everything a bundle is made of."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from adapters.backends import adapter_folder
from adapters.errors import UserError
from adapters.files import read_run_json
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward
from adapters.recipe.load import RecipeFile, load_run
from adapters.recipe.publish import REPO, Publish
from adapters.recipe.recipe import Recipe
from adapters.types import Example, Message, Task


@dataclass(frozen=True)
class Stage:
    """One stage that went into the adapter: its folder, and the manifest it was sealed with."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Folder name and label in reports: 1-sft, 2-grpo …"""
        return self.folder.name


@dataclass(frozen=True)
class Finished:
    """A finished run and the stage whose adapter is meant: the last one, unless a stage's folder was named."""

    folder: Path
    file: RecipeFile
    task: Task
    stages: tuple[Stage, ...]
    """Up to the published one."""
    report: dict[str, Any]
    ledger: dict[str, Any]

    @property
    def recipe(self) -> Recipe:
        """The run's recipe, overrides included."""
        return self.file.recipe

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        return self.stages[-1].folder

    @property
    def manifest(self) -> dict[str, Any]:
        """The adapter's manifest."""
        return self.stages[-1].manifest

    @property
    def settings(self) -> Publish:
        """The recipe's `publish:` section, or its defaults."""
        return self.recipe.publish or Publish()

    @property
    def base_id(self) -> str:
        """Hub id of the base model. Raises UserError when the run's base is a folder of unknown origin."""
        if self.settings.base_model:
            return self.settings.base_model
        base = self.recipe.model.base
        found = str(self.manifest.get("model", {}).get("hub_id") or ("" if Path(base).is_dir() else base))
        if not re.match(REPO, found):
            raise UserError(
                f"the base model is the local folder {base!r}; whoever loads the adapter needs its "
                "Hub id: set publish.base_model: owner/name.",
                at=("publish", "base_model"),
            )
        return found

    @property
    def base_revision(self) -> str | None:
        """The commit of the base model that was trained on, where it is known."""
        model = self.manifest.get("model", {})
        found: str | None = model.get("commit") or model.get("revision")
        return found

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """Test set -> label of a model -> its figures, as in `report.json`, where the published stage has them."""
        name = self.stages[-1].name
        return {s: models for s, models in self.report.get("sets", {}).items() if models.get(name)}

    def rewards(self, stage: Stage) -> tuple[NamedReward, ...]:
        """The rewards of a stage, resolved again for what they say about themselves."""
        from adapters.plugins.rewards import stage_rewards

        return stage_rewards(self.file)[int(stage.name.partition("-")[0]) - 1]

    def example(self) -> Example:
        """What the card's usage shows: a row made up for it. Raises UserError when there is none."""
        row = self.settings.example or getattr(self.task, "example_row", None)
        at = ("publish", "example")
        if row is None:
            raise UserError("this task has no example row of its own; give one for the card's usage.", at=at)
        try:
            return self.task.example(row, id="example")
        except ValueError as error:
            raise UserError(f"the task cannot read the example row: {error}", at=at) from None


class Probe(NamedTuple):
    """A prompt, with what the training process answered to it greedily."""

    prompt: tuple[Message, ...]
    completion: str
    truncated: bool


def read(path: Path, overrides: Sequence[str] = ()) -> Finished:
    """A run folder, or one of its stages' folders, with `publish.key=value` overrides.

    Raises UserError when it is no run, is not finished, or an adapter was changed after training.
    """
    stage = path if (path / adapter_folder.MANIFEST).is_file() else None
    folder = path.parent if stage else path
    if not (folder / "recipe.yaml").is_file():
        raise UserError(f"{folder} is no run folder: it holds no recipe.yaml.")
    for override in overrides:
        if not override.startswith("publish."):
            raise UserError(f"{override!r}: a finished run's recipe is what it is; only publish.key=value may change.")
    file = load_run(folder, overrides)
    names = [f"{n + 1}-{s.kind}" for n, s in enumerate(file.recipe.stages)]
    wanted = names[: names.index(stage.name) + 1] if stage and stage.name in names else names
    stages = tuple(Stage(folder / n, adapter_folder.manifest(folder / n) or {}) for n in wanted)
    if unfinished := [s.name for s in stages if not s.manifest]:
        raise UserError(
            f"{folder} is not finished: {unfinished[0]} is missing or damaged. Run the recipe again to complete it."
        )
    for s in stages:
        if problems := adapter_folder.problems(s.folder):
            raise UserError(f"{problems[0]}. Delete {s.folder} and run the recipe again to train that stage again.")
    task: Task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    report = read_run_json(folder / "report.json") if (folder / "report.json").is_file() else {}
    return Finished(folder, file, task, stages, report, read_run_json(folder / "ledger.json"))


def probes(finished: Finished, k: int) -> list[Probe]:
    """Up to k of the answers that the training process stored when it evaluated the adapter, spread over the sets.

    Empty answers are left out where there are others: they prove little.
    """
    found: list[Probe] = []
    for samples in sorted((finished.folder / "eval" / finished.stages[-1].name).glob("*/samples.jsonl")):
        found += [
            Probe(tuple(row["prompt"]), row["completion"], bool(row["truncated"]))
            for row in read_samples(samples)
            if row.get("prompt")
        ]
    found = [p for p in found if p.completion] or found
    return found[:: max(1, len(found) // k)][:k]


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The answers of one model to one test set. Raises UserError when the file is damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError:
        raise UserError(
            f"{path} is damaged. Delete {path.parent}; running the recipe again makes that evaluation again."
        ) from None
