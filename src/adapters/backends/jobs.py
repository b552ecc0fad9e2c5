"""Jobs and evaluations (resolved stages and test sets), and the backend protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

from adapters.backends import adapter_folder
from adapters.backends.constraint import Constraint
from adapters.backends.selection import Selection
from adapters.data.load import Rejected
from adapters.plugins.environments import NamedEnvironment
from adapters.plugins.rewards import NamedReward
from adapters.recipe.stages import Stage
from adapters.types import Example, Lengths, Progress, Sampler


class Reading(NamedTuple):
    """How an encoder reads a row: sub-words of its question, of a window, and how many windows it takes."""

    instruction: int
    max_length: int
    windows: int

    @property
    def fits(self) -> bool:
        """Whether a window has room for text beside the question and the special tokens."""
        return self.max_length - self.instruction - 2 >= LEAST_TEXT


LEAST_TEXT: Final = 16
"""Sub-words of text that a window must have room for."""


@dataclass(frozen=True)
class Job:
    """A resolved stage."""

    index: int
    stage: Stage
    folder: Path
    examples: Sequence[Example]
    validation: tuple[Example, ...]
    rewards: tuple[NamedReward, ...]
    fingerprint: str
    """Hash of what the stage learns from, chained to the stage before."""
    steps: int
    ledger: list[dict[str, Any]]
    rejected: list[Rejected]
    texts: Set[int]
    """Hashes of the texts of the clean rows (`data.examples.text_key`)."""
    by_source: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The text of every row, by source."""
    lengths: list[dict[str, Any]] = field(default_factory=list)
    """Token lengths and dropped rows by source (`data.lengths`); empty without a tokenizer."""
    too_long: int = 0
    tokens: dict[str, float] = field(default_factory=dict)
    beyond: Sequence[Example] = ()
    """Of GRPO, the rows that are dropped because their gold answer is longer than max_completion_length."""
    longest_answer: int = 0
    """Tokens of the longest gold answer, dropped or not."""
    answer_tokens: int = 0
    """Of a stage with `samples`, the most tokens of an answer that is sampled."""
    select: Selection | None = None
    """What the held-out rows are measured by while the stage trains; None: the last state is kept."""
    environment: NamedEnvironment | None = None

    @property
    def all_rewards(self) -> tuple[NamedReward, ...]:
        """The rewards of GRPO, that of its environment first."""
        return (*([self.environment.reward] if self.environment else ()), *self.rewards)

    @property
    def name(self) -> str:
        """Folder name and label in reports: 1-sft, 2-grpo, …"""
        return self.folder.name

    def is_complete(self, start: Path | None) -> bool:
        """Whether the folder holds this job's adapter, trained from `start` as it is now."""
        manifest = adapter_folder.manifest(self.folder)
        if manifest is None or manifest.get("fingerprint") != self.fingerprint or adapter_folder.problems(self.folder):
            return False
        return bool(manifest.get("start_hash") == adapter_folder.content_hash(start))


@dataclass(frozen=True)
class Earlier:
    """A stage of another run that trained the adapter which a recipe starts from."""

    name: str
    """Run and stage: base/1-sft."""
    stage: Stage
    examples: Sequence[Example]
    """The rows that it was trained on."""
    texts: Set[int]
    """Hashes of the texts of all its rows."""
    by_source: Mapping[str, Sequence[str]]


PICKED: Final = "+"
"""Part of the names of test sets that are answered in another way too: NAME+HOWk, picked; NAME+HOW, constrained."""


class Picking(NamedTuple):
    """How an answer is picked from several; see `adapters.evaluation.picking`."""

    samples: int
    how: Literal["likelihood", "vote"]
    temperature: float


@dataclass(frozen=True)
class Evaluation:
    """A resolved test set."""

    name: str
    examples: Sequence[Example]
    max_new_tokens: int
    batch_size: int | None
    fingerprint: str
    leaked: int
    ledger: list[dict[str, Any]]
    rejected: list[Rejected]
    variants: int = 1
    """Prompt variants of each row; `examples` lists all rows in one variant, then in the next."""
    by_source: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lengths: list[dict[str, Any]] = field(default_factory=list)
    picking: Picking | None = None
    picked: bool = False
    """Whether each answer is picked from several, as `picking` says."""
    constraint: Constraint | None = None
    constrained: bool = False
    """Whether each answer keeps to `constraint`."""
    annotator: str | None = None
    """Who made the gold answers, where the rows say so: human, or the name of a model."""
    beyond: int = 0
    """Gold answers longer than `max_new_tokens`, on which no model can score in full."""
    environment: NamedEnvironment | None = None
    """What the rows are played in; None: they are answered."""

    @property
    def rows(self) -> int:
        """Number of rows, prompt variants left out."""
        return sum(map(len, self.by_source.values()))

    @property
    def texts(self) -> Iterator[str]:
        """The text of every row, once."""
        return chain.from_iterable(self.by_source.values())

    @property
    def ways(self) -> list[Evaluation]:
        """The test set with free single answers and, if the recipe wants it, with picked and with constrained ones."""
        out = [self]
        if self.picking is not None:
            k, how, temperature = self.picking
            fingerprint = f"{self.fingerprint}-{how}-{k}-{temperature}"
            out.append(replace(self, name=f"{self.name}{PICKED}{how}{k}", fingerprint=fingerprint, picked=True))
        if self.constraint is not None:
            word = self.constraint.how
            fingerprint = f"{self.fingerprint}-constrain-{word}"
            out.append(replace(self, name=f"{self.name}{PICKED}{word}", fingerprint=fingerprint, constrained=True))
        return out


class Backend(Protocol):
    """Where training and sampling happen."""

    def check(self, stages: Sequence[Any]) -> list[str]:
        """Check the stages' options without loading weights; returns notes.

        Raises UserError for what cannot work.
        """

    def lengths(self, examples: Sequence[Example]) -> Sequence[Lengths]:
        """Tokens of each example. Raises UserError when the tokenizer cannot be loaded."""

    def sequences(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples that SFT trains. Raises UserError likewise.

        A conversation of several turns to be learned becomes one example for each, where the chat template writes an
        earlier turn in another way than the model would be asked for it.
        """

    def train(self, job: Job, start: Path | None, folder: Path, progress: Progress) -> Mapping[str, Any]:
        """Train a job from the adapter in `start` (None: a new one) into `folder`.

        Resumes from the folder's own checkpoints. Returns figures for the manifest.
        """

    def sampler(self, adapter: Path | None) -> Sampler:
        """Load the base model with an adapter, or alone."""

    def barrier(self) -> None:
        """Wait for the other processes of this run."""
