"""How a command ends: one message and the right exit code, whatever went wrong."""

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

from adapters.errors import Refused, UserError

if TYPE_CHECKING:
    from adapters.recipe.load import RecipeFile


FULL = 16 * 2**20
"""Free bytes below which a failure is most likely the disk's; libraries word that error in many ways."""

PATIENCE = 5.0
"""Seconds that a process other than the first keeps a message to itself before it speaks."""


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
        logged = state.log is not None and state.log.parent.is_dir()
        if not logged and not isinstance(error, OSError):
            raise
        rank = os.environ.get("RANK")
        who = f"process {rank}: " if rank else ""
        print(f"{who}the run failed: {type(error).__name__}: {error}", file=sys.stderr)
        full = _full_disk(error, state.log)
        if full is not None:
            print(f"The disk of {full} is full: make room there.", file=sys.stderr)
        if state.log is None or not logged:
            raise typer.Exit(1) from None
        try:
            with state.log.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            print(f"Details: {state.log}", file=sys.stderr)
        except OSError:
            if full is None:
                traceback.print_exc()
        print("What is finished is kept; the same command continues from there.", file=sys.stderr)
        raise typer.Exit(1) from None


def _full_disk(error: Exception, log: Path | None) -> Path | None:
    """The folder that has no room left, where that is what went wrong."""
    named = error.filename if isinstance(error, OSError) else None
    place = Path(named).parent if isinstance(named, str) else log.parent if log else Path()
    said = any(words in str(error) for words in ("No space left", "quota exceeded"))
    return place if said or (place.is_dir() and shutil.disk_usage(place).free < FULL) else None


def complain(message: str, *, everywhere: bool = False) -> None:
    """Say a message once, or from every process where each may have an error of its own.

    A mistake that all processes find is the first one's to say; its exit makes the launcher end the others. Whoever is
    still there after a while has found something that the first has not, such as a file missing on one machine.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0" and not everywhere:
        time.sleep(PATIENCE)
    print(message if rank == "0" else f"process {rank}: {message}", file=sys.stderr, flush=True)
