"""Run a reward with a `timeout` in a child process: a thread that hangs in a regular expression cannot be stopped.

The child is a plain Python process and not one of `multiprocessing`, which runs the program's main file again in every
child: a training script without `if __name__ == "__main__"` would start anew for each worker.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import inspect
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from multiprocessing import Pipe, connection
from pathlib import Path
from typing import Any, Protocol

from adapters.plugins.attempts import plain
from adapters.plugins.registry import FILE_MODULE, load_file
from adapters.types import Example, Reward

STARTUP_SECONDS = 120
"""Limit for starting the process and importing the reward; `timeout` does not count it."""
MARGIN_SECONDS = 5
COMMAND = "import sys; sys.path[:] = {path!r}; from adapters.plugins.reward_worker import serve; serve({end})"


class Renewable(Protocol):
    """What holds locks, threads or pipes that a forked child must not use."""

    def renew(self) -> None:
        """Replace them; in the child, right after the fork."""


_renewed: weakref.WeakSet[Any] = weakref.WeakSet()


def renew_after_fork(it: Renewable) -> None:
    """Renew an object in each child that `os.fork` makes: the child shares the pipes, and no thread survives."""
    _renewed.add(it)


def _after_fork() -> None:
    for it in list(_renewed):
        it.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Workers:
    """At most `most` workers, each started when it is first needed, and reused; further calls wait for a free one.

    Thread-safe, and a forked child starts workers of its own. Raises TypeError for a reward that cannot be sent to
    another process; the message says what to do.
    """

    def __init__(self, reward: Reward, timeout: float, most: int = 1) -> None:
        pickled = pickled_reward(reward)
        # A `./file.py` plug-in has no importable name: the child must load its file before it can unpickle.
        file = getattr(sys.modules.get(reward.__module__), "__file__", None)
        path = Path(file) if file and reward.__module__.startswith(FILE_MODULE) else None
        self.made = [Worker(pickled, path, timeout) for _ in range(most)]
        self._fill()
        renew_after_fork(self)

    def __call__(self, completion: str, example: Example) -> Any:
        """See `Worker`."""
        worker = self._free.get()
        try:
            return worker(completion, example)
        finally:
            self._free.put(worker)

    def stop(self) -> None:
        """Kill the processes, also those at work."""
        for worker in self.made:
            worker.stop()

    def renew(self) -> None:
        """Leave the processes to the parent of this forked child."""
        for worker in self.made:
            worker.forget()
        self._fill()

    def _fill(self) -> None:
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()  # the one used last first: others need no process yet
        for worker in reversed(self.made):
            self._free.put(worker)


class Worker:
    """Calls a reward in a child process, started on the first call and again after it was killed.

    One call at a time.
    """

    def __init__(self, pickled: bytes, file: Path | None, timeout: float) -> None:
        self.timeout, self._pickled, self._file = timeout, pickled, file
        self._running: tuple[subprocess.Popen[bytes], Any] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The child process; None when none runs."""
        return self._running[0] if self._running else None

    def __call__(self, completion: str, example: Example) -> Any:
        """The reward's result. Raises TimeoutError, or RuntimeError when it fails or dies."""
        process, pipe = self._running or self._start()
        try:
            pipe.send((completion, example))
            succeeded, value = _receive(pipe, self.timeout)
        except TimeoutError:
            self.stop()
            raise TimeoutError(f"it took longer than {self.timeout:g} s and was stopped") from None
        except (EOFError, OSError):
            code = _exit_code(process)
            self.stop()
            raise RuntimeError(f"its process died (exit code {code})") from None
        except BaseException:
            self.stop()  # Ctrl-C in a notebook: the answer that still comes is not the next call's
            raise
        if not succeeded:
            raise RuntimeError(value)
        return value

    def stop(self) -> None:
        """Kill the process."""
        running, self._running = self._running, None
        if running is not None:
            process, pipe = running
            process.kill()
            _exit_code(process)
            pipe.close()

    def forget(self) -> None:
        """Let go of a process that another one started."""
        running, self._running = self._running, None
        if running is not None:
            process, pipe = running
            process.returncode = 0  # not this process's child: nothing to wait for
            pipe.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.stop()

    def _start(self) -> tuple[subprocess.Popen[bytes], Any]:
        pipe, child_end = Pipe()
        with child_end:
            command = COMMAND.format(path=sys.path, end=child_end.fileno())
            inherited = [child_end.fileno()]
            if sys.platform == "win32":
                os.set_handle_inheritable(inherited.pop(), True)
            process = subprocess.Popen(  # noqa: S603 - this program and its own module
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                close_fds=bool(inherited),
            )
        self._running = process, pipe
        _alive.add(self)
        try:
            pipe.send((self._pickled, self._file, self.timeout))
            succeeded, value = _receive(pipe, STARTUP_SECONDS)
        except (TimeoutError, EOFError, OSError) as error:
            self.stop()
            raise RuntimeError(f"its process did not start: {type(error).__name__}") from None
        if not succeeded:
            self.stop()
            raise RuntimeError(f"it cannot be loaded in a process of its own: {value}")
        return process, pipe


