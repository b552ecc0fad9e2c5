"""Rewards of a recipe: resolved, named, called under their fault policy, probed."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from adapters.errors import KeyPath, UserError
from adapters.plugins.registry import names, resolve
from adapters.plugins.reward_worker import Worker
from adapters.plugins.source_files import identity, score_hash
from adapters.recipe.fields import RewardSpec
from adapters.recipe.load import RecipeFile
from adapters.recipe.stages import Grpo
from adapters.types import Example, Reward, Scored

GARBAGE = "]]} this is not an answer {{["
BUDGET_FLOOR = 100
"""`max_errors` is a share of at least this many calls: one failure among the first calls is not 100 %."""


@dataclass(frozen=True, slots=True)
class FaultPolicy:
    """What happens when a reward fails: the keys of `RewardSpec` with these names."""

    on_error: str = "raise"
    timeout: float | None = None
    max_errors: float = 0.02


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A configured reward under the name its figures are logged by."""

    name: str
    reward: Reward
    weight: float = 1.0
    identity: str = ""
    """Its part of a stage's fingerprint: see `source_files.identity`."""
    faults: FaultPolicy = FaultPolicy()
    score_hash: str = ""
    """Hash of the scoring code and its parameters; evaluations are reused by it."""

    @property
    def record(self) -> dict[str, Any]:
        """Its entry in a stage's manifest."""
        return {
            "name": self.name,
            "reward": repr(self.reward) if is_dataclass(self.reward) else self.name,
            "weight": self.weight,
            "score_hash": self.score_hash,
        }


class RewardError(RuntimeError):
    """A reward failed, took too long, or returned no valid score. The message names reward and row."""


def resolve_all(specs: Sequence[RewardSpec], *, folder: Path, at: KeyPath) -> tuple[NamedReward, ...]:
    """The rewards of a stage as instances, each under a unique name."""
    out: dict[str, NamedReward] = {}
    for n, spec in enumerate(specs):
        reward = resolve("rewards", spec, folder=folder, at=(*at, n))
        _check_names(reward, spec, (*at, n))
        if spec.timeout is not None:
            _check_pickles(reward, spec, (*at, n, "timeout"))
        name = spec.use.rpartition(":")[2]
        if taken := sum(name in (other, other.rpartition("#")[0]) for other in out):
            name = f"{name}#{taken + 1}"
        code = identity("rewards", spec, reward, folder)
        faults = FaultPolicy(spec.on_error, spec.timeout, spec.max_errors)
        scoring = score_hash("rewards", spec, reward, folder)
        out[name] = NamedReward(name, reward, spec.weight, code, faults, scoring)
    return tuple(out.values())


def _check_names(reward: Reward, spec: RewardSpec, at: KeyPath) -> None:
    # A parameter of that name could never be set: the recipe's own key takes the value.
    parameters: set[str] = {f.name for f in fields(reward)} if is_dataclass(reward) else set()
    if clash := sorted(parameters & set(type(spec).model_fields)):
        raise UserError(f"{spec.use} has a parameter {clash[0]!r}, which is a key of every reward; rename it.", at=at)


def _check_pickles(reward: Reward, spec: RewardSpec, at: KeyPath) -> None:
    try:
        pickle.dumps(reward)
    except Exception as error:  # objects may raise anything here
        raise UserError(
            f"{spec.use} cannot be pickled, which running it in a process of its own needs: {error}", at=at
        ) from None


def task_of(reward: Reward | None, name: str, given: str | None = None) -> str | None:
    """The task of a reward's rows: the given, its `task` attribute, or the one of its name."""
    return given or getattr(reward, "task", None) or (name if name in names("tasks") else None)


def checked(name: str, value: Any, example: Example) -> Scored:
    """A reward's result as a score, without parts that are not finite. Raises RewardError."""

    def error(given: str, wanted: str) -> RewardError:
        return RewardError(f"the reward {name} gave {given} for row {example.id!r}, {wanted}")

    score, parts = value if isinstance(value, Scored) else Scored(value)
    if not isinstance(parts, Mapping):
        raise error(f"parts of type {type(parts).__name__}", "not a mapping")
    for part in parts.values():
        if not isinstance(part, int | float):
            raise error(f"a part {part!r}", "not a number")
    if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or not _finite(score)):
        raise error(repr(score), "not a number in [0, 1]")
    if score is not None and not -1e-9 <= score <= 1 + 1e-9:
        raise error(repr(score), "outside [0, 1]")
    return Scored(score, {part: value for part, value in parts.items() if _finite(value)})


