"""Checks for the tests of a plug-in's author; the same code as `adapters rewards test` and `adapters tasks test`.

from adapters.testing import check_reward, check_task, examples

def test_my_reward():
    check_reward(MyReward(), examples("funding"))

def test_my_task():
    check_task(MyTask(), "rows.jsonl")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapters.data.load import load_examples
from adapters.data.source_rows import GENERATORS
from adapters.errors import UserError, hint
from adapters.plugins import task_bench, task_calls
from adapters.plugins.registry import OWN, names, offered, resolve, take_old_names
from adapters.plugins.reward_bench import SECONDS, RewardTest, try_reward
from adapters.plugins.rewards import NamedReward, task_of
from adapters.plugins.task_bench import TaskTest
from adapters.recipe.fields import PathSource, PluginSpec, SynthesizedSource
from adapters.types import Example, Reward, Row, Task

__all__ = ["check_reward", "check_task", "examples", "reward_task", "task_rows"]

ROWS = 60


def examples(
    task: str, file: str | Path | None = None, *, n: int = ROWS, params: Mapping[str, Any] = MappingProxyType({})
) -> list[Example]:
    """Examples to test a reward on: the first `n` rows of a file, or synthetic rows of the task.

    `task` is a task's name, `module:Class` or `./file.py:Class`, `params` its parameters. Synthetic rows come from the
    generator of that name, or are the task's own `example_rows`. Raises UserError for an unreadable file, or when there
    are no synthetic rows.
    """
    reader: Task = resolve("tasks", PluginSpec.model_validate({"use": task, **params}))
    rows = getattr(reader, "example_rows", ())
    if (offer := offered("tasks", task)) is not None and offer.package == OWN:
        task = offer.name
    if file is None and task not in GENERATORS and rows:
        return [reader.example(row, id=str(row.get("id", n))) for n, row in enumerate(rows[:n])]
    if file is not None:
        given = PathSource(path=str(Path(file).resolve()))
        return list(load_examples([given], reader, root=Path(), seed=0).examples[:n])
    try:
        source = SynthesizedSource(synthesize=task, n=n, seed=0)
        return list(load_examples([source], reader, root=Path(), seed=0).examples[:n])
    except UserError as error:
        raise UserError(f"{error} Give rows of your own: --data FILE.") from None


def task_rows(
    task: Task, file: str | Path | None = None, *, name: str = "", n: int = task_bench.ROWS
) -> list[tuple[Row, Example]]:
    """Rows to test a task on, with its examples: the first `n` of a file, its own `example_rows`, or synthetic ones.

    Raises UserError for an unreadable file, for more than 1 % of bad rows, or when there are no rows.
    """
    offer = offered("tasks", name) if name else None
    source: PathSource | SynthesizedSource
    if file is not None:
        source = PathSource(path=str(Path(file).resolve()))
    elif offer is not None and offer.package == OWN and offer.name in GENERATORS:
        source = SynthesizedSource(synthesize=offer.name, n=n, seed=0)
    elif own := list(task_calls.own_rows(task)):
        return [(row, task_calls.own_example(task, row, name)) for row in own[:n]]
    else:
        raise UserError("the task has no example_rows. Give rows of your own: --data FILE.")
    rows: list[tuple[Row, Example]] = []
    load_examples([source], task, root=Path(), seed=0, look=rows.extend)
    return rows[:n]


def check_task(task: str | Task, file: str | Path | None = None, *, n: int = task_bench.ROWS) -> TaskTest:
    """Assert that a task keeps what it promises, on the first `n` rows of a file or on its own `example_rows`.

    The AssertionError lists every fault; the result's `warnings` are what a training would survive.
    """
    name = task if isinstance(task, str) else type(task).__name__
    reader: Task = resolve("tasks", PluginSpec(use=task)) if isinstance(task, str) else task
    take_old_names("tasks", type(reader), name)
    try:
        task_bench.check_is_task(reader, name)
        result = task_bench.try_task(reader, name, task_rows(reader, file, name=name, n=n))
    except UserError as error:
        raise AssertionError(str(error)) from None
    if result.errors:
        raise AssertionError("\n".join([f"{name} is not fit to train on:", *(f"  {e}" for e in result.errors)]))
    return result


def reward_task(reward: Reward | None, name: str = "", given: str | None = None) -> str:
    """The task that reads a reward's rows: the given one, its `task`, or the one of its name. Raises UserError."""
    installed = names("tasks")
    task = task_of(reward, name, given)
    if task is None:
        raise UserError(
            f"no task is known for the reward {name}. Give one with --task ({', '.join(installed)}, module:Class or "
            './file.py:Class), or name it in the reward\'s class: task: ClassVar[str] = "…".'
        )
    if ":" not in str(task) and offered("tasks", str(task)) is None:
        raise UserError(f"no task is called {task!r}.{hint(str(task), list(installed))}")
    return str(task)


def shared_parameters(reward: Reward) -> dict[str, Any]:
    """The parameters of a reward that the task of its rows must have too: the schema that it was given."""
    schema = getattr(reward, "schema", None)
    return {"schema": schema} if isinstance(schema, Mapping) and schema else {}


def check_reward(
    reward: Reward,
    rows: Sequence[Example],
    task: str | Task | None = None,
    *,
    limit: float = 10.0,
    seconds: float = SECONDS,
) -> RewardTest:
    """Assert that a reward is fit to train on: order of answers, range, determinism, picklability.

    `task` adds the task's own wrong answers. A call may take `limit` seconds, all of them about `seconds`: a slow
    reward is tried on fewer rows, and the result's `left_out` says so. The AssertionError lists every error; the
    result's `warnings` say what a model may exploit.
    """
    reader = resolve("tasks", PluginSpec(use=task)) if isinstance(task, str) else task
    name = getattr(reward, "__name__", type(reward).__name__)
    take_old_names("rewards", type(reward), name)
    result = try_reward(NamedReward(name, reward), rows, reader, limit=limit, seconds=seconds)
    if result.errors:
        raise AssertionError("\n".join([f"{name} is not fit to train on:", *(f"  {e}" for e in result.errors)]))
    return result
