"""Many slow calls in parallel, such as requests to a server."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, window: int
) -> Generator[Result, None, None]:
    """Call `function` on every item in threads; yields results as they come.

    Reads at most `window` items ahead of the oldest unfinished one. The first exception is raised and stops the rest.
    Closing the generator does not wait for calls in flight.
    """
    items = iter(items)
    running: set[Future[Result]] = set()
    order: deque[tuple[int, Future[Result]]] = deque()
    sent, exhausted = 0, False
    waiting: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()
    # Daemon threads, not an executor's: closing must not wait for a request that may take minutes.
    for _ in range(threads):
        threading.Thread(target=_work, args=(function, waiting), daemon=True).start()
    try:
        while True:
            while order and order[0][1].done():
                order.popleft()
            ahead = sent - order[0][0] if order else 0
            if not exhausted and len(running) < 2 * threads and ahead < window:
                for item in items:
                    future: Future[Result] = Future()
                    waiting.put((item, future))
                    running.add(future)
                    order.append((sent, future))
                    sent += 1
                    break
                else:
                    exhausted = True
                continue
            if not running:
                return
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                running.remove(done)
                yield done.result()
    finally:
        for future in running:
            future.cancel()
        for _ in range(threads):
            waiting.put(None)


def _work(function: Callable[[Item], Result], waiting: queue.SimpleQueue[tuple[Item, Future[Result]] | None]) -> None:
    """Call the function on items of the queue, until None comes or a call fails."""
    while (task := waiting.get()) is not None:
        item, future = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function(item))
        except Exception as error:  # it stops the others too, so this thread takes nothing new
            future.set_exception(error)
            return
