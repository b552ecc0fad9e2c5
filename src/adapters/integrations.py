"""Rewards of this project in other trainers: TRL's own `GRPOTrainer`, and verl.

from adapters.integrations import trl_reward, verl_score

trainer = GRPOTrainer(..., reward_funcs=[trl_reward("funding", scorer="corrected")])
compute_score = verl_score("funding", scorer="corrected")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.plugins.registry import resolve
from adapters.plugins.rewards import Grader, NamedReward, resolve_all, task_of
from adapters.plugins.rollouts import RewardCaller
from adapters.recipe.fields import PluginSpec, RewardSpec
from adapters.types import Example, Row, Task

TRL_KEYS = ("prompts", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def named_reward(use: str, *, folder: Path | None = None, **params: Any) -> NamedReward:
    """A reward from what a recipe's `rewards:` entry holds. Raises UserError when it cannot be resolved."""
    spec = RewardSpec.model_validate({"use": use, **params})
    return resolve_all([spec], folder=folder or Path(), at=())[0]


def read_example(task: Task | None, row: Row, number: int = 0) -> Example:
    """A dataset row as the example that a reward sees.

    With a task, the task reads the row, and its target text where the row has the input text. Without one, the
    column `gold` is the gold and `target` the target text.
    """
    id = str(row.get("id", number))
    if task is None:
        meta = {k: v for k, v in row.items() if k not in ("gold", "target")}
        return Example(id=id, source="", prompt=(), completion=row.get("target"), gold=row.get("gold"), meta=meta)
    if row.get(task.text_field):
        return task.example(row, id=id)
    return Example(id=id, source="", prompt=(), gold=task.gold(row))


class TrlRewardFunction:
    """See `trl_reward`. Picklable."""

    def __init__(self, reward: NamedReward, task: Task | None) -> None:
        self.caller, self.task = RewardCaller(reward), task
        self.__name__ = reward.name  # what TRL logs it under

    def __call__(
        self, completions: Sequence[Any], log_metric: Callable[[str, float], None] | None = None, **columns: Any
    ) -> list[float | None]:
        """Scores of a batch. `columns` are the dataset's, each a list as long as `completions`."""
        rows = {k: v for k, v in columns.items() if k not in TRL_KEYS}
        examples = [read_example(self.task, {k: v[n] for k, v in rows.items()}, n) for n in range(len(completions))]
        scores = self.caller.score(completions, examples)
        for name, value in self.caller.take_figures().items():
            if log_metric is not None:
                log_metric(name, value)
        return scores


def trl_reward(use: str, *, task: str | None = None, **params: Any) -> TrlRewardFunction:
    """A reward as an entry of `reward_funcs` of TRL's own `GRPOTrainer`.

    `use` and `params` are as in a recipe, fault policy included. Gold comes from the columns that the task reads (for
    funding: `funders`), or from a column `gold` when the reward has no task.
    """
    reward = named_reward(use, **params)
    name = task_of(reward.reward, reward.name, task)
    return TrlRewardFunction(reward, resolve("tasks", PluginSpec(use=name)) if name else None)


class VerlScore:
    """See `verl_score`. Picklable."""

    def __init__(self, reward: NamedReward) -> None:
        self.grader = Grader(reward)
        self.__name__ = reward.name

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> float:
        """One score in [0, 1]; 0 where the reward does not apply, because verl accepts numbers only."""
        extra = dict(extra_info or {})
        example = Example(
            id=str(extra.get("index", "")),
            source=data_source,
            prompt=(),
            completion=extra.get("target"),
            gold=json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth,
            meta=extra,
        )
        return float(self.grader(solution_str, example).score or 0.0)


def verl_score(use: str, **params: Any) -> VerlScore:
    """A reward as verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    `ground_truth` is the gold as the task reads it, as JSON text (`json.dumps(task.gold(row))`) or as an object. The
    target text, for rewards that need it, comes from `extra_info["target"]`.
    """
    return VerlScore(named_reward(use, **params))
