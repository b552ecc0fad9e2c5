"""Run a reward with a `timeout` in a child process: a thread that hangs in a regular expression cannot be stopped."""

from __future__ import annotations

import contextlib
import functools
import inspect
import multiprocessing
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from adapters.plugins.registry import FILE_MODULE, load_file
from adapters.types import Example, Reward

STARTUP_SECONDS = 120
"""Limit for starting the process and importing the reward; `timeout` does not count it."""
MARGIN_SECONDS = 5
PRELOADED = ("adapters.cli.main", "asyncio", __name__)
"""Modules that many processes need; the first is what the command `adapters` imports, and each process again."""
_STARTING = threading.Lock()


class Workers:
    """As many workers as calls are made at once, each made when it is first needed, and reused. Thread-safe."""

    def __init__(self, reward: Reward, timeout: float) -> None:
        self.reward, self.timeout = reward, timeout
        self.made = [Worker(reward, timeout)]
        self._idle = list(self.made)

    def __call__(self, completion: str, example: Example) -> Any:
        """See `Worker`."""
        try:
            worker = self._idle.pop()
        except IndexError:
            self.made.append(worker := Worker(self.reward, self.timeout))
        try:
            return worker(completion, example)
        finally:
            self._idle.append(worker)

    def stop(self) -> None:
        """Kill the processes, also those at work."""
        for worker in self.made:
            worker.stop()


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
        context = _context()
        pipe: Connection
        pipe, child_end = context.Pipe()
        self._pipe = pipe
        arguments = (child_end, self._pickled, self._file, self.timeout)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        with _STARTING:  # multiprocessing keeps its list of processes without a lock
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


def _context() -> Any:
    # A fork of a process with threads and a GPU inherits locks that nobody will release. The fork server is a clean
    # process that imports the modules once, so that thirty processes start in about the time of one.
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


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
            answer = (True, _result(reward(completion, example)))
        except (Exception, SystemExit) as error:
            answer = (False, f"{type(error).__name__}: {error}")
        _alarm(0)
        try:
            pipe.send(answer)
        except (EOFError, OSError):
            return
        except Exception as error:
            pipe.send((False, f"its result cannot be sent between processes: {error}"))


def _result(value: Any) -> Any:
    return _runner().run(value) if inspect.iscoroutine(value) else value


@functools.cache
def _runner() -> Any:
    import asyncio

    return asyncio.Runner()  # one loop for all calls: the clients that a reward keeps belong to a loop


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
