"""From labelled text to a publishable LoRA adapter. Importing this imports neither torch nor TRL."""

from __future__ import annotations

__all__ = ["main"]


def main(recipe: str) -> None:
    """Run a recipe file with the overrides on the command line: what a runnable recipe's first line calls."""
    from adapters.cli import run_file

    run_file(recipe)
