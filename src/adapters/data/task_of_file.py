"""The task of a data file, where its rows leave no doubt."""

from __future__ import annotations

from pathlib import Path

from adapters.data.row_forms import conversion_hint, with_structures
from adapters.data.rows import BAD_ROW, place, read_file
from adapters.errors import UserError
from adapters.plugins.registry import names, resolve
from adapters.recipe.fields import PluginSpec
from adapters.types import Row, Task


def task_of_file(file: Path, given: str | None = None) -> str:
    """The given task, that of the first record's `task`, or the only one that reads it. Raises UserError.

    Where none reads it, it is the only one that has columns of its own in it as text, which it will name the fault of.
    """
    if given is not None:
        return given
    known = list(names("tasks"))
    line, row = next(((n, row) for n, row in read_file(file) if BAD_ROW not in row), (1, {}))
    fitting = [row["task"]] if row.get("task") in known else [name for name in known if _reads(name, row)]
    fitting = fitting or [name for name in known if any(isinstance(row.get(s), str) for s in _structures(name))]
    if len(fitting) != 1:
        which = f"the tasks {', '.join(fitting)} could all read" if fitting else "no installed task reads the labels of"
        named = f"{place(file, line)}: {which} this record{conversion_hint(row)}"
        raise UserError(f"{named}; name the task with --task ({', '.join(known)}).")
    return str(fitting[0])


def _reads(name: str, row: Row) -> bool:
    task: Task = resolve("tasks", PluginSpec(use=name))
    try:
        task.gold(with_structures(row, _structures(name)))
    except Exception:  # a task of another package may raise anything on a row that is not its own
        return False
    return True


def _structures(name: str) -> tuple[str, ...]:
    return tuple(getattr(resolve("tasks", PluginSpec(use=name)), "structures", ()))
