"""What the check scripts share: commands of this project, and servers that run as long as they are asked."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    """A server on a free port, given to `command`, that answers at /health; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = command(str(port))
    with log.open("w") as out:
        server = subprocess.Popen(words, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        for _ in range(300):
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            if server.poll() is not None:
                raise FailedError(f"{Path(words[0]).name} ended: {log.read_text()[-800:]}")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        server.wait()
