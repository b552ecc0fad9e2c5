"""`adapters eval`: a run's adapter on the recipe's test sets, or on other files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.errors import errors
from adapters.cli.options import AllTables, AsJson, TrustCode, consent
from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.evaluation.evaluate import SetFigures
    from adapters.pipeline.run_folder import Stage
    from adapters.recipe.load import RecipeFile

app = typer.Typer()


@app.command("eval")
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its stage folders.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="Test files instead of the recipe's sets.")] = None,
    trust: TrustCode = False,
    all_tables: AllTables = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's last finished stage, or the given one, beside its base model.

    A test set given with --data is called NAME@HASH (of its content) and stands beside the recipe's own.
    """
    from adapters.cli import tables
    from adapters.console import console, is_main, quiet
    from adapters.pipeline.run_folder import RunFolder, given_name

    with errors() as state, ExitStack() as cleanup:
        consent(trust)
        run = RunFolder.open(run_folder)
        sets = [{"name": f"data{n}", "data": [{"path": str(p.resolve())}]} for n, p in enumerate(data or ())]
        state.file = file = run.recipe_file([f"evaluate={json.dumps(sets)}"] if sets else ())
        from adapters.pipeline import run as running

        stage = run.adapter_stage()
        if not file.recipe.evaluate:
            raise UserError("the recipe names no test sets; give one with --data FILE.")
        if is_main():
            cleanup.enter_context(running.lock(run.path.absolute()))
        state.log = run.path / "run.log"
        with quiet(state.log):
            measured = _measure(run.path, stage, file, data or [])
        for given in () if as_json else data or ():
            console().print(f"{given_name(given)}: {given}", markup=False, soft_wrap=True)
        report = {"name": file.recipe.name, "sets": measured}
        if not as_json:
            tables.print_results(console(), report, run.path, everything=all_tables)
            console().print(tables.next_commands(run.path), soft_wrap=True, markup=False)
        elif is_main():
            print(json.dumps(report))


def _measure(folder: Path, stage: Stage, file: RecipeFile, data: Sequence[Path]) -> dict[str, dict[str, SetFigures]]:
    """Test set -> model -> figures, of the recipe's test sets or of `data`, which then stands in their place."""
    from adapters.backends import backend as make_backend
    from adapters.console import progress
    from adapters.pipeline.plan import evaluations
    from adapters.pipeline.run import evaluate_all
    from adapters.pipeline.run_folder import given_name
    from adapters.plugins.registry import resolve
    from adapters.plugins.rewards import stage_rewards

    with progress("plan", "reading the test sets"):
        backend = make_backend(file.recipe)
        task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
        tests = evaluations(file, backend, task)
    if data:
        tests = tuple(replace(test, name=given_name(given)) for test, given in zip(tests, data, strict=True))
    rewards = {r.name: r for r in chain.from_iterable(stage_rewards(file))}
    models: list[tuple[str, Path | None]] = [("base", None)] if file.recipe.evaluate_base else []
    models.append((stage.name, stage.path))
    return evaluate_all(models, tests, task, list(rewards.values()), folder, backend)
