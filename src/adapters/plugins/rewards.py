"""Rewards of a recipe: resolved and named."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from adapters.errors import KeyPath, UserError
from adapters.plugins.registry import offered, resolve
from adapters.plugins.reward_worker import pickled_reward
from adapters.plugins.source_files import identity, score_hash
from adapters.recipe.fields import RewardSpec
from adapters.recipe.load import RecipeFile
from adapters.types import Reward

GARBAGE = "]]} this is not an answer {{["
ASYNC_CALLS = 16
"""Calls of an async reward at a time, if the recipe says nothing."""


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
    parallel: int | None = None
    """Calls at a time, as the recipe has it."""
    use: str = ""
    """What the recipe calls it by."""

    @property
    def is_async(self) -> bool:
        """Whether its calls are to be awaited."""
        calls: tuple[Any, ...] = (self.reward, type(self.reward).__call__)
        return any(map(inspect.iscoroutinefunction, calls))

    @property
    def calls_at_once(self) -> int:
        """Calls that are made at the same time, at most."""
        return self.parallel or (ASYNC_CALLS if self.is_async else 1)

    @property
    def record(self) -> dict[str, Any]:
        """Its entry in a stage's manifest."""
        return {
            "name": self.name,
            "reward": repr(self.reward) if is_dataclass(self.reward) else self.name,
            "weight": self.weight,
            "score_hash": self.score_hash,
        }


def resolve_all(specs: Sequence[RewardSpec], *, folder: Path, at: KeyPath) -> tuple[NamedReward, ...]:
    """The rewards of a stage as instances, each under a unique name."""
    out: dict[str, NamedReward] = {}
    for n, spec in enumerate(specs):
        reward = resolve("rewards", spec, folder=folder, at=(*at, n))
        _check_names(reward, spec, (*at, n))
        check_signature(reward, spec.use, (*at, n))
        is_async = NamedReward("", reward).is_async
        if spec.timeout is not None and not is_async:
            _check_pickles(reward, spec, (*at, n, "timeout"))
        name = spec.use.rpartition(":")[2]
        if taken := sum(name in (other, other.rpartition("#")[0]) for other in out):
            name = f"{name}#{taken + 1}"
        code = identity("rewards", spec, reward, folder)
        faults = FaultPolicy(spec.on_error, spec.timeout, spec.max_errors)
        scoring = score_hash("rewards", spec, reward, folder)
        out[name] = NamedReward(name, reward, spec.weight, code, faults, scoring, spec.parallel, spec.use)
    return tuple(out.values())


def _check_names(reward: Reward, spec: RewardSpec, at: KeyPath) -> None:
    # A parameter of that name could never be set: the recipe's own key takes the value.
    parameters: set[str] = {f.name for f in fields(reward)} if is_dataclass(reward) else set()
    if clash := sorted(parameters & set(type(spec).model_fields)):
        raise UserError(f"{spec.use} has a parameter {clash[0]!r}, which is a key of every reward; rename it.", at=at)


def _check_pickles(reward: Reward, spec: RewardSpec, at: KeyPath) -> None:
    try:
        pickled_reward(reward)
    except TypeError as error:
        raise UserError(f"{error}.", at=at) from None


def check_signature(reward: Reward, use: str, at: KeyPath = ()) -> None:
    """Refuse what is not called with (completion, example), such as a reward of another trainer. Raises UserError."""
    try:
        signature = inspect.signature(reward)
    except (TypeError, ValueError):  # no Python code
        return
    name = use.rpartition(":")[2]
    call = f"`def {name}(" if inspect.isfunction(reward) else "`def __call__(self, "
    wanted = f"Here a reward scores one completion: write {call}completion, example)`, which returns a number in [0, 1]"
    if {"solution_str", "solution_strs"} & signature.parameters.keys():
        kind = "as verl's score functions do"
        wanted += "; solution_str is `completion`, ground_truth `example.gold`, extra_info `example.meta`"
    elif "completions" in signature.parameters:
        kind = "as TRL's reward functions do"
        wanted += "; the row's gold is `example.gold`, its prompt `example.prompt`"
    elif _takes_two(signature):
        return
    else:
        kind = "which is not (completion, example)"
    raise UserError(f"{use} takes {signature}, {kind}. {wanted}.", at=at)


def _takes_two(signature: inspect.Signature) -> bool:
    """Whether it can be called with completion and example. A completion in the second place would get the example."""
    first, second = [*signature.parameters, "", ""][:2]
    if first == "prompt" or second == "completion":
        return False
    try:
        signature.bind("", None)
    except TypeError:
        return False
    return True


def task_of(reward: Reward | None, name: str, given: str | None = None) -> str | None:
    """The task of a reward's rows: the given, its `task` attribute, or the one of its name."""
    return given or getattr(reward, "task", None) or (name if offered("tasks", name) else None)


def once_each(stages: Iterable[tuple[str, Sequence[NamedReward]]]) -> list[NamedReward]:
    """The rewards of all stages (name, rewards), each scoring once.

    One that has the name of another, and scores otherwise, gets the name of its stage too.
    """
    out: dict[tuple[str, str], NamedReward] = {}
    for stage, rewards in stages:
        for reward in rewards:
            taken = any(name == reward.name for name, _ in out)
            named = replace(reward, name=f"{reward.name} ({stage})") if taken else reward
            out.setdefault((reward.name, reward.score_hash), named)
    return list(out.values())


def stage_rewards(file: RecipeFile) -> list[tuple[NamedReward, ...]]:
    """The rewards of each stage; empty for stages that have none."""
    return [
        resolve_all(getattr(stage, "rewards", ()), folder=file.folder, at=("stages", n, "rewards"))
        for n, stage in enumerate(file.recipe.stages)
    ]
