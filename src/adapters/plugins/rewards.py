"""Rewards of a recipe, resolved, named and probed; one way to call them, whoever calls."""

from __future__ import annotations

import logging
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from adapters.errors import KeyPath, UserError
from adapters.plugins.registry import identity, resolve
from adapters.plugins.reward_worker import Worker
from adapters.plugins.source_files import score_hash
from adapters.recipe.fields import RewardSpec
from adapters.recipe.load import RecipeFile
from adapters.recipe.stages import Grpo
from adapters.types import Example, Reward, Scored

GARBAGE = "]]} this is not an answer {{["
BUDGET_FLOOR = 100
"""Calls that `max_errors` is at least taken of, so that one early failure is not a share of 100 %."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens when a reward fails: see the keys of `adapters.schema.RewardSpec`."""

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
    """What it is, across processes and restarts: the plug-in, its parameters and the hash of its file."""
    faults: Faults = Faults()
    score_hash: str = ""
    """Hash of the scoring code and its parameters."""

    @property
    def record(self) -> dict[str, Any]:
        """What a manifest says about it."""
        return {
            "name": self.name,
            "reward": repr(self.reward) if is_dataclass(self.reward) else self.name,
            "weight": self.weight,
            "score_hash": self.score_hash,
        }


class RewardError(RuntimeError):
    """A reward failed, took too long, or gave what is no score. The message names reward and row."""


def resolve_all(plugs: Sequence[RewardSpec], *, folder: Path, at: KeyPath) -> tuple[NamedReward, ...]:
    """Instances of a stage's rewards, each under a name of its own."""
    out: list[NamedReward] = []
    for n, plug in enumerate(plugs):
        reward = resolve("rewards", plug, folder=folder, at=(*at, n))
        _check_names(reward, plug, (*at, n))
        if plug.timeout is not None:
            _check_pickles(reward, plug, (*at, n, "timeout"))
        name = plug.use.rpartition(":")[2]
        taken = sum(1 for other in out if other.name.rpartition("#")[0] == name or other.name == name)
        out.append(
            NamedReward(
                f"{name}#{taken + 1}" if taken else name,
                reward,
                plug.weight,
                identity(plug, folder),
                Faults(plug.on_error, plug.timeout, plug.max_errors),
                score_hash("rewards", plug, reward, folder),
            )
        )
    return tuple(out)


def _check_names(reward: Reward, plug: RewardSpec, at: KeyPath) -> None:
    # A parameter of that name could never be set: the recipe's own key takes the value.
    own: set[str] = {f.name for f in fields(reward)} if is_dataclass(reward) else set()
    if clash := sorted(own & set(type(plug).model_fields)):
        raise UserError(f"{plug.use} has a parameter {clash[0]!r}, which is a key of every reward; rename it.", at=at)


def _check_pickles(reward: Reward, plug: RewardSpec, at: KeyPath) -> None:
    try:
        pickle.dumps(reward)
    except Exception as error:  # objects may raise anything here
        raise UserError(
            f"{plug.use} cannot be pickled, which running it in a process of its own needs: {error}", at=at
        ) from None


def grade(named: NamedReward, completion: str, example: Example) -> Scored:
    """One direct call. Raises RewardError, naming reward and row, when the reward fails or leaves [0, 1]."""
    try:
        value: Any = named.reward(completion, example)
    except (Exception, SystemExit) as error:
        raise RewardError(
            f"the reward {named.name} failed on row {example.id!r}: {type(error).__name__}: {error}"
        ) from error
    return checked(named.name, value, example)


def checked(name: str, value: Any, example: Example) -> Scored:
    """What a reward returned, as a score. Raises RewardError for what is none."""
    scored = value if isinstance(value, Scored) else Scored(value)
    for part in scored.parts.values():
        if not isinstance(part, int | float):
            raise RewardError(f"the reward {name} gave a part {part!r} for row {example.id!r}, not a number")
    if scored.score is None:
        return scored
    if isinstance(scored.score, bool) or not isinstance(scored.score, int | float) or not math.isfinite(scored.score):
        raise RewardError(f"the reward {name} gave {scored.score!r} for row {example.id!r}, not a number in [0, 1]")
    if not -1e-9 <= scored.score <= 1 + 1e-9:
        raise RewardError(f"the reward {name} gave {scored.score!r} for row {example.id!r}, outside [0, 1]")
    return scored


class Grader:
    """One reward at work under its fault policy, on one process: its calls, its failures and their budget.

    A reward without a `timeout` is called directly.
    """

    def __init__(self, named: NamedReward) -> None:
        self.named = named
        self.calls = self.failures = 0
        self.last_error: str | None = None
        """Why the last call failed; None when it did not."""
        timeout = named.faults.timeout
        self._worker = Worker(named.reward, timeout) if timeout is not None else None

    def __call__(self, completion: str, example: Example) -> Scored:
        """Grade, and do what the policy says of a failure. Raises RewardError when the run has to stop."""
        self.calls += 1
        self.last_error = None
        try:
            return self.attempt(completion, example)
        except RewardError as error:
            faults = self.named.faults
            self.failures += 1
            self.last_error = str(error)
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
        """Grade whatever the policy. Raises RewardError for a failure."""
        if self._worker is None:
            return grade(self.named, completion, example)
        try:
            value = self._worker(completion, example)
        except (RuntimeError, TimeoutError) as error:
            raise RewardError(f"the reward {self.named.name} failed on row {example.id!r}: {error}") from error
        return checked(self.named.name, value, example)

    def close(self) -> None:
        """End the reward's process, if it has one."""
        if self._worker is not None:
            self._worker.stop()

    def __getstate__(self) -> dict[str, Any]:
        """A copy for another process starts its own worker and its own count."""
        return {"named": self.named}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self.__init__(state["named"])  # type: ignore[misc]


def probe(named: NamedReward, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Try a reward on gold, empty and garbage text of a few rows before any model is loaded.

    Raises UserError when it fails, leaves [0, 1], or prefers garbage to gold. Returns a note when it pays garbage as
    much as gold. A reward whose recipe tolerates failures may fail here, except on gold.
    """
    bought, failed = 0, 0
    grader = Grader(named)
    try:
        for example in list(examples)[:20]:
            if example.completion is None:
                continue
            earned: list[float | None] = []
            for text in (example.completion, "", GARBAGE):
                try:
                    earned.append(grader.attempt(text, example).score)
                except RewardError as error:
                    if named.faults.on_error == "raise" or not earned:
                        raise UserError(str(error), at=at) from error
                    failed += 1
                    earned.append(None)
            gold, empty, garbage = earned
            if gold is not None and max(empty or 0, garbage or 0) > gold + 1e-9:
                raise UserError(
                    f"{named.name} prefers empty or broken text ({max(empty or 0, garbage or 0):.3f}) to the gold "
                    f"answer ({gold:.3f}) on row {example.id!r}; a policy would learn that.",
                    at=at,
                )
            bought += gold is not None and garbage == gold > 0
    finally:
        grader.close()
    notes = [f"the reward {named.name} pays broken text as much as gold on {bought} of 20 rows tried"] if bought else []
    if failed:
        notes.append(f"the reward {named.name} fails on empty or broken text; on_error: {named.faults.on_error}")
    return notes


def stage_rewards(file: RecipeFile) -> list[tuple[NamedReward, ...]]:
    """Each stage's rewards, resolved; empty for stages without."""
    return [
        resolve_all(stage.rewards, folder=file.folder, at=("stages", n, "rewards")) if isinstance(stage, Grpo) else ()
        for n, stage in enumerate(file.recipe.stages)
    ]
