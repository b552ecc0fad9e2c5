"""How a command ends: one message and the right exit code, whatever went wrong."""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from adapters.types import Refused, UserError

if TYPE_CHECKING:
    from adapters.recipe_file import RecipeFile


FULL = 16 * 2**20
"""Free bytes below which a failure is most likely the disk's; libraries word that error in many ways."""


class State:
    """What a command has come to know, for a better message."""

    file: RecipeFile | None = None
    log: Path | None = None


@contextmanager
def errors() -> Iterator[State]:
    """One message and the right exit code, whatever goes wrong: 2 the person's input, 1 failed work, 3 a refusal."""
    state = State()
    try:
        yield state
    except UserError as error:
        # All processes make the same plan; what happens after it need not be the same.
        complain(state.file.locate(error) if state.file else str(error), everywhere=state.log is not None)
        raise typer.Exit(2) from None
    except Refused as refusal:
        complain(str(refusal), everywhere=state.log is not None)
        raise typer.Exit(3) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, typer.Exit):
        raise
    except Exception as error:
        if state.log is None or not state.log.parent.is_dir():
            raise
        rank = os.environ.get("RANK")
        who = f"process {rank}: " if rank else ""
        print(f"{who}the run failed: {type(error).__name__}: {error}", file=sys.stderr)
        if "No space left" in str(error) or shutil.disk_usage(state.log.parent).free < FULL:
            print(f"The disk of {state.log.parent} is full: make room there.", file=sys.stderr)
        try:
            with state.log.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            print(f"Details: {state.log}", file=sys.stderr)
        except OSError:
            traceback.print_exc()
        print("What is finished is kept; the same command continues from there.", file=sys.stderr)
        raise typer.Exit(1) from None


def complain(message: str, *, everywhere: bool = False) -> None:
    """Say a message once, or from every process where each may have an error of its own."""
    rank = os.environ.get("RANK", "0")
    if rank == "0" or everywhere:
        print(message if rank == "0" else f"process {rank}: {message}", file=sys.stderr)
