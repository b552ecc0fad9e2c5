"""The console command. Each verb is a thin call into one module, and imports it only when it is used."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli import check, extract, ie, pairs, publish
from adapters.cli import data as cli_data
from adapters.cli import report as cli_report
from adapters.cli import rewards as cli_rewards
from adapters.cli.errors import complain, errors
from adapters.errors import UserError

app = typer.Typer(
    help="From labelled text to a publishable LoRA adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.add_typer(cli_data.app)
app.add_typer(check.app)
app.add_typer(cli_rewards.app, name="rewards")
app.add_typer(cli_report.app)
app.add_typer(extract.app)
app.add_typer(publish.app)
app.add_typer(ie.app)
app.add_typer(pairs.app, name="pairs")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Agree that the model's own Python code runs, where the recipe asks for it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def run_file(recipe: str) -> None:
    """Run a recipe with this process's remaining arguments; the door that `accelerate launch` comes through."""
    # Python put the recipe's folder first on the path; its folders must not shadow libraries.
    if sys.path and Path(sys.path[0] or ".").resolve() == Path(recipe).resolve().parent:
        sys.path.pop(0)
    app(["run", recipe, *sys.argv[1:]], prog_name="adapters")


@app.callback()
def _start() -> None:
    try:
        distribution("adapters")
    except PackageNotFoundError:
        return
    complain(
        "AdapterHub's package `adapters` is installed in this environment and shares its import name with "
        "extraction-adapters; one overwrites the other's files. Use a separate environment, or: "
        "pip uninstall adapters && pip install --force-reinstall --no-deps extraction-adapters"
    )
    raise typer.Exit(2)


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
        _consent(trust)
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


@app.command("eval")
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its stage folders.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="Test files instead of the recipe's sets.")] = None,
    trust: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run's last adapter (or the given stage's) beside its base model."""
    from adapters.cli import tables
    from adapters.console import console, is_main, quiet
    from adapters.recipe.load import load_run

    with errors() as state:
        _consent(trust)
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
            backend = make_backend(file.recipe)
            task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
            tests = evaluations(file, backend, task)
            rewards = {r.name: r for stage in stage_rewards(file) for r in stage}
            models: list[tuple[str, Path | None]] = [("base", None)] if file.recipe.evaluate_base else []
            models.append((finished[-1].name, finished[-1]))
            measured = running.evaluate_all(models, tests, task, list(rewards.values()), run_folder, backend)
        report = {"name": file.recipe.name, "sets": measured}
        for table in [] if as_json else tables.result_tables(report):
            console().print(table)
        if as_json and is_main():
            print(json.dumps(report))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of your recipe; the file is NAME.yaml.")],
    source: Annotated[str, typer.Option("--from", help="A shipped recipe.")] = "quickstart",
) -> None:
    """Copy a shipped recipe to start one of your own."""
    from adapters.errors import hint

    with errors():
        shipped = {p.stem: p for p in _shipped_recipes().glob("*.yaml")}
        if source not in shipped:
            raise UserError(f"no shipped recipe is called {source!r}.{hint(source, sorted(shipped))}")
        target = Path(f"{name}.yaml")
        if target.exists():
            raise UserError(f"{target} exists already; nothing was written.")
        text = shipped[source].read_text(encoding="utf-8")
        target.write_text(text.replace(f"\nname: {source}\n", f"\nname: {name}\n"), encoding="utf-8")
        print(f"{target} written. Try: adapters run {target} --dry-run")


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from adapters.recipe.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))


def _consent(given: bool) -> None:
    if given:
        os.environ["ADAPTERS_TRUST_REMOTE_CODE"] = "1"  # a launcher's processes inherit it


def _launch(config: Path, recipe: Path, overrides: list[str], flags: list[str]) -> None:
    if not config.is_file():
        raise UserError(f"{config}: no such accelerate config file; see recipes/accelerate/.")
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]
    command = [*launcher, "--config_file", str(config), "-m", "adapters", str(recipe), *overrides, *flags]
    os.execv(sys.executable, command)  # noqa: S606 - arguments are passed as a list, no shell reads them


def _shipped_recipes() -> Path:
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "recipes"
