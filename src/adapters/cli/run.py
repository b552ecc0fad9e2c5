"""`adapters run`: plan, train, evaluate."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli import report as cli_report
from adapters.cli.errors import errors
from adapters.cli.options import AsJson, RecipePath, TrustCode, consent
from adapters.errors import UserError

app = typer.Typer()


@app.command()
def run(
    recipe: RecipePath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="stages.1.beta=0.01 …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old run folder is kept as NAME.1 …")] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="Like --fresh, but keep the stages that the recipe still describes.")
    ] = False,
    launch: Annotated[
        Path | None, typer.Option("--launch", help="Start several processes with this accelerate config file.")
    ] = None,
    trust: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: plan, train, evaluate. Started again, it continues where it stopped."""
    from rich.markup import escape

    from adapters.cli import tables
    from adapters.console import console, is_main, quiet
    from adapters.recipe.load import load_recipe

    with errors() as state:
        consent(trust)
        state.file = file = load_recipe(recipe, overrides or [])
        if launch is not None and not dry_run:
            flags = {"--fresh": fresh, "--fork": fork, "--json": as_json}
            _launch(launch, recipe, overrides or [], [flag for flag, given in flags.items() if given])
        from adapters.backends import backend as make_backend
        from adapters.pipeline import run as running
        from adapters.pipeline.plan import check_dropped_share, make_plan
        from adapters.publish.hub import ask_hub
        from adapters.recipe import load

        folder = load.run_folder(file.recipe)
        screen = console(stderr=as_json)
        with quiet(None), screen.status("reading data and checking the recipe"):
            backend = make_backend(file.recipe)
            plan = make_plan(file, backend, tokenizer_needed=not dry_run)
            unasked = ask_hub(file) if is_main() and not dry_run else None
        if unasked:
            screen.print(f"[yellow]warning:[/] {escape(unasked)}")
        with ExitStack() as held:
            if is_main() and not dry_run:
                held.enter_context(running.lock(folder))
                if fork:
                    old, kept = running.fork(plan)
                    if old:
                        screen.print(f"The old run is kept in {old}.")
                        screen.print(f"Taken over from it: {', '.join(kept) or 'nothing, the first stage differs'}.")
                elif fresh and (old := running.set_aside(folder)):
                    screen.print(f"The old run is kept in {old}.")
            screen.print(tables.plan_table(plan))
            check_dropped_share(plan)
            if dry_run:
                return
            if is_main():
                running.open_or_resume(plan)
            state.log = folder / "run.log"
            with quiet(state.log):
                report = running.run_plan(plan, backend)
                page = cli_report.after_run(folder) if is_main() else ""
        for table in tables.result_tables(report):
            screen.print(table)
        screen.print(f"Adapter: {plan.jobs[-1].folder}   report: {page}")
        if as_json and is_main():
            print(json.dumps(report))


def _launch(config: Path, recipe: Path, overrides: list[str], flags: list[str]) -> None:
    if not config.is_file():
        raise UserError(f"{config}: no such accelerate config file; see recipes/accelerate/.")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]
    command = [*launcher, "--config_file", str(config), "-m", "adapters", str(recipe), *overrides, *flags]
    os.execv(sys.executable, command)  # noqa: S606 - arguments are passed as a list, no shell reads them
