"""Rewards of this project in other trainers: TRL's own `GRPOTrainer`, and verl.

from adapters.integrations import trl_reward, verl_score

trainer = GRPOTrainer(..., reward_funcs=[trl_reward("funding", scorer="corrected")])
compute_score = verl_score("funding", scorer="corrected")
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapters.errors import UserError
from adapters.plugins.grader import Grader
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import NamedReward, resolve_all, task_of
from adapters.plugins.rollouts import RewardCaller
from adapters.recipe.fields import PluginSpec, RewardSpec
from adapters.recipe.sentences import sentence
from adapters.types import Example, Row, Task

TRL_KEYS = ("prompts", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def named_reward(use: str, *, folder: Path | None = None, **params: Any) -> NamedReward:
    """A reward from what a recipe's `rewards:` entry holds. Raises UserError, which names the parameter."""
    try:
        spec = RewardSpec.model_validate({"use": use, **params})
        return resolve_all([spec], folder=folder or Path(), at=())[0]
    except ValidationError as error:
        raise UserError(sentence(error)) from None
    except UserError as error:
        key = str(error.at[-1]) if error.at else ""
        raise UserError(f"{key}: {error}" if key in params else str(error), at=error.at) from None


def single_reward(use: str, **params: Any) -> NamedReward:
    """As `named_reward`, for a reward that stands in no sum: `weight` would have no effect and is a UserError too."""
    if "weight" in params:
        raise UserError("weight: one reward alone has none; weights belong to a recipe, or to the trainer's settings.")
    return named_reward(use, **params)


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
    """See `trl_reward`. Picklable, and safe in threads and forked processes."""

    def __init__(self, reward: NamedReward, task: Task | None) -> None:
        self.caller, self.task = RewardCaller(reward), task
        self.__name__ = reward.name  # what TRL logs it under

    def __call__(
        self, completions: Sequence[Any], log_metric: Callable[[str, float], None] | None = None, **columns: Any
    ) -> list[float | None]:
        """Scores of a batch. `columns` are the dataset's, each a list as long as `completions`."""
        rows = {k: v for k, v in columns.items() if k not in TRL_KEYS}
        examples = [self._example({k: v[n] for k, v in rows.items()}, n) for n in range(len(completions))]
        scores = self.caller.score(completions, examples)
        for name, value in self.caller.take_figures().items():
            if log_metric is not None:
                log_metric(name, value)
        return scores

    def _example(self, row: Row, number: int) -> Example:
        try:
            return read_example(self.task, row, number)
        except ValueError as error:
            columns, fault = ", ".join(row) or "none", f"row {number} of the batch: {error}"
            raise UserError(f"{fault}. The columns that TRL passes are: {columns}.") from None


def trl_reward(use: str, *, task: str | None = None, **params: Any) -> TrlRewardFunction:
    """A reward as an entry of `reward_funcs` of TRL's own `GRPOTrainer`.

    `use` and `params` are as in a recipe, fault policy included. Gold comes from the columns that the task reads (for
    funding: `funders`), or from a column `gold` when the reward has no task.
    """
    reward = single_reward(use, **params)
    name = task_of(reward.reward, reward.name, task)
    return TrlRewardFunction(reward, resolve("tasks", PluginSpec(use=name)) if name else None)


class VerlScore:
    """See `verl_score`. Picklable, and safe in threads and forked processes."""

    def __init__(self, reward: NamedReward, parts: Sequence[str] = ()) -> None:
        self.grader, self.parts, self._said = Grader(reward), tuple(parts), False
        self.__name__ = reward.name

    def __call__(
        self,
        data_source: str,
        solution_str: str,
        ground_truth: Any,
        extra_info: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> float | dict[str, float]:
        """A score in [0, 1], or a dict of `score` and parts; 0 for what does not apply: verl takes numbers only.

        verl passes its own keywords (such as `reward_router_address`) beside these, which are not read.
        """
        self._check_keywords(others)
        extra = dict(extra_info or {})
        example = Example(
            id=str(extra.get("index", "")),
            source=data_source,
            prompt=(),
            completion=extra.get("target"),
            gold=_gold(ground_truth),
            meta=extra,
        )
        score, parts = self.grader(solution_str, example)
        if not self.parts:
            self._say_unnamed(parts)
            return float(score or 0.0)
        return {"score": float(score or 0.0), **{part: float(parts.get(part, 0.0)) for part in self.parts}}

    def _say_unnamed(self, parts: Mapping[str, float]) -> None:
        if parts and not self._said:
            self._said = True
            logging.getLogger(__name__).warning(
                "the parts of the reward %s do not reach verl, which needs the same ones in every call: name them, "
                "verl_score(…, parts=%s)",
                self.__name__,
                list(parts),
            )

    def _check_keywords(self, others: Mapping[str, Any]) -> None:
        reward = self.grader.named.reward
        settings: set[str] = {f.name for f in fields(reward)} if is_dataclass(reward) else set()
        if ignored := sorted(others.keys() & (settings | RewardSpec.model_fields.keys())):
            raise UserError(f"{ignored[0]}: verl's reward_kwargs set nothing; write verl_score(…, {ignored[0]}=…).")


def _gold(ground_truth: Any) -> Any:
    try:
        return json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    except ValueError as error:
        remedy = "write json.dumps(task.gold(row)) into the data's reward_model"
        raise UserError(f"ground_truth is text, but not JSON ({error}): {remedy}.") from None


def verl_score(use: str, *, parts: Sequence[str] | None = None, **params: Any) -> VerlScore:
    """A reward as verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`.

    `ground_truth` is the gold as the task reads it, as JSON text (`json.dumps(task.gold(row))`) or as an object. The
    target text, for rewards that need it, comes from `extra_info["target"]`.

    `parts` names what verl gets beside the score, by default the reward's `part_names`; verl makes one array of each,
    so the names are the same in every call, and a part that one lacks is 0. Without any, the score is a plain number.
    """
    reward = single_reward(use, **params)
    if reward.faults.on_error == "skip":
        raise UserError("on_error: verl takes no completion without a score; use zero or raise, not skip.")
    names = tuple(getattr(reward.reward, "part_names", ()) if parts is None else parts)
    if taken := sorted({"score", "reward"} & set(names)):
        raise UserError(f"parts: verl has a figure {taken[0]!r} of its own; give the part another name.")
    return VerlScore(reward, names)
