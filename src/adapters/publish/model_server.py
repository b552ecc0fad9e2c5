"""A model server of another program, run on a free port of this machine for as long as it is asked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import urllib3

from adapters.publish import gate, hub_files
from adapters.publish.finished_run import Finished

START: Final = 600
"""Seconds that a server may take to load a model."""
STOP: Final = 30


@contextmanager
def running(
    command: Callable[[str], Sequence[str]], log: Path, env: Mapping[str, str], *, cwd: Path | None = None
) -> Iterator[str]:
    """The address of a server, once it answers at /health; `command` is given its port.

    The server and the processes that it started are ended when the block is left. Raises RuntimeError, with the reason
    from its log, when it ends before it answers, and when it takes too long.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = list(command(str(port)))
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - a list of words, which no shell reads
            words, cwd=cwd, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log, Path(words[0]).name)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(process)


def asked(finished: Finished, folder: Path, address: str, tokens: int, *, model: str | None = None) -> str:
    """A server's answer to the card's example, constrained to the bundle's schema of answers. Raises RuntimeError."""
    body: dict[str, Any] = {
        **({"model": model} if model else {}),
        "messages": list(finished.example().prompt),
        "temperature": 0,
        "max_tokens": tokens,
        "chat_template_kwargs": {"enable_thinking": finished.recipe.model.thinking},
    }
    if (schema := folder / hub_files.SCHEMA).is_file():
        content = json.loads(schema.read_text(encoding="utf-8"))
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": content}}
    reply = urllib3.request("POST", f"{address}/v1/chat/completions", json=body, retries=False, timeout=gate.TIMEOUT)
    if reply.status != 200:
        raise RuntimeError(f"the server answers HTTP {reply.status}: {reply.data[:200].decode(errors='replace')}")
    return str(reply.json()["choices"][0]["message"]["content"])


def _wait(process: subprocess.Popen[bytes], health: str, log: Path, name: str) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        with suppress(urllib3.exceptions.HTTPError):
            if urllib3.request("GET", health, retries=False, timeout=2).status == 200:
                return
        if process.poll() is not None:
            raise RuntimeError(f"{name} ends: {gate.reason(log.read_text(errors='replace'))}")
        time.sleep(0.5)
    raise RuntimeError(f"{name} did not answer in {START // 60} minutes")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end; then end whatever of its group is left."""
    for stop, seconds in ((signal.SIGTERM, STOP), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
