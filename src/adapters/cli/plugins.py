"""`adapters plugins`: what installed packages offer."""

from __future__ import annotations

import json

from typer import Exit, Typer

from adapters.cli.options import AsJson

app = Typer()


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List what packages bring: tasks, rewards, noise, formats, environments. Exit code 1: one has a fault.

    Each one is imported, as a recipe that names it would; version, origin and faults are shown. The names stand as a
    recipe writes them.
    """
    from adapters.console import console, new_table
    from adapters.plugins.installed import installed

    found = installed()
    if as_json:
        print(json.dumps([plugin._asdict() for plugin in found], ensure_ascii=False))
    else:
        table = new_table("plug-ins", ["kind", "name", "package", "version", "from"])
        for column in table.columns[:-1]:
            column.no_wrap = True  # a name is copied into a recipe
        for plugin in found:
            table.add_row(plugin.kind, plugin.name, plugin.package, plugin.version, plugin.origin)
        console().print(table)
        for plugin in found:
            if plugin.error:
                console().print(f"error: {plugin.kind} {plugin.name}: {plugin.error}", markup=False, soft_wrap=True)
    if any(plugin.error for plugin in found):
        raise Exit(1)
