"""A finished run, read from its folder: all that a bundle is made of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from adapters.backends import adapter_folder
from adapters.errors import UserError
from adapters.evaluation.evaluate import SetFigures
from adapters.files import read_json, read_run_json
from adapters.pipeline.run_folder import START, EvaluatedModel, RunFolder, Stage, refuse_links
from adapters.plugins.registry import resolve
from adapters.plugins.trust import Consent
from adapters.recipe.load import RecipeFile
from adapters.recipe.publish import REPO, Publish
from adapters.recipe.recipe import Recipe
from adapters.types import Example, Message, Task


@dataclass(frozen=True)
class Finished:
    """A finished run up to the stage whose adapter is published."""

    run: RunFolder
    file: RecipeFile
    task: Task
    stages: tuple[Stage, ...]
    ledger: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.path

    @property
    def recipe(self) -> Recipe:
        """The run's recipe, overrides included."""
        return self.file.recipe

    @property
    def adapter(self) -> Path:
        """The adapter's folder."""
        return self.stages[-1].path

    @property
    def manifest(self) -> Mapping[str, Any]:
        """The adapter's manifest."""
        return self.stages[-1].manifest

    @property
    def labels(self) -> tuple[str, ...]:
        """The models that the card shows, in their order: the base, the adapter that it starts from, the stages."""
        return ("base", START, *(stage.name for stage in self.stages))

    @property
    def history(self) -> list[Mapping[str, Any]]:
        """The stages of other runs that trained the adapter that the first stage starts from; see `starting`."""
        return list(self.stages[0].manifest.get("history") or ())

    @property
    def settings(self) -> Publish:
        """The recipe's `publish:` section or its defaults."""
        return self.recipe.publish or Publish()

    @property
    def base_id(self) -> str:
        """Hub id of the base model. Raises UserError when it is unknown."""
        if self.settings.base_model:
            return self.settings.base_model
        base = self.recipe.model.base
        hub_id = str(self.manifest.get("model", {}).get("hub_id") or ("" if Path(base).is_dir() else base))
        if not re.fullmatch(REPO, hub_id):
            raise UserError(
                f"the base model is the local folder {base!r}; others need its Hub id to load the adapter. "
                "Set publish.base_model: owner/name.",
                at=("publish", "base_model"),
            )
        return hub_id

    @property
    def base_revision(self) -> str | None:
        """The base model's commit, where it is known."""
        model: Mapping[str, str | None] = self.manifest.get("model", {})
        return model.get("commit") or model.get("revision")

    @property
    def evaluated(self) -> dict[str, EvaluatedModel]:
        """The published stage's evaluations on the recipe's test sets."""
        name = self.stages[-1].name
        return {s: model for s, models in self.run.sets.items() for model in models if model.model == name}

    @property
    def figures(self) -> dict[str, dict[str, SetFigures]]:
        """Test set -> `base` or stage -> figures, for the sets of `evaluated`."""
        return {name: {m.model: m.figures for m in self.run.sets[name]} for name in self.evaluated}

    @property
    def longest_answer(self) -> int:
        """Most tokens of an answer that was evaluated."""
        name = self.stages[-1].name
        return max((models[name]["max_new_tokens"] for models in self.figures.values()), default=1024)

    def example(self) -> Example:
        """The made-up row that the card's usage shows. Raises UserError without one."""
        return example(self.task, self.settings)


def example(task: Task, settings: Publish) -> Example:
    """The made-up row of the recipe, or the task's own. Raises UserError when there is none or it cannot be read."""
    at, row = ("publish", "example"), settings.example or getattr(task, "example_row", None)
    if row is None:
        raise UserError("this task has no example row of its own; give one for the card's usage.", at=at)
    try:
        return task.example(row, id="example")
    except ValueError as error:
        raise UserError(f"the task cannot read the example row: {error}", at=at) from None


class Probe(NamedTuple):
    """A prompt with the greedy answer that the run's evaluation stored."""

    prompt: tuple[Message, ...]
    completion: str
    truncated: bool


def read(path: Path, overrides: Sequence[str] = (), consent: Consent | None = None) -> Finished:
    """The run of a run's or a stage's folder, with `publish.key=value` overrides.

    Raises UserError when it is no run, is not finished, or holds an adapter or evaluation that is damaged or outdated,
    and Refused when it names code that is not of this machine and nobody consents.
    """
    run = RunFolder.open(path)
    if other := [override for override in overrides if not override.startswith("publish.")]:
        raise UserError(f"{other[0]!r}: of a finished run's recipe only publish.key=value can be changed.")
    refuse_links(run.path)
    file = run.recipe_file(overrides, consent=consent)
    stages = run.stages_up_to_named()
    if missing := [s.name for s in stages if not s.manifest]:
        raise UserError(
            f"{run.path} is not finished: {missing[0]} is missing or damaged. Run the recipe again to complete it."
        )
    for stage in stages:
        if problems := adapter_folder.problems(stage.path):
            raise UserError(f"{problems[0]}. Delete {stage.path} and run the recipe again to train that stage again.")
    if read_json(stages[-1].path / adapter_folder.CONFIG).get("peft_type") == "ECHO":
        raise UserError(
            f"{stages[-1].path} was made with `trainer: echo`, which trains no model: there is nothing to publish or "
            "merge. Run the recipe with trainer: local or trainer: tinker."
        )
    task: Task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    finished = Finished(run, file, task, stages, read_run_json(run.path / "ledger.json"))
    for test in file.recipe.evaluate:
        folder = run.path / "eval" / stages[-1].name / test.name
        model = finished.evaluated.get(test.name)
        if model.stale if model else (folder / "samples.jsonl").is_file():
            reason = f"was measured on other weights than {stages[-1].name} holds now" if model else "is damaged"
            raise UserError(f"{folder} {reason}. Run the recipe again, which repeats that evaluation.")
    return finished


def probes(finished: Finished, k: int) -> list[Probe]:
    """Up to k answers of the run's evaluations, empty ones only where all are; episodes are no single answers."""
    played = {test.name for test in finished.recipe.evaluate if test.environment}
    answers = [
        Probe(tuple(row["prompt"]), row["completion"], bool(row["truncated"]))
        for name, model in finished.evaluated.items()
        if name not in played
        for row in model.checked_samples()
        if row.get("prompt")
    ]
    answers = [p for p in answers if p.completion] or answers
    return answers[:: max(1, len(answers) // k)][:k]
