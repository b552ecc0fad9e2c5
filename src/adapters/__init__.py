"""From labelled text to a publishable LoRA adapter. Importing this imports neither torch nor TRL."""

from __future__ import annotations

import sys

from adapters.old_imports import OldImports

__all__ = ["main"]

if not any(isinstance(finder, OldImports) for finder in sys.meta_path):
    sys.meta_path.append(OldImports())


def main(recipe: str) -> None:
    """Run a recipe file with the overrides on the command line, as the first line of a runnable recipe does."""
    from adapters.cli.main import run_file

    run_file(recipe)
