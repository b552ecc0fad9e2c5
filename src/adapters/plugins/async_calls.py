"""Calls of rewards with `async def __call__`, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, MutableMapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any

from adapters.plugins.attempts import Attempt, RewardError, RewardStuckError, checked
from adapters.plugins.reward_worker import MARGIN_SECONDS, renew_after_fork
from adapters.types import Example, Scored

if TYPE_CHECKING:
    from adapters.plugins.rewards import NamedReward

Waiting = MutableMapping[int, float]
"""Number of an open call -> when it began (`time.perf_counter`)."""


class AsyncCalls:
    """Awaits the calls of a reward, at most `parallel` at a time; each is cancelled after `timeout`. Thread-safe.

    One loop serves all batches, because the clients that a reward keeps belong to the loop they were made on. A forked
    child starts a loop of its own.
    """

    def __init__(self, named: NamedReward) -> None:
        self.named, self.timeout = named, named.faults.timeout
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begin without a loop: in a forked child the thread of the parent's does not run."""
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def attempts(self, completions: Sequence[str], examples: Sequence[Example], waiting: Waiting) -> Generator[Attempt]:
        """Yields calls as they come back. Closing it cancels the others."""
        loop, limit = self._running()

        async def attempt(n: int) -> Attempt:
            async with limit:
                waiting[n] = began = time.perf_counter()
                if task := asyncio.current_task():
                    task.set_name(str(n))
                try:
                    return Attempt(n, await self._outcome(completions[n], examples[n]), time.perf_counter() - began)
                finally:
                    waiting.pop(n, None)

        calls = {asyncio.run_coroutine_threadsafe(attempt(n), loop) for n in range(len(completions))}
        try:
            yield from self._as_they_come(calls, examples, waiting, loop)
        finally:
            for call in calls:
                call.cancel()

    def stop(self) -> None:
        """Stop the loop."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def _as_they_come(
        self, calls: set[Future[Attempt]], examples: Sequence[Example], waiting: Waiting, loop: Any
    ) -> Generator[Attempt]:
        pause = None if self.timeout is None else min(self.timeout, 1.0)
        while calls:
            done, calls = wait(calls, timeout=pause, return_when=FIRST_COMPLETED)
            for call in done:
                yield call.result()
            if done or self.timeout is None:
                continue
            latest = time.perf_counter() - self.timeout - MARGIN_SECONDS
            if late := [n for n, began in dict(waiting).items() if began < latest]:
                running = asyncio.current_task(loop)  # a call that blocks the loop makes all the others late
                n = int(running.get_name()) if running and running.get_name().isdigit() else late[0]
                yield Attempt(n, self._stuck(examples[n]), time.perf_counter() - waiting.get(n, latest))
                return

    def _stuck(self, example: Example) -> RewardStuckError:
        return RewardStuckError(
            f"the reward {self.named.name} did not end {MARGIN_SECONDS} s after its timeout of {self.timeout:g} s on "
            f"row {example.id!r}: it blocks the event loop, or goes on when it is cancelled. Await whatever waits, or "
            "write it as an ordinary `def`, which a timeout runs in a process of its own."
        )

    async def _outcome(self, completion: str, example: Example) -> Scored | RewardError:
        name, deadline = self.named.name, asyncio.timeout(self.timeout)
        reward: Any = self.named.reward
        try:
            async with deadline:
                value = await reward(completion, example)
            return checked(name, value, example)
        except RewardError as error:
            return error
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            reason = f"{type(error).__name__}: {error}"
            if deadline.expired():
                reason = f"it took longer than {self.timeout:g} s and was stopped"
            failure = RewardError(f"the reward {name} failed on row {example.id!r}: {reason}")
            failure.__cause__ = error
            return failure

    def _running(self) -> tuple[asyncio.AbstractEventLoop, asyncio.Semaphore]:
        with self._starting:
            if self._loop is None:
                self._loop = loop = asyncio.new_event_loop()
                self._limit = asyncio.Semaphore(self.named.calls_at_once)  # it belongs to the loop
                threading.Thread(target=_serve, args=(loop,), daemon=True).start()
            return self._loop, self._limit


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()
