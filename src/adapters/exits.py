"""How a command ends: one message and the right exit code, whatever went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from adapters.types import UserError

if TYPE_CHECKING:
    from adapters.recipe_file import RecipeFile


class State:
    """What a command has come to know, for a better message."""

    file: RecipeFile | None = None
    log: Path | None = None


@contextmanager
def errors() -> Iterator[State]:
    """One message and the right exit code, whatever goes wrong: 2 for the person's input, 1 for failed work."""
    state = State()
    try:
        yield state
    except UserError as error:
        complain(state.file.locate(error) if state.file else str(error))
        raise typer.Exit(2) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, typer.Exit):
        raise
    except Exception as error:
        if state.log is None or not state.log.parent.is_dir():
            raise
        with state.log.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        rank = os.environ.get("RANK")
        who = f"process {rank}: " if rank else ""
        print(f"{who}the run failed: {type(error).__name__}: {error}\nDetails: {state.log}", file=sys.stderr)
        print("What is finished is kept; the same command continues from there.", file=sys.stderr)
        raise typer.Exit(1) from None


def complain(message: str) -> None:
    """Say a message once, whatever the number of processes."""
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)
