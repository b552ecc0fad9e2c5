"""Which state of a stage is kept: measurements on held-out rows, early stopping, the choice. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from adapters.console import console
from adapters.files import append_jsonl, read_jsonl
from adapters.recipe.stages import Select
from adapters.types import Example, Progress, Sampler

FILE: Final = "held_out.jsonl"
"""The measurements of a stage, in its folder; each with the values of every row, for paired intervals."""
LOGGED: Final = "held_out/"
"""Begin of the figures' names in `log.jsonl`."""

Rows = Sequence[Sequence[float]]
"""Of every held-out row its part of the figure: numerator and denominator, which are summed over the rows."""


class Figure(NamedTuple):
    """A figure, or a change of one, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


class Judge(Protocol):
    """What held-out rows are measured by; see `adapters.evaluation.held_out`."""

    @property
    def metric(self) -> str:
        """The figure's name: f1, reward, or a field."""

    @property
    def examples(self) -> Sequence[Example]:
        """The held-out rows, whose prompts are answered."""

    def rows(self, texts: Sequence[str]) -> Rows:
        """Every row's part, of the answers in the rows' order."""

    def figure(self, rows: Rows) -> Figure:
        """The figure over all rows."""

    def change(self, before: Rows, after: Rows) -> Figure:
        """The difference of two measurements of the same rows, paired."""


@dataclass(frozen=True)
class Selection:
    """How a stage's states are measured."""

    settings: Select
    judge: Judge
    every: int
    max_new_tokens: int
    player: Callable[[Sampler], Sampler] | None = None
    """Makes of a sampler one that plays the episodes of the held-out rows, where the stage has an environment."""

    def texts(self, sampler: Sampler, progress: Progress = lambda *_: None) -> list[str]:
        """Greedy answers to the held-out rows, as an evaluation samples them, or the records of their episodes."""
        asked = self.player(sampler) if self.player else sampler
        prompts = [example.prompt for example in self.judge.examples]
        return [
            sample.text
            for sample in asked(prompts, max_new_tokens=self.max_new_tokens, batch_size=None, progress=progress)
        ]


class Measured(NamedTuple):
    """A state's figure; step 0 is the start of the stage."""

    step: int
    figure: Figure
    rows: Rows


@dataclass
class Course:
    """The measurements of a stage, stored in its folder as they come.

    A measurement that is stored is not repeated when a run goes on, and what was decided by it is decided again.
    """

    selection: Selection
    steps: int
    name: str
    measured: list[Measured] = field(default_factory=list)

    def due(self, step: int) -> bool:
        """Whether the state after a step is to be measured."""
        return step % self.selection.every == 0 or step == self.steps

    def at(self, step: int) -> Measured | None:
        """The measurement of a step."""
        return next((m for m in self.measured if m.step == step), None)

    def add(self, step: int, rows: Rows) -> Measured:
        """Note the measurement of one more step."""
        new = Measured(step, self.selection.judge.figure(rows), rows)
        self.measured.append(new)
        return new

    def best(self, until: int | None = None) -> Measured | None:
        """The best state after the start, the first of equal ones."""
        trained = [m for m in self.measured if m.step and (until is None or m.step <= until)]
        return max(trained, key=lambda m: m.figure.value, default=None)  # of equal ones max takes the first

    @property
    def last_step(self) -> int:
        """The step at which the stage ends: where patience ran out, else the planned one."""
        patience, since = self.selection.settings.patience, 0
        for m in sorted(m for m in self.measured if m.step):
            since = 0 if self.best(m.step) is m else since + 1
            if since == patience:
                return m.step
        return self.steps

    @property
    def start(self) -> Measured:
        """The measurement of the start."""
        return next(m for m in self.measured if not m.step)

    def outcome(self, last: int) -> dict[str, Any]:
        """Which state is kept, after `last` steps, and why: for the manifest, with `text` for people."""
        settings, judge = self.selection.settings, self.selection.judge
        end = next(m for m in self.measured if m.step == last)
        best = end if settings.keep == "last" else self.best(last) or end
        change = judge.change(self.start.rows, best.rows)
        kept = self.start if settings.keep == "better" and change.value < 0 else best
        return {
            "metric": judge.metric,
            "step": kept.step,
            "value": kept.figure.value,
            "interval": list(kept.figure[1:]),
            "rows": len(judge.examples),
            "start": self.start.figure.value,
            "best": best.figure.value,
            "best_step": best.step,
            "end": end.figure.value,
            "end_step": last,
            "change": change.value,
            "change_interval": list(change[1:]),
            "kept": "start" if kept is self.start else "last" if kept is end else "best",
            "stopped_early": last < self.steps,
            "text": _text(self, kept, best, end, change),
        }

    def announce(self, measured: Measured) -> None:
        """Print a measurement on the screen."""
        best = max(self.measured, key=lambda m: m.figure.value)
        note = "the start" if not measured.step else "the best so far" if best is measured else ""
        text = f"{self.name}: step {measured.step:,}, held-out {self.selection.judge.metric} {_figure(measured.figure)}"
        console(stderr=True).print(f"{text}{note and f', {note}'}", markup=False, soft_wrap=True)


def read(folder: Path, selection: Selection) -> list[Measured]:
    """The measurements that a folder holds, of the same rows."""
    n = len(selection.judge.examples)
    return [
        Measured(r["step"], Figure(r["value"], r["low"], r["high"]), r["rows"])
        for r in read_jsonl(folder / FILE)
        if isinstance(r.get("step"), int) and len(r.get("rows") or ()) == n
    ]


def store(folder: Path, measured: Measured) -> None:
    """Add a measurement to a folder's file."""
    figure = measured.figure._asdict()
    append_jsonl(folder / FILE, [{"step": measured.step, **figure, "rows": measured.rows}], sync=True)


def log(folder: Path, metric: str, measured: Measured) -> None:
    """Add a measurement to a stage's log."""
    name, (value, low, high) = f"{LOGGED}{metric}", measured.figure
    append_jsonl(folder / "log.jsonl", [{"step": measured.step, name: value, f"{name}/low": low, f"{name}/high": high}])


def _figure(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _text(course: Course, kept: Measured, best: Measured, end: Measured, change: Figure) -> str:
    """One sentence on the choice, for screen, report and card."""
    judge, start = course.selection.judge, course.start
    rows, moved = f"{len(judge.examples):,} held-out rows", "{:+.3f} ({:+.3f} to {:+.3f})".format(*change)
    if kept is start:
        return (
            f"no trained state is kept, but the weights that the stage started from: on {rows} the best state (step "
            f"{best.step:,}) has {judge.metric} {best.figure.value:.3f} and the start {start.figure.value:.3f}, a "
            f"change of {moved}"
        )
    stopped = f", where it stopped early of {course.steps:,}" if end.step < course.steps else ""
    return (
        f"the state of step {kept.step:,} is kept: {judge.metric} {_figure(kept.figure)} on {rows}, "
        f"{start.figure.value:.3f} at the start (a change of {moved}), {end.figure.value:.3f} at the end (step "
        f"{end.step:,}{stopped})"
    )
