"""`adapters eval`: a finished run on its test sets, or on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.errors import errors
from adapters.cli.options import AllTables, AsJson, TrustCode, consent
from adapters.errors import UserError

app = typer.Typer()


@app.command("eval")
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its stage folders.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="Test files instead of the recipe's sets.")] = None,
    trust: TrustCode = False,
    all_tables: AllTables = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run's last adapter (or the given stage's) beside its base model."""
    from adapters.cli import tables
    from adapters.console import console, is_main, progress, quiet
    from adapters.recipe.load import load_run

    with errors() as state:
        consent(trust)
        stage = run_folder if (run_folder / "manifest.json").is_file() else None
        run_folder = run_folder.parent if stage else run_folder
        if not (run_folder / "recipe.yaml").is_file():
            raise UserError(f"{run_folder} is no run folder: it holds no recipe.yaml.")
        sets = [{"name": p.stem, "data": [{"path": str(p.resolve())}]} for p in data or ()]
        state.file = file = load_run(run_folder, [f"evaluate={json.dumps(sets)}"] if sets else ())
        from adapters.backends import backend as make_backend
        from adapters.pipeline import run as running
        from adapters.pipeline.plan import evaluations
        from adapters.plugins.registry import resolve
        from adapters.plugins.rewards import stage_rewards

        finished = [stage] if stage else sorted(p.parent for p in run_folder.glob("*-*/manifest.json"))
        if not finished:
            raise UserError(f"{run_folder} holds no finished stage yet.")
        if not file.recipe.evaluate:
            raise UserError("the recipe names no test sets; give one with --data FILE.")
        state.log = run_folder / "run.log"
        with quiet(state.log):
            with progress("plan", "reading the test sets"):
                backend = make_backend(file.recipe)
                task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
                tests = evaluations(file, backend, task)
            rewards = {r.name: r for stage in stage_rewards(file) for r in stage}
            models: list[tuple[str, Path | None]] = [("base", None)] if file.recipe.evaluate_base else []
            models.append((finished[-1].name, finished[-1]))
            measured = running.evaluate_all(models, tests, task, list(rewards.values()), run_folder, backend)
        report = {"name": file.recipe.name, "sets": measured}
        if not as_json:
            tables.print_results(console(), report, run_folder, everything=all_tables)
            console().print(tables.next_commands(run_folder), soft_wrap=True, markup=False)
        elif is_main():
            print(json.dumps(report))
