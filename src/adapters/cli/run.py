"""`adapters run`: plan, train, evaluate."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli import report as cli_report
from adapters.cli.errors import State, errors
from adapters.cli.options import AllTables, AsJson, RecipePath, TrustCode, consent
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from adapters.backends.jobs import Backend
    from adapters.pipeline.plan import Plan
    from adapters.recipe.load import RecipeFile

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
    all_tables: AllTables = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: plan, train, evaluate. Run again, it continues where it stopped."""
    from adapters.console import console, is_main
    from adapters.recipe.load import load_recipe

    with errors() as state:
        consent(trust)
        state.file = file = load_recipe(recipe, overrides or [])
        if launch is not None and not dry_run:
            flags = {"--fresh": fresh, "--fork": fork, "--all": all_tables, "--json": as_json}
            _launch(launch, recipe, overrides or [], [flag for flag, given in flags.items() if given])
        screen = console(stderr=as_json)
        plan, backend = _plan(file, screen, dry_run)
        if dry_run:
            _show_plan(plan, screen)
            return
        report = _train(plan, backend, screen, state, fresh=fresh, fork=fork, all_tables=all_tables)
        if as_json and is_main():
            print(json.dumps(report))


def _launch(config: Path, recipe: Path, overrides: list[str], flags: list[str]) -> None:
    """Replace this process by accelerate's launcher, which starts several of them."""
    if not config.is_file():
        raise UserError(f"{config}: no such accelerate config file; see recipes/accelerate/.")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]
    command = [*launcher, "--config_file", str(config), "-m", "adapters", str(recipe), *overrides, *flags]
    os.execv(sys.executable, command)  # noqa: S606 - arguments are passed as a list, no shell reads them


def _plan(file: RecipeFile, screen: Console, dry_run: bool) -> tuple[Plan, Backend]:
    """Make the plan; warn when the Hub may refuse the bundle later."""
    from rich.markup import escape

    from adapters.console import is_main, phase, progress, quiet

    with quiet(None), progress("plan", "loading libraries"):
        from adapters.backends import backend as make_backend
        from adapters.pipeline.plan import make_plan
        from adapters.publish.hub import ask_hub

        backend = make_backend(file.recipe)
        plan = make_plan(file, backend, tokenizer_needed=not dry_run)
        phase("asking the Hub")
        warning = ask_hub(file) if is_main() and not dry_run else None
    if warning:
        screen.print(f"[yellow]warning:[/] {escape(warning)}")
    return plan, backend


def _show_plan(plan: Plan, screen: Console) -> None:
    from adapters.cli import tables
    from adapters.pipeline.plan import check_dropped_share

    screen.print(tables.plan_table(plan))
    check_dropped_share(plan)


def _train(
    plan: Plan, backend: Backend, screen: Console, state: State, *, fresh: bool, fork: bool, all_tables: bool
) -> dict[str, Any]:
    """Run the plan and print its results. Returns the report."""
    from adapters.cli import tables
    from adapters.console import is_main, progress, quiet
    from adapters.pipeline import run as running

    with running.lock(plan.folder) if is_main() else nullcontext():
        if is_main():
            _keep_old_run(plan, screen, fresh=fresh, fork=fork)
        _show_plan(plan, screen)
        if is_main():
            running.open_or_resume(plan)
        state.log = plan.folder / "run.log"
        with quiet(state.log):
            report = running.run_plan(plan, backend)
            with progress("report", "writing the page"):
                page = cli_report.after_run(plan.folder) if is_main() else ""
    tables.print_results(screen, report, plan.folder, everything=all_tables)
    screen.print(f"\nAdapter: {plan.jobs[-1].folder}\nReport: {page}", soft_wrap=True, markup=False)
    screen.print(tables.next_commands(plan.folder), soft_wrap=True, markup=False)
    return report


def _keep_old_run(plan: Plan, screen: Console, *, fresh: bool, fork: bool) -> None:
    """Rename the old run folder for `--fresh` or `--fork`; a fork copies stages."""
    from adapters.pipeline import run as running

    kept: list[str] = []
    old = None
    if fork:
        old, kept = running.fork(plan)
    elif fresh:
        old = running.set_aside(plan.folder)
    if old:
        screen.print(f"The old run is kept in {old}.", soft_wrap=True)
        if fork:
            screen.print(f"Taken over from it: {', '.join(kept) or 'nothing, the first stage differs'}.")
