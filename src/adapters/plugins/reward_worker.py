"""Run a reward with a `timeout` in a child process: a thread that hangs in a regular expression cannot be stopped."""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adapters.plugins.registry import FILE_MODULE, load_file
from adapters.types import Example, Reward

STARTUP_SECONDS = 120
"""Limit for starting the process and importing the reward; `timeout` does not count it."""
MARGIN_SECONDS = 5


class Worker:
    """Calls a reward in a child process, started on the first call and again after it was killed."""

    def __init__(self, reward: Reward, timeout: float) -> None:
        self.timeout = timeout
        # A `./file.py` plug-in has no importable name: the child must load its file before it can unpickle.
        file = getattr(sys.modules.get(reward.__module__), "__file__", None)
        self._file = Path(file) if file and reward.__module__.startswith(FILE_MODULE) else None
        self._pickled = pickle.dumps(reward)
        self._process: Any = None
        self._pipe: Connection | None = None

    def __call__(self, completion: str, example: Example) -> Any:
        """The reward's result. Raises TimeoutError, or RuntimeError when it fails or dies."""
        pipe = self._pipe or self._start()
        try:
            pipe.send((completion, example))
            succeeded, value = _receive(pipe, self.timeout)
        except TimeoutError:
            self.stop()
            raise TimeoutError(f"it took longer than {self.timeout:g} s and was stopped") from None
        except (EOFError, OSError):
            self._process.join(MARGIN_SECONDS)
            code = self._process.exitcode
            self.stop()
            raise RuntimeError(f"its process died (exit code {code})") from None
        if not succeeded:
            raise RuntimeError(value)
        return value

    def stop(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join(MARGIN_SECONDS)
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.stop()

    def _start(self) -> Connection:
        # spawn: a fork of a process with threads and a GPU inherits locks that nobody will release.
        context = multiprocessing.get_context("spawn")
        pipe, child_end = context.Pipe()
        self._pipe = pipe
        arguments = (child_end, self._pickled, self._file, self.timeout)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        child_end.close()
        try:
            succeeded, value = _receive(pipe, STARTUP_SECONDS)
        except (TimeoutError, EOFError, OSError) as error:
            self.stop()
            raise RuntimeError(f"its process did not start: {type(error).__name__}") from None
        if not succeeded:
            self.stop()
            raise RuntimeError(f"it cannot be loaded in a process of its own: {value}")
        return pipe


def _receive(pipe: Connection, seconds: float) -> Any:
    if not pipe.poll(seconds):
        raise TimeoutError
    return pipe.recv()


def _serve(pipe: Connection, pickled: bytes, file: Path | None, timeout: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer handles Ctrl-C
    try:
        if file is not None:
            load_file(file)
        reward = pickle.loads(pickled)  # noqa: S301 - bytes of the parent process
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        return
    pipe.send((True, None))
    while True:
        try:
            completion, example = pipe.recv()
        except (EOFError, OSError):
            return
        # If the trainer is killed while a call hangs, the kernel's alarm ends this process.
        _alarm(timeout + MARGIN_SECONDS)
        try:
            answer = (True, reward(completion, example))
        except (Exception, SystemExit) as error:
            answer = (False, f"{type(error).__name__}: {error}")
        _alarm(0)
        try:
            pipe.send(answer)
        except (EOFError, OSError):
            return
        except Exception as error:
            pipe.send((False, f"its result cannot be sent between processes: {error}"))


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
