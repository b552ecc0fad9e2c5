"""What a plug-in's author uses in their own tests; the same code as `adapters rewards test`.

from adapters.testing import check_reward, examples

def test_my_reward():
    check_reward(MyReward(), examples("funding"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapters.data.load import GENERATORS, load_examples
from adapters.errors import UserError, hint
from adapters.plugins.registry import names, resolve
from adapters.plugins.reward_bench import RewardTest, try_reward
from adapters.plugins.rewards import NamedReward
from adapters.recipe.fields import PathSource, PluginSpec, Source, SynthesizedSource
from adapters.types import Example, Reward, Task

__all__ = ["check_reward", "examples", "reward_task"]

ROWS = 60


def examples(task: str, file: str | Path | None = None, *, n: int = ROWS) -> list[Example]:
    """Examples to try a reward on: the first `n` of a data file, or rows made up for the task.

    `task` is a task's name, `module:Class` or `./file.py:Class`, with its default parameters. Rows are made by the
    generator of the task's name, where there is one, or are the task's own `example_rows`.

    Raises UserError when the file cannot be read, or when there are no made-up rows.
    """
    reader: Task = resolve("tasks", PluginSpec(use=task))
    own = getattr(reader, "example_rows", ())
    if file is None and task not in GENERATORS and own:
        return [reader.example(row, id=str(row.get("id", n))) for n, row in enumerate(own[:n])]
    if file is not None:
        source: Source = PathSource(path=str(Path(file).resolve()))
    else:
        source = SynthesizedSource(synthesize=task, n=n, seed=0)
    try:
        return load_examples([source], reader, root=Path(), seed=0).examples[:n]
    except UserError as error:
        if file is None:
            raise UserError(f"{error} Give the reward rows of your own (--data FILE).") from None
        raise


def reward_task(reward: Reward, name: str = "", given: str | None = None) -> str:
    """The task whose rows a reward is tried on: the given one, the reward's `task` attribute, its namesake, funding."""
    known = names("tasks")
    task = given or getattr(reward, "task", None) or (name if name in known else "funding")
    if ":" not in str(task) and task not in known:
        raise UserError(f"no task is called {task!r}.{hint(str(task), list(known))}")
    return str(task)


def check_reward(
    reward: Reward, rows: Sequence[Example], task: str | Task | None = None, *, limit: float = 10.0
) -> RewardTest:
    """Assert that a reward is fit to train on: right order, range, determinism, picklability.

    `task` adds the task's own wrong answers. Raises AssertionError that lists every promise broken; what a policy may
    exploit is in the result's `warnings`.
    """
    plug = resolve("tasks", PluginSpec(use=task)) if isinstance(task, str) else task
    name = getattr(reward, "__name__", type(reward).__name__)
    result = try_reward(NamedReward(name, reward), rows, plug, limit=limit)
    if result.errors:
        raise AssertionError("\n".join([f"{name} is not fit to train on:", *(f"  {e}" for e in result.errors)]))
    return result
