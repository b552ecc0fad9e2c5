"""Jobs and evaluations (a stage or test set with everything resolved), and the backend that trains and samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.backends import adapter_folder
from adapters.data.load import Rejected
from adapters.plugins.rewards import NamedReward
from adapters.recipe.stages import Stage
from adapters.types import Example, Lengths, Progress, Sampler


@dataclass(frozen=True)
class Job:
    """A stage with everything resolved. `fingerprint` covers what it would learn from, chained to the stage before."""

    index: int
    stage: Stage
    folder: Path
    examples: tuple[Example, ...]
    validation: tuple[Example, ...]
    rewards: tuple[NamedReward, ...]
    fingerprint: str
    steps: int
    ledger: list[dict[str, Any]]
    rejected: list[Rejected]
    texts: Set[str]
    """The texts of the clean rows (`data.text_key`)."""
    by_source: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The same, row by row, by source."""
    lengths: list[dict[str, Any]] = field(default_factory=list)
    """What the length limits cost, by source (`adapters.lengths`); empty when there is no tokenizer."""
    too_long: int = 0
    tokens: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Folder name and label in reports: 1-sft, 2-grpo …"""
        return self.folder.name

    def is_complete(self, start: Path | None) -> bool:
        """Whether the folder holds this very job's finished adapter, trained from what `start` holds now."""
        held = adapter_folder.manifest(self.folder)
        if held is None or held.get("fingerprint") != self.fingerprint or adapter_folder.problems(self.folder):
            return False
        return bool(held.get("start_hash") == adapter_folder.weights_hash(start))


@dataclass(frozen=True)
class Evaluation:
    """A test set with everything resolved."""

    name: str
    examples: tuple[Example, ...]
    max_new_tokens: int
    batch_size: int | None
    fingerprint: str
    leaked: int
    ledger: list[dict[str, Any]]
    rejected: list[Rejected]
    variants: int = 1
    """How many times each row stands among the examples, one whole set of rows after the other."""
    by_source: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lengths: list[dict[str, Any]] = field(default_factory=list)
    beyond: int = 0
    """Gold answers longer than max_new_tokens: no model can score on them in full."""

    @property
    def texts(self) -> list[str]:
        """The text of every row, once, whatever the number of variants."""
        return [text for rows in self.by_source.values() for text in rows]


class Backend(Protocol):
    """Where training and sampling happen."""

    def check(self, stages: Sequence[Any]) -> list[str]:
        """Everything knowable about the stages' options without loading weights.

        Returns notes worth showing; raises UserError for what cannot work.
        """

    def lengths(self, examples: Sequence[Example]) -> list[Lengths]:
        """Tokens of each example. Raises UserError when the tokenizer cannot be had."""

    def train(self, job: Job, start: Path | None, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Train one job from the adapter in `start` (None: a new one) and write the adapter into `folder`.

        Continues from the folder's own checkpoints if it has any. Returns figures for the manifest.
        """

    def sampler(self, adapter: Path | None) -> Sampler:
        """Load the base model with an adapter, or alone."""

    def barrier(self) -> None:
        """Wait for the other processes of this run."""
