"""From labelled text to a publishable LoRA adapter. Importing this imports neither torch nor TRL."""

from __future__ import annotations

import os
import sys

# `python -m adapters` puts the working directory first on the path, where a file may be called json.py or torch.py. It
# is removed here, because every other module is imported later.
_STARTED = sys.argv[:1] == ["-m"] and "adapters" in (word.partition(".")[0] for word in sys.orig_argv)
if _STARTED and not sys.flags.safe_path and os.path.dirname(os.path.dirname(__file__)) != sys.path[0]:
    del sys.path[0]

from typing import TYPE_CHECKING, Any  # noqa: E402

from adapters.old_imports import OldImports  # noqa: E402

if TYPE_CHECKING:
    from adapters.api import check, load, run

__all__ = ["check", "load", "main", "run"]

if not any(isinstance(finder, OldImports) for finder in sys.meta_path):
    sys.meta_path.insert(0, OldImports())


def main(recipe: str) -> None:
    """Run a recipe file with the overrides on the command line, as the first line of a runnable recipe does."""
    # Python put the recipe's folder first on the path; what lies there must not shadow libraries.
    if (
        not sys.flags.safe_path
        and sys.path
        and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(recipe))
    ):
        sys.path.pop(0)
    from adapters.cli.main import run_file

    run_file(recipe)


def __getattr__(name: str) -> Any:
    """`run`, `check` and `load`, imported when they are first used."""
    if name in ("check", "load", "run"):
        from adapters import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
