"""Rewards called under their fault policy, several calls at a time."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple

from adapters.console import console, is_main
from adapters.parallel import each
from adapters.plugins.attempts import Attempt, RewardError, RewardStuckError, checked
from adapters.plugins.reward_worker import Workers, renew_after_fork
from adapters.plugins.rewards import NamedReward
from adapters.types import Example, Scored

BUDGET_FLOOR = 100
"""`max_errors` is a share of at least this many calls: one failure among the first calls is not 100 %."""
SLOW = 60.0
"""Seconds without an answer after which a call is shown; again after twice that, and so on."""


class Graded(NamedTuple):
    """A completion's score under the fault policy, and why its call failed, if it did."""

    scored: Scored
    error: str | None = None


class Batch(NamedTuple):
    """The graded completions of a batch in their order; None for those that no longer were when `error` stopped it."""

    graded: list[Graded | None]
    error: RewardError | None = None
    failed: int | None = None
    """Number of the completion at which it stopped."""


class Grader:
    """Calls a reward under its fault policy, several calls at once if it says so. Counts are per process.

    At most `calls_at_once` calls are open at a time, whichever threads make them; further ones wait. With a `timeout`,
    ordinary rewards run in processes of their own, and async ones are cancelled. Thread-safe, and safe in a forked
    child, which starts processes and counts of its own.
    """

    def __init__(self, named: NamedReward, *, own_process: bool = False) -> None:
        """With `own_process` an async reward with a `timeout` runs in processes too."""
        self.named = named
        self.calls = self.failures = 0
        self.last_error: str | None = None
        """Why the last call failed; None when it did not."""
        self._workers: Workers | None = None
        self._awaited: Any = None
        if named.is_async and not own_process:
            from adapters.plugins.async_calls import AsyncCalls  # asyncio takes its time to import

            self._awaited = AsyncCalls(named)
        elif named.faults.timeout is not None:
            self._workers = Workers(named.reward, named.faults.timeout, named.calls_at_once)
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Make the locks anew: a forked child must not wait for its parent's threads."""
        self._counting = threading.Lock()
        self._free_calls = threading.Semaphore(self.named.calls_at_once)

    def __call__(self, completion: str, example: Example) -> Scored:
        """Score a completion under the fault policy. Raises RewardError when the run must stop."""
        return self.under_policy(self._outcome(completion, example)).scored

    def scores(self, completions: Sequence[str], examples: Sequence[Example]) -> list[Scored]:
        """Score a batch under the fault policy, in its order. Raises RewardError when the run must stop."""
        batch = self.grade(completions, examples)
        if batch.error is not None:
            raise batch.error
        return [graded.scored for graded in batch.graded if graded is not None]

    def grade(self, completions: Sequence[str], examples: Sequence[Example]) -> Batch:
        """Score a batch under the fault policy, up to the call that must stop the run."""
        graded: list[Graded | None] = [None] * len(completions)
        with closing(self.attempts(completions, examples)) as attempts:
            for attempt in attempts:
                try:
                    graded[attempt.n] = self.under_policy(attempt.outcome)
                except RewardError as error:
                    cause = error.__cause__ if isinstance(error.__cause__, RewardError) else error
                    graded[attempt.n] = Graded(Scored(None), str(cause))
                    return Batch(graded, error, attempt.n)
        return Batch(graded)

    def attempts(self, completions: Sequence[str], examples: Sequence[Example]) -> Generator[Attempt]:
        """Score a batch without the policy; yields calls as they come back. Closing it waits for none."""
        waiting: dict[int, float] = {}

        def attempt(n: int) -> Attempt:
            waiting[n] = began = time.perf_counter()
            try:
                return Attempt(n, self._outcome(completions[n], examples[n]), time.perf_counter() - began)
            finally:
                del waiting[n]

        numbers, threads = range(len(completions)), min(self.named.calls_at_once, len(completions))
        with self._slow_calls_shown(waiting, examples):
            if self._awaited is not None:
                yield from self._awaited.attempts(completions, examples, waiting)
            elif threads > 1:
                yield from each(attempt, numbers, threads=threads, window=len(numbers))
            else:
                yield from map(attempt, numbers)

    def attempt(self, completion: str, example: Example) -> Scored:
        """Score a completion without the policy. Raises RewardError for every failure."""
        outcome = self._outcome(completion, example)
        if isinstance(outcome, RewardError):
            raise outcome
        return outcome

    def close(self) -> None:
        """Stop the reward's processes, or its event loop, if it has any."""
        for calls in (self._workers, self._awaited):
            if calls is not None:
                calls.stop()

    def _outcome(self, completion: str, example: Example) -> Scored | RewardError:
        if self._awaited is not None:
            [attempt] = self._awaited.attempts([completion], [example], {})
            outcome: Scored | RewardError = attempt.outcome
            return outcome
        name = self.named.name
        try:
            return checked(name, self._call(completion, example), example)
        except RewardError as error:
            return error
        except (Exception, SystemExit) as error:
            reason = str(error) if self._workers else f"{type(error).__name__}: {error}"
            failure = RewardError(f"the reward {name} failed on row {example.id!r}: {reason}")
            failure.__cause__ = error
            return failure

    def _call(self, completion: str, example: Example) -> Any:
        if self._workers is not None:
            return self._workers(completion, example)
        with self._free_calls:
            return self.named.reward(completion, example)

    def under_policy(self, outcome: Scored | RewardError) -> Graded:
        """Count a call and grade its outcome. Raises RewardError when the run must stop."""
        faults, failed = self.named.faults, isinstance(outcome, RewardError)
        with self._counting:
            self.calls += 1
            self.failures += failed
            calls, failures = self.calls, self.failures
            self.last_error = str(outcome) if failed else None
        if not isinstance(outcome, RewardError):
            return Graded(outcome)
        if faults.on_error == "raise" or isinstance(outcome, RewardStuckError):
            raise outcome
        if failures > faults.max_errors * max(calls, BUDGET_FLOOR):
            raise RewardError(
                f"{failures} of {calls} calls failed, more than max_errors ({faults.max_errors:.1%}) "
                f"allows; the last: {outcome}"
            ) from outcome
        logging.getLogger(__name__).warning("%s", outcome)
        return Graded(Scored(0.0 if faults.on_error == "zero" else None), str(outcome))

    @contextmanager
    def _slow_calls_shown(self, waiting: Mapping[int, float], examples: Sequence[Example]) -> Generator[None]:
        """Say on the screen which call has had no answer for long; `waiting` are the open calls and their starts."""
        ended = threading.Event()

        def watch() -> None:
            shown, due = None, SLOW
            while not ended.wait(SLOW / 20):
                oldest, began = min(dict(waiting).items(), key=lambda call: call[1], default=(None, 0.0))
                if oldest is None:
                    continue
                due = due if oldest == shown else SLOW
                if time.perf_counter() - began >= due:
                    shown, due = oldest, 2 * due
                    _print_slow(self.named, examples[oldest], time.perf_counter() - began, len(waiting) - 1)

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def __del__(self) -> None:
        with suppress(Exception):
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"named": self.named}  # a copy in another process starts its own worker and counts anew

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["named"])  # type: ignore[misc]


def _print_slow(named: NamedReward, example: Example, seconds: float, others: int) -> None:
    text = f"warning: the reward {named.name} has given no answer for {seconds:.0f} s on row {example.id!r}"
    text += f" ({others} other calls are open)" if others > 0 else ""
    text += "" if named.faults.timeout else "; nothing stops it without a `timeout` in the recipe"
    logging.getLogger(__name__).warning("%s", text.removeprefix("warning: "))
    if is_main():
        console(stderr=True).print(text, markup=False, soft_wrap=True)
    else:  # the other processes wait for this one
        print(text, file=sys.stderr, flush=True)
