"""How a command ends when something goes wrong: one message, and an exit code."""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from adapters.errors import Refused, UserError, visible
from adapters.secrets import redact

if TYPE_CHECKING:
    from adapters.recipe.load import RecipeFile

FULL = 16 * 2**20
"""Bytes. With less free space a failure is probably caused by the full disk, whatever the library's message says."""
RANK_DELAY = 5.0
"""Seconds that ranks other than 0 wait before they print an error."""
CONTINUES = "Finished work is kept; the same command continues from there."


class State:
    """The recipe and the log of a command, which its error messages name."""

    file: RecipeFile | None = None
    log: Path | None = None
    resumes: bool = True
    """Whether the command, given again, goes on where it ended."""


@contextmanager
def errors() -> Iterator[State]:
    """Turn exceptions into one message and an exit code: 2 input, 1 failed, 3 refused, 130 Ctrl-C. Also a decorator."""
    state = State()
    try:
        yield state
    except UserError as error:
        # All ranks make the same plan. After it, an error may be one rank's alone.
        complain(state.file.locate(error) if state.file else str(error), everywhere=state.log is not None)
        raise typer.Exit(2) from None
    except Refused as refusal:
        complain(str(refusal), everywhere=state.log is not None)
        raise typer.Exit(3) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        from adapters.console import is_main

        if is_main():
            print(f"Stopped.{f' {CONTINUES}' if state.log and state.resumes else ''}", file=sys.stderr)
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except Exception as error:
        if state.log is None and isinstance(error, PermissionError) and error.filename:
            # Before the work has begun it is a place that the person named; later it is a failure like any other.
            complain(f"{error.filename}: {error.strerror}.")
            raise typer.Exit(2) from None
        logged = state.log is not None and state.log.parent.is_dir()
        if not logged and not isinstance(error, OSError):
            print(redact(traceback.format_exc()), end="", file=sys.stderr)
            raise typer.Exit(1) from error
        _explain(error, state, logged)
        raise typer.Exit(1) from None


def _explain(error: Exception, state: State, logged: bool) -> None:
    log = state.log
    rank = os.environ.get("RANK")
    name = f"{type(error).__name__}: " if not type(error).__module__.startswith("adapters.") else ""
    print(f"{f'process {rank}: ' if rank else ''}the run failed: {name}{redact(str(error))}", file=sys.stderr)
    full = _full_disk(error, log)
    if full is not None:
        print(f"The disk of {full} is full. Free some space on it.", file=sys.stderr)
    if log is None or not logged:
        return
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(redact(traceback.format_exc()))
        print(f"Details: {log}", file=sys.stderr)
    except OSError:
        if full is None:
            print(redact(traceback.format_exc()), end="", file=sys.stderr)
    if state.resumes:
        print(CONTINUES, file=sys.stderr)


def _full_disk(error: Exception, log: Path | None) -> Path | None:
    """The folder on the full disk, when a full disk caused the error."""
    file = error.filename if isinstance(error, OSError) else None
    folder = Path(file).parent if isinstance(file, str) else log.parent if log else Path()
    reported = any(words in str(error) for words in ("No space left", "quota exceeded"))
    return folder if reported or (folder.is_dir() and shutil.disk_usage(folder).free < FULL) else None


def complain(message: str, *, everywhere: bool = False) -> None:
    """Print an error message; ranks other than 0 add their number.

    Unless `everywhere`, the other ranks wait first: an error that all ranks hit is printed by rank 0 alone, because
    its exit makes the launcher end the others. A rank that still runs after the delay has hit an error of its own,
    such as a file that is missing on one machine.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0" and not everywhere:
        time.sleep(RANK_DELAY)
    lines = "\n".join(map(visible, message.split("\n")))  # a recipe from elsewhere may name anything
    print(lines if rank == "0" else f"process {rank}: {lines}", file=sys.stderr, flush=True)
