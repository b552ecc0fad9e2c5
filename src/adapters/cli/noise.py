"""`adapters noise`: write noise families. `adapters data noise` applies them."""

from __future__ import annotations

from typer import Typer

from adapters.cli import plugin_verbs
from adapters.cli.errors import errors
from adapters.cli.options import AsJson

app = Typer(help="List and write noise families; adapters data noise applies them.")


@app.command("list")
def list_noise(as_json: AsJson = False) -> None:
    """Installed noise families, and where they come from."""
    plugin_verbs.print_names("noise", as_json=as_json)


@app.command()
@errors()
def new(name: plugin_verbs.NewName, package: plugin_verbs.AsPackage = False) -> None:
    """Write a noise family to start from, and its test."""
    new = plugin_verbs.write_templates(name, "noise", "noise", package=package, in_recipe="noise: {{use: {}}}")
    print(f"{new.file} and {new.test} written. In a recipe: noise: {{use: {new.use(name)}}}")
    print(new.next_steps(["adapters", "data", "noise", "YOUR_ROWS.jsonl", "--preset", new.use(name)]))
