"""A task's `example`, called and checked: what it returns must be readable to every trainer, and must come in time."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from adapters.errors import UserError
from adapters.types import ROLES, Example, Row, Task

LIMIT = 10.0
"""Seconds that one call may take; the built-in tasks take milliseconds."""


class TaskError(UserError):
    """A fault of a task, which the message names with the method and the row."""


def guarded(task: Task) -> Any:
    """The task's `example` alone, as `checked_example` calls it."""
    return SimpleNamespace(example=partial(checked_example, task, type(task).__name__))


def checked_example(task: Task, name: str, row: Row, *, source: str = "", id: str = "") -> Example:
    """The example of a row. Raises TaskError for one that no trainer could read, and after `LIMIT` seconds."""
    with time_limit(f"the task {name}: example", f"row {id!r}"):
        example: Any = task.example(row, source=source, id=id)
    if fault := _example_fault(example):
        raise TaskError(f"the task {name}: example {fault} for row {id!r}.", at=("task",))
    checked: Example = example
    return checked


def _example_fault(example: Any) -> str:
    """What is wrong with the parts of an example; "" if nothing is."""
    if not isinstance(example, Example):
        return f"returns {_type(example)}, and must return adapters.types.Example(…),"
    texts = {"id": str, "source": str, "completion": str | None, "rejected": str | None}
    for part, kind in texts.items():
        if not isinstance(value := getattr(example, part), kind):
            return f"gives {_type(value)} as {part}, not a text,"
    if not isinstance(example.meta, Mapping):
        return f"gives {_type(example.meta)} as meta, not a mapping such as {{}},"
    prompt: Any = example.prompt
    if not isinstance(prompt, tuple | list):
        return f'gives {_type(prompt)} as prompt, not a tuple of messages ({{"role": "user", "content": …}},),'
    if not prompt:
        return "gives a prompt without messages"
    return next((fault for n, message in enumerate(prompt, 1) if (fault := _message_fault(message, n))), "")


def _message_fault(message: Any, n: int) -> str:
    if not isinstance(message, Mapping):
        return f"gives {_type(message)} as message {n} of the prompt, not an object with role and content,"
    if (role := message.get("role")) not in ROLES:
        return f"gives the role {role!r} to message {n} of the prompt (known: {', '.join(ROLES)})"
    if "content" not in message:
        return f"gives message {n} of the prompt no content"
    content = message["content"]
    if not isinstance(content, str) and not (content is None and message.get("tool_calls")):
        only = ", which only a message with tool_calls may have," if content is None else ", not a text,"
        return f"gives {_type(content)} as content of message {n} of the prompt{only}"
    return ""


def _type(value: Any) -> str:
    return "None" if value is None else type(value).__name__


class _Overrun(BaseException):
    """Where a call was that took too long. No `except Exception` of a plug-in catches it."""


@contextmanager
def time_limit(method: str, what: str, seconds: float | None = None) -> Iterator[None]:
    """Interrupt a call after some seconds (`LIMIT`) with a TaskError, where there are timers, in the main thread."""
    seconds = LIMIT if seconds is None else seconds
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_: int, frame: FrameType | None) -> None:
        raise _Overrun(f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}" if frame else "C code")

    handler = signal.signal(signal.SIGALRM, interrupt)
    # Again every second: the call may be in an `except:` that catches everything.
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    except _Overrun as overrun:
        told = f"{method} does not end on {what}: a timer (SIGALRM) stopped it after {seconds:g} s in {overrun}."
        raise TaskError(told, at=("task",)) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)


def own_rows(task: Any) -> Iterator[Row]:
    """The made-up rows that a task has itself."""
    yield from getattr(task, "example_rows", ())
    if (row := getattr(task, "example_row", None)) is not None:
        yield row


def own_example(task: Task, row: Row, name: str) -> Example:
    """The example of one of these rows. Raises UserError for a task that cannot read its own rows."""
    try:
        return checked_example(task, name, row, id=str(row.get("id", "")))
    except TaskError:
        raise
    except Exception as error:  # a task is anybody's code
        raise UserError(f"the task {name}: example fails on row {row.get('id')!r} of its own: {say(error)}.") from error


def say(error: BaseException) -> str:
    """An error in a line, at most 200 characters of it."""
    first = next(iter(str(error).strip().splitlines()), "")[:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
