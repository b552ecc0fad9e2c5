"""Many slow calls side by side, such as requests to a server."""

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
    """What `function` makes of every item, as it comes, reading at most `window` items ahead of the oldest open one.

    The first error ends it. Whoever leaves early does not wait for the calls on their way.
    """
    items = iter(items)
    running: set[Future[Result]] = set()
    order: deque[tuple[int, Future[Result]]] = deque()
    sent, exhausted = 0, False
    waiting: queue.SimpleQueue[tuple[Item, Future[Result]] | None] = queue.SimpleQueue()

    def work() -> None:
        while (task := waiting.get()) is not None:
            item, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(item))
            except Exception as error:  # the first ends everything, so this thread takes nothing new
                future.set_exception(error)
                return

    # Daemons, not an executor's threads: whoever gives up must not wait for a request that may take minutes.
    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
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
