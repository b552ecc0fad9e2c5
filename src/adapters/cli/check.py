"""`adapters check`: audit a recipe before training."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.options import AsJson, Overrides, RecipePath, Trust, plugin_consent
from adapters.environment import LATER, PROCESSES
from adapters.errors import visible

if TYPE_CHECKING:
    from adapters.plugins.source_files import PluginFiles

app = Typer()


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    no_import: Annotated[bool, Option("--no-import", help="List the plug-ins' files and stop.")] = False,
    device: Annotated[str | None, Option(help="Plan memory for a GPU of this size: 80GB.")] = None,
    launch: Annotated[Path | None, Option(help="Plan memory for this accelerate config file's processes.")] = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe before a training: plug-ins, lengths, prompts, data, memory, rewards.

    Exits with 2 when a run would fail, with 3 when code from outside the recipe's folder needs a yes.
    """
    from adapters.plugins import source_files
    from adapters.plugins.trust import admit_recipe
    from adapters.recipe.load import load_recipe

    with errors() as state:
        state.file = file = load_recipe(recipe, overrides or [])
        plugins = source_files.of_recipe(file.recipe, file.folder)
        if not (as_json and no_import):
            print("\n".join(map(visible, _plugin_lines(plugins))), file=sys.stderr if as_json else sys.stdout)
        if no_import:
            if as_json:
                print(json.dumps({"plugins": [p.as_json() for p in plugins]}))
            return
        admit_recipe(plugins, file.folder, plugin_consent(trust))
        from adapters.backends import backend as make_backend
        from adapters.cli.check_tables import report
        from adapters.console import console, progress, quiet
        from adapters.pipeline.check import check_recipe, first_faults, hardware_of
        from adapters.publish.hub import ask_hub
        from adapters.publish.requirements import of_plan

        hardware = hardware_of(device, launch)
        if launch is not None:
            os.environ[PROCESSES] = LATER
        with quiet(None), progress("check", "loading libraries"):
            checked = first_faults(file, plugins)
            checked = checked or check_recipe(file, make_backend(file.recipe), plugins, hardware, ask_hub, of_plan)
        if as_json:
            print(json.dumps(checked.as_json(), default=str))
        else:
            for part in report(checked):
                console().print(part)
    if checked.errors:
        raise Exit(2)


def _plugin_lines(plugins: Sequence[PluginFiles]) -> Iterator[str]:
    for p in plugins:
        where = f"{'.'.join(map(str, p.at))}: {p.use}"
        if not p.found:
            yield f"{where}: not found"
        elif p.built_in:
            yield f"{where}, built in"
        else:
            yield f"{where} imports"
            yield from (f"  {file}" for file in p.files)
            if p.libraries:
                yield f"  and the packages {', '.join(p.libraries)}"
        if p.schema_files:
            yield f"{where} imports for its schema"
            yield from (f"  {file}" for file in p.schema_files)
