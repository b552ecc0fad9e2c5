"""The rows of a recipe: read, tried by its task, and measured by the tokenizer of its backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from adapters import console
from adapters.backends.jobs import Backend
from adapters.data.load import Loaded, load_examples
from adapters.data.noise import make_row_noiser
from adapters.errors import KeyPath, UserError
from adapters.pipeline import distilling, proxy_rows
from adapters.plugins import task_bench
from adapters.plugins.registry import resolve
from adapters.recipe.fields import Source
from adapters.recipe.load import RecipeFile
from adapters.recipe.stages import Distill, Sft, TokenClassification
from adapters.types import Example, Lengths, Row, Task


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


TEST_SEED: Final = 0
"""Draws the rows of test sets."""


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
        # Runs with other seeds are compared on the same test rows.
        seed = TEST_SEED if at[:1] == ("evaluate",) else self.file.recipe.seed
        bad, root = self.file.recipe.max_bad_rows, self.file.data_root
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


def rows_of_stage(read: Reader, n: int) -> tuple[Loaded, float]:
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
