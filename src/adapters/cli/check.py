"""`adapters check`: audit a recipe before training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adapters.cli.errors import errors

if TYPE_CHECKING:
    from adapters.plugins.source_files import PluginFiles

app = typer.Typer()


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="stages.1.beta=0.01 …")] = None,
    no_import: Annotated[bool, typer.Option("--no-import", help="List the plug-ins' files and stop.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="Plan memory for a GPU of this size: 80GB.")] = None,
    launch: Annotated[
        Path | None, typer.Option("--launch", help="Plan memory for this accelerate config file's processes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Check a recipe before training: code, data, lengths, prompts, memory, rewards.

    Exits with 2 when a run would fail.
    """
    from adapters.plugins import source_files
    from adapters.recipe.load import load_recipe

    with errors() as state:
        state.file = file = load_recipe(recipe, overrides or [])
        plugins = source_files.of_recipe(file.recipe, file.folder)
        if not as_json:
            for line in plugin_lines(plugins):
                print(line)
        if no_import:
            if as_json:
                print(json.dumps({"plugins": [p.as_json() for p in plugins]}))
            return
        from adapters.backends import backend as make_backend
        from adapters.console import console, progress, quiet
        from adapters.pipeline.check import check_recipe, hardware_of
        from adapters.publish.hub import ask_hub

        hardware = hardware_of(device, launch)
        with quiet(None), progress("check", "loading libraries"):
            checked = check_recipe(file, make_backend(file.recipe), plugins, hardware, ask_hub)
        if as_json:
            print(json.dumps(checked.as_json(), default=str))
        else:
            from adapters.cli.check_tables import report

            for part in report(checked):
                console().print(part)
    if checked.errors:
        raise typer.Exit(2)


def plugin_lines(plugins: Sequence[PluginFiles]) -> Iterator[str]:
    """The code that a recipe runs: built-in plug-ins by name, others with their files."""
    for p in plugins:
        where = ".".join(map(str, p.at))
        if not p.found:
            yield f"{where}: {p.use}: not found"
        elif p.built_in:
            yield f"{where}: {p.use}, built in"
        else:
            yield f"{where}: {p.use} imports"
            yield from (f"  {file}" for file in p.files)
            if p.libraries:
                yield f"  and the packages {', '.join(p.libraries)}"
