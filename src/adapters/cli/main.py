"""The console command. Each verb is a thin call into one module, and imports it only when it is used."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli import check, eval, extract, ie, pairs, publish, run
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
app.add_typer(run.app)
app.add_typer(eval.app)
app.add_typer(cli_data.app)
app.add_typer(check.app)
app.add_typer(cli_rewards.app, name="rewards")
app.add_typer(cli_report.app)
app.add_typer(extract.app)
app.add_typer(publish.app)
app.add_typer(ie.app)
app.add_typer(pairs.app, name="pairs")


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


def _shipped_recipes() -> Path:
    inside = Path(__file__).parents[1] / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "recipes"
