"""Options that several verbs share, each spelled and explained once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Agree that the model's own Python code runs, where the recipe asks for it."
    ),
]
AllTables = Annotated[
    bool, typer.Option("--all", help="Print every table: all matching modes, precision, recall, outputs, rewards.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def consent(given: bool) -> None:
    """Remember that the model's own code may run, for this process and those it starts."""
    if given:
        os.environ["ADAPTERS_TRUST_REMOTE_CODE"] = "1"  # a launcher's processes inherit it
