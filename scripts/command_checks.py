"""What the check scripts share: commands of this project, and a server that runs as long as it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"
_PATH = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
ENV = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(_PATH)}


class FailedError(Exception):
    """What a check found wrong."""


def adapters(*arguments: str | Path, code: int = 0, env: Mapping[str, str] = ENV, limit: float = 3600) -> str:
    """Run the command, expect its exit code, return what it printed."""
    command = [sys.executable, "-m", "adapters", *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=limit)
    if done.returncode != code:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise FailedError(f"adapters {arguments[0]}: exit code {done.returncode}, not {code}: {last}")
    return done.stdout + done.stderr


@contextmanager
def running(command: Callable[[str], Sequence[str]], log: Path, env: Mapping[str, str] = ENV) -> Iterator[str]:
    """The address of a server, given its port, once it answers at /health. Raises FailedError."""
    from adapters.publish import model_server

    with ExitStack() as stack:
        try:
            address = stack.enter_context(model_server.running(command, log, env))
        except (RuntimeError, OSError) as error:
            raise FailedError(str(error)) from error
        yield address
