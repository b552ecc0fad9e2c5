"""A recipe's `noise:` section applied to a source's rows, with statistics."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from adapters.data_aug.noise import Edit, Label, Noise, NoisedRow, Span, find_spans, noise_row, preset
from adapters.data_aug.noise.edits import forward
from adapters.errors import KeyPath, UserError
from adapters.plugins.registry import preset_of, resolve
from adapters.recipe.fields import NoiseSpec
from adapters.types import Row, Task


@dataclass
class NoiseStats:
    """How much of a source was noised, as counts."""

    rows: int = 0
    characters: int = 0
    ids: int = 0
    noisy_rows: int = 0
    noisy_ids: int = 0
    by_family: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, result: NoisedRow, spans: Sequence[Span]) -> None:
        """Count one row. `spans` are the labels' places in the clean text."""
        places = list({span.path: (span.start, span.end) for span in spans if span.kind == "id"}.values())
        self.rows += 1
        self.characters += len(result.noised.source)
        self.ids += len(places)
        self.noisy_rows += bool(result.edits)
        self.noisy_ids += len(result.touched_ids)
        for edits in result.noised.passes:
            counts = self.by_family[edits[0].family]
            counts["rows"] += 1
            counts["characters"] += sum(max(e.end - e.start, len(e.after)) for e in edits)
            counts["ids"] += sum(any(_within(e, *place) for e in edits) for place in places)
            places = [forward(start, end, edits) for start, end in places]

    def shares(self) -> dict[str, Any]:
        """Shares in [0, 1]: of rows, and of rows, characters and ids by family."""
        whole = {"rows": self.rows or 1, "characters": self.characters or 1, "ids": self.ids or 1}
        return {
            "rows": self.noisy_rows / whole["rows"],
            "ids": self.noisy_ids / whole["ids"],
            "by_family": {
                family: {name: round(counts[name] / n, 5) for name, n in whole.items()}
                for family, counts in sorted(self.by_family.items())
            },
        }


def _within(edit: Edit, start: int, end: int) -> bool:
    return start < edit.end and edit.start < end if edit.end > edit.start else start < edit.start < end


@dataclass(frozen=True)
class RowNoiser:
    """A resolved noise with its policy. Noise is a pure function of seed, epoch, row and variant."""

    noise: Noise
    policy: str
    share: float
    seed: int
    keeps_clean: bool = False
    """Whether examples keep the prompt without noise, for a teacher to read."""

    def apply(self, row: Row, task: Task, *, epoch: int, variant: int, stats: NoiseStats) -> Row:
        """The row as this epoch shows it. A row without usable text stays for the task to refuse."""
        text = row.get(task.text_field)
        if not isinstance(text, str) or not text:
            return row
        try:
            result = noise_row(
                row,
                self.noise,
                seed=self.seed,
                epoch=epoch,
                variant=variant,
                policy=self.policy,
                share=self.share,
                field=task.text_field,
                labels=partial(_labels, task),
            )
        except UserError:
            raise
        except Exception as error:  # a noise family is anybody's code
            fault = f"fails on row {row.get('id')!r}: {type(error).__name__}: {error}"
            raise UserError(f"the noise {self.noise.name} {fault}.") from error
        stats.add(result, find_spans(text, _labels(task, row)))
        moved = getattr(task, "moved", None)
        changed: Row = moved(row, result.row, result.noised.to_noisy) if moved and result.edits else result.row
        return changed


def _labels(task: Task, row: Row) -> list[Label]:
    try:
        return list(task.labels(row))
    except Exception as error:  # a task is anybody's code
        fault = f"labels fails on row {row.get('id')!r}: {type(error).__name__}: {error}"
        raise UserError(f"the task {type(task).__name__}: {fault}.", at=("task",)) from error


def make_row_noiser(plug: NoiseSpec, *, seed: int, folder: Path, at: KeyPath) -> RowNoiser:
    """A preset by name and level, or one family with its parameters."""
    if (name := preset_of(plug.use, (*at, "use"))) is not None:
        if plug.params:
            raise UserError(f"the preset {plug.use} takes a level, no parameters.", at=(*at, next(iter(plug.params))))
        noise = preset(name, plug.level)
    else:
        noise = Noise((resolve("noise", plug, folder=folder, at=at),), name=plug.use)
    return RowNoiser(noise, plug.policy, plug.share, seed, keeps_clean=plug.teacher == "clean")
