"""The same rewards in other people's trainers: a bare TRL `GRPOTrainer`, and verl.

from adapters.integrations import trl_reward, verl_score

trainer = GRPOTrainer(..., reward_funcs=[trl_reward("funding", scorer="corrected")])
compute_score = verl_score("funding", scorer="corrected")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.plugins.registry import names, resolve
from adapters.plugins.rewards import Grader, NamedReward, resolve_all
from adapters.recipe.fields import PluginSpec, RewardSpec
from adapters.types import Example, Row, Task

TRL_KEYS = ("prompts", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def named_reward(use: str, *, folder: Path | None = None, **params: Any) -> NamedReward:
    """A reward as a recipe's `rewards:` entry would make it. Raises UserError for what it cannot be."""
    plug = RewardSpec.model_validate({"use": use, **params})
    return resolve_all([plug], folder=folder or Path(), at=())[0]


def task_name(reward: NamedReward, given: str | None = None) -> str | None:
    """The task that reads a reward's rows: the given one, the reward's own `task` attribute, or its namesake."""
    own = given or getattr(reward.reward, "task", None)
    return own or (reward.name if reward.name in names("tasks") else None)


def read_example(task: Task | None, row: Row, number: int = 0) -> Example:
    """What a reward sees of a dataset row.

    With a task, the row's columns are read as the task reads them, target text included when the text is there;
    without, the column `gold` is the gold and `target` the target text.
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
        self.grader, self.task = Grader(reward), task
        self.__name__ = reward.name  # what TRL logs it under

    def __call__(
        self,
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores of a batch. `columns` are the dataset's, each a list as long as `completions`."""
        rows = {k: v for k, v in columns.items() if k not in TRL_KEYS}
        scores: list[float | None] = []
        parts: dict[str, list[float]] = {}
        for n, completion in enumerate(completions):
            text = completion if isinstance(completion, str) else completion[-1]["content"]
            example = read_example(self.task, {k: v[n] for k, v in rows.items()}, n)
            scored = self.grader(text, example)
            scores.append(scored.score)
            for part, value in scored.parts.items():
                parts.setdefault(part, []).append(value)
        if log_metric is not None:
            for part, values in parts.items():
                log_metric(f"parts/{self.__name__}/{part}", sum(values) / len(values))
        return scores


def trl_reward(use: str, *, task: str | None = None, **params: Any) -> TrlRewardFunction:
    """A reward as an entry of `reward_funcs` of TRL's own `GRPOTrainer`.

    `use` and `params` are what a recipe would say, fault policy included. Gold comes from the dataset's columns: those
    the task reads (for funding: `funders`), or a column `gold` when there is no task of the reward's name.
    """
    reward = named_reward(use, **params)
    name = task_name(reward, task)
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
        """One score in [0, 1]; 0 where the reward does not apply, for which verl has no word."""
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

    `ground_truth` is the gold as the task reads it, as JSON text (`json.dumps(task.gold(row))`) or as it is; a reward
    that wants the target text finds it in `extra_info["target"]`.
    """
    return VerlScore(named_reward(use, **params))