def _finite(value: float) -> bool:
    # Not math.isfinite, which fails on an integer that is too large for a float.
    return abs(value) <= sys.float_info.max


class Grader:
    """Calls a reward under its fault policy, with a `timeout` in its own process. Counts are per process."""

    def __init__(self, named: NamedReward) -> None:
        self.named = named
        self.calls = self.failures = 0
        self.last_error: str | None = None
        """Why the last call failed; None when it did not."""
        timeout = named.faults.timeout
        self._worker = Worker(named.reward, timeout) if timeout is not None else None

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score a completion under the fault policy. Raises RewardError when the run must stop."""
        self.calls += 1
        self.last_error = None
        try:
            return self.attempt(completion, example)
        except RewardError as error:
            faults, self.last_error = self.named.faults, str(error)
            self.failures += 1
            if faults.on_error == "raise":
                raise
            if self.failures > faults.max_errors * max(self.calls, BUDGET_FLOOR):
                raise RewardError(
                    f"{self.failures} of {self.calls} calls failed, more than max_errors ({faults.max_errors:.1%}) "
                    f"allows; the last: {error}"
                ) from error
            logging.getLogger(__name__).warning("%s", error)
            return Scored(0.0 if faults.on_error == "zero" else None)

    def attempt(self, completion: str, example: Example) -> Scored:
        """Score a completion without the policy. Raises RewardError for every failure."""
        try:
            value: Any = (self._worker or self.named.reward)(completion, example)
        except (Exception, SystemExit) as error:
            reason = str(error) if self._worker else f"{type(error).__name__}: {error}"
            raise RewardError(f"the reward {self.named.name} failed on row {example.id!r}: {reason}") from error
        return checked(self.named.name, value, example)

    def close(self) -> None:
        """Stop the reward's process, if it has one."""
        if self._worker is not None:
            self._worker.stop()

    def __getstate__(self) -> dict[str, Any]:
        return {"named": self.named}  # a copy in another process starts its own worker and counts anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["named"])  # type: ignore[misc]


def probe(named: NamedReward, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Try a reward on gold, empty and garbage text of 20 rows before any model is loaded.

    Raises UserError when it fails, leaves [0, 1], or scores garbage higher than gold. Returns notes. A reward with
    `on_error` zero or skip may fail here, except on gold.
    """
    as_gold, failed = 0, 0
    grader = Grader(named)
    try:
        for example in examples[:20]:
            if example.completion is None:
                continue
            scores: list[float | None] = []
            for text in (example.completion, "", GARBAGE):
                try:
                    scores.append(grader.attempt(text, example).score)
                except RewardError as error:
                    if named.faults.on_error == "raise" or not scores:
                        raise UserError(str(error), at=at) from error
                    failed += 1
                    scores.append(None)
            gold, best = scores[0], max(score or 0 for score in scores[1:])
            if gold is not None and best > gold + 1e-9:
                raise UserError(
                    f"{named.name} scores empty or broken text ({best:.3f}) higher than the gold answer ({gold:.3f}) "
                    f"on row {example.id!r}; the model would learn to write such text.",
                    at=at,
                )
            as_gold += gold is not None and scores[2] == gold > 0
    finally:
        grader.close()
    notes: list[str] = []
    if as_gold:
        notes.append(f"the reward {named.name} scores broken text as high as gold on {as_gold} of 20 rows tried")
    if failed:
        notes.append(f"the reward {named.name} fails on empty or broken text; on_error: {named.faults.on_error}")
    return notes


def stage_rewards(file: RecipeFile) -> list[tuple[NamedReward, ...]]:
    """The rewards of each stage; empty for stages other than GRPO."""
    return [
        resolve_all(stage.rewards, folder=file.folder, at=("stages", n, "rewards")) if isinstance(stage, Grpo) else ()
        for n, stage in enumerate(file.recipe.stages)
    ]
