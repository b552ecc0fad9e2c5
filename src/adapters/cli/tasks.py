"""`adapters tasks`: list, show, write and test tasks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from adapters.cli import plugin_verbs
from adapters.cli.errors import errors
from adapters.cli.options import AsJson, Params
from adapters.errors import UserError

app = Typer(help="List, show, test and write tasks.")

TaskName = Annotated[str, Argument(metavar="NAME", help="A task's name, module:Class or ./file.py:Class.")]


@app.command("list")
def list_tasks(as_json: AsJson = False) -> None:
    """Installed tasks, and where they come from."""
    plugin_verbs.print_names("tasks", as_json=as_json)


@app.command()
@errors()
def show(name: TaskName, as_json: AsJson = False) -> None:
    """A task's documentation, parameters and source files."""
    from adapters.plugins.registry import resolve
    from adapters.plugins.source_files import score_hash
    from adapters.recipe.fields import PluginSpec

    spec = PluginSpec(use=name)
    task = resolve("tasks", spec)
    plugin_verbs.print_plugin("tasks", name, task, score_hash("tasks", spec, task, Path()), as_json=as_json)


@app.command("test")
@errors()
def try_out(
    name: TaskName,
    params: Params = None,
    data: Annotated[Path | None, Option(help="Labelled rows; default: the task's own, or synthetic ones.")] = None,
    n: Annotated[int, Option("-n", min=1, help="At most this many rows.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Try every method of a task on gold, empty, broken and absurd text. Exit code 1: unfit."""
    from adapters import testing
    from adapters.console import console
    from adapters.plugins.registry import resolve
    from adapters.plugins.task_bench import check_is_task, try_task
    from adapters.recipe.fields import PluginSpec
    from adapters.recipe.load import parse_assignments

    values = parse_assignments(params or [])
    try:
        task = resolve("tasks", PluginSpec.model_validate({"use": name, **values}))
    except UserError as error:
        key = error.at[-1] if error.at else ""
        raise UserError(f"{key}: {error}" if key in values else str(error)) from None
    check_is_task(task, name)
    result = try_task(task, name, testing.task_rows(task, data, name=name, n=n))
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        lines = [f"warning: {text}" for text in result.warnings] + [f"error: {text}" for text in result.errors]
        verdict = "not fit to train on" if result.errors else "fit to train on"
        console().print("\n".join([*lines, f"{verdict}, tried on {result.rows} rows"]), markup=False, soft_wrap=True)
    if result.errors:
        raise Exit(1)


@app.command()
@errors()
def new(name: plugin_verbs.NewName, package: plugin_verbs.AsPackage = False) -> None:
    """Write a task to start from, and its test."""
    new = plugin_verbs.write_templates(name, "task", "tasks", package=package, in_recipe="task: {}")
    print(f"{new.file} and {new.test} written. In a recipe: task: {new.use(name)}")
    print(new.next_steps(["adapters", "tasks", "test", new.use(name)]) + "   # or with --data YOUR_ROWS.jsonl")