_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for worker in list(_alive):
        worker.stop()  # a call may hang; the others end by themselves when their pipe closes


def pickled_reward(reward: Reward) -> bytes:
    """A reward as bytes for another process. Raises TypeError, whose message says what to do."""
    kind: Any = reward if inspect.isroutine(reward) else type(reward)
    name = getattr(kind, "__qualname__", repr(kind))
    if kind.__module__ == "__main__":
        raise TypeError(
            f"{_place(kind)}{name} is defined in the program itself, which a process of its own does not run: move it "
            f"into a file of its own, and import it from there or name it as ./file.py:{name}"
        )
    try:
        return pickle.dumps(reward)
    except Exception as error:  # objects may raise anything here
        raise TypeError(
            f"{_place(kind)}{name} cannot be pickled, which running it in a process of its own needs ({error}): if it "
            "holds a client, a lock or a model, make that in the first call and not before"
        ) from None


def _place(kind: Any) -> str:
    with contextlib.suppress(OSError, TypeError):
        return f"{inspect.getsourcefile(kind)}:{inspect.getsourcelines(kind)[1]}: "
    return ""


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(MARGIN_SECONDS)
    return None


def _receive(pipe: Any, seconds: float) -> Any:
    if not pipe.poll(seconds):
        raise TimeoutError
    return pipe.recv()


def serve(end: int) -> None:
    """Be the child: load the reward that the parent sends, then answer its calls until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer handles Ctrl-C
    kind: Any = getattr(connection, "PipeConnection", connection.Connection)  # the first exists on Windows alone
    with kind(end) as pipe, contextlib.suppress(EOFError, OSError):
        pickled, file, timeout = pipe.recv()
        try:
            # What an import prints, this process's parent has printed already.
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                if file is not None:
                    load_file(file)
                reward = pickle.loads(pickled)  # noqa: S301 - bytes of the parent process
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))
            return
        pipe.send((True, None))
        while True:
            _answer(pipe, reward, timeout)


def _answer(pipe: Any, reward: Any, timeout: float) -> None:
    completion, example = pipe.recv()
    with _alarm(timeout + MARGIN_SECONDS):
        try:
            answer = (True, _result(reward(completion, example)))
        except (Exception, SystemExit) as error:
            answer = (False, f"{type(error).__name__}: {error}")
    try:
        pipe.send(answer)
    except (EOFError, OSError):
        raise
    except Exception as error:
        pipe.send((False, f"its result cannot be sent between processes: {error}"))


def _result(value: Any) -> Any:
    # A tensor would take a way of its own between processes, which ends with the one that made it.
    return plain(_runner().run(value) if inspect.iscoroutine(value) else value)


@functools.cache
def _runner() -> Any:
    import asyncio

    return asyncio.Runner()  # one loop for all calls: the clients that a reward keeps belong to a loop


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """If the trainer is killed while a call hangs, the kernel's alarm ends this process."""
    timer = getattr(signal, "setitimer", lambda *_: None)
    timer(getattr(signal, "ITIMER_REAL", 0), seconds)
    try:
        yield
    finally:
        timer(getattr(signal, "ITIMER_REAL", 0), 0)
