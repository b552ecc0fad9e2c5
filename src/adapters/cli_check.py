"""`adapters check`."""

import typer

app = typer.Typer()
