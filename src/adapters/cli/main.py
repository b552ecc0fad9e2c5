"""The console command. Each verb is a thin call into one module, and imports it only when it is used."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import PackageNotFoundError, distribution
from typing import Annotated

import typer

from adapters.cli import (
    base,
    calibrate,
    check,
    data,
    env,
    extract,
    graph,
    mining,
    new,
    noise,
    pairs,
    plugins,
    publish,
    publish_data,
    rewards,
    run,
    sample,
    tasks,
    view,
)
from adapters.cli import ie as ie  # registers its verbs in the group `data`
from adapters.cli import mine_data as mine_data  # likewise
from adapters.cli.errors import complain
from adapters.cli.help import Group, dress

app = typer.Typer(
    cls=Group,
    help="From labelled text to a publishable LoRA adapter.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]},
)
for verbs in (new, check, env, run, sample, extract, calibrate, mining, view, graph, data):
    app.add_typer(verbs.app)
for verbs in (publish, publish_data, plugins):
    app.add_typer(verbs.app)
groups = {"base": base.app, "data": data.data_app, "noise": noise.app, "pairs": pairs.app}
groups |= {"rewards": rewards.app, "tasks": tasks.app}
for name, group in groups.items():
    app.add_typer(group, name=name)


def run_file(recipe: str) -> None:
    """Run a recipe with this process's remaining arguments: that is how `accelerate launch` starts one."""
    app(["run", recipe, *sys.argv[1:]], prog_name="adapters")


def _version(wanted: bool) -> None:
    if wanted:
        from adapters.environment import versions

        print(f"extraction-adapters {versions().get('extraction-adapters', '(not installed)')}")
        raise typer.Exit


@app.callback()
def _start(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    if os.environ.get("ADAPTERS_BESIDE_ADAPTERHUB"):  # started under the other name, see extraction_adapters
        return
    try:
        distribution("adapters")
    except PackageNotFoundError:
        return
    complain(
        "AdapterHub's package `adapters` is installed in this environment and shares its import name with "
        "extraction-adapters; one overwrites the other's files. Use a separate environment, or, in the repository: "
        "pip uninstall adapters extraction-adapters && pip install -e . To keep both, install AdapterHub's last, and "
        "use the command extraction-adapters and `import extraction_adapters`."
    )
    raise typer.Exit(2)


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from adapters.recipe.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))


dress(app)
