"""Rewards of a recipe: resolved, named, called under their fault policy, probed."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from adapters.console import console, is_main
from adapters.errors import KeyPath, UserError
from adapters.parallel import each
from adapters.plugins.attempts import Attempt
from adapters.plugins.attempts import RewardError as RewardError
from adapters.plugins.attempts import RewardStuckError as RewardStuckError
from adapters.plugins.attempts import checked as checked
from adapters.plugins.registry import offered, resolve
from adapters.plugins.reward_worker import Workers, pickled_reward, renew_after_fork
from adapters.plugins.source_files import identity, score_hash
from adapters.recipe.fields import RewardSpec
from adapters.recipe.load import RecipeFile
from adapters.types import Example, Reward, Scored

GARBAGE = "]]} this is not an answer {{["
BUDGET_FLOOR = 100
"""`max_errors` is a share of at least this many calls: one failure among the first calls is not 100 %."""
ASYNC_CALLS = 16
"""Calls of an async reward at a time, if the recipe says nothing."""
PROBE_SECONDS = 20.0
"""Seconds for trying a reward before a run."""
SLOW = 60.0
"""Seconds without an answer after which a call is shown; again after twice that, and so on."""


@dataclass(frozen=True, slots=True)
class FaultPolicy:
    """What happens when a reward fails: the keys of `RewardSpec` with these names."""

    on_error: str = "raise"
    timeout: float | None = None
    max_errors: float = 0.02


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A configured reward under the name its figures are logged by."""

    name: str
    reward: Reward
    weight: float = 1.0
    identity: str = ""
    """Its part of a stage's fingerprint: see `source_files.identity`."""
    faults: FaultPolicy = FaultPolicy()
    score_hash: str = ""
    """Hash of the scoring code and its parameters; evaluations are reused by it."""
    parallel: int | None = None
    """Calls at a time, as the recipe has it."""
    use: str = ""
    """What the recipe calls it by."""

    @property
    def is_async(self) -> bool:
        """Whether its calls are to be awaited."""
        calls: tuple[Any, ...] = (self.reward, type(self.reward).__call__)
        return any(map(inspect.iscoroutinefunction, calls))

    @property
    def calls_at_once(self) -> int:
        """Calls that are made at the same time, at most."""
        return self.parallel or (ASYNC_CALLS if self.is_async else 1)

    @property
    def record(self) -> dict[str, Any]:
        """Its entry in a stage's manifest."""
        return {
            "name": self.name,
            "reward": repr(self.reward) if is_dataclass(self.reward) else self.name,
            "weight": self.weight,
            "score_hash": self.score_hash,
        }


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


def resolve_all(specs: Sequence[RewardSpec], *, folder: Path, at: KeyPath) -> tuple[NamedReward, ...]:
    """The rewards of a stage as instances, each under a unique name."""
    out: dict[str, NamedReward] = {}
    for n, spec in enumerate(specs):
        reward = resolve("rewards", spec, folder=folder, at=(*at, n))
        _check_names(reward, spec, (*at, n))
        check_signature(reward, spec.use, (*at, n))
        is_async = NamedReward("", reward).is_async
        if spec.timeout is not None and not is_async:
            _check_pickles(reward, spec, (*at, n, "timeout"))
        name = spec.use.rpartition(":")[2]
        if taken := sum(name in (other, other.rpartition("#")[0]) for other in out):
            name = f"{name}#{taken + 1}"
        code = identity("rewards", spec, reward, folder)
        faults = FaultPolicy(spec.on_error, spec.timeout, spec.max_errors)
        scoring = score_hash("rewards", spec, reward, folder)
        out[name] = NamedReward(name, reward, spec.weight, code, faults, scoring, spec.parallel, spec.use)
    return tuple(out.values())


def _check_names(reward: Reward, spec: RewardSpec, at: KeyPath) -> None:
    # A parameter of that name could never be set: the recipe's own key takes the value.
    parameters: set[str] = {f.name for f in fields(reward)} if is_dataclass(reward) else set()
    if clash := sorted(parameters & set(type(spec).model_fields)):
        raise UserError(f"{spec.use} has a parameter {clash[0]!r}, which is a key of every reward; rename it.", at=at)


def _check_pickles(reward: Reward, spec: RewardSpec, at: KeyPath) -> None:
    try:
        pickled_reward(reward)
    except TypeError as error:
        raise UserError(f"{error}.", at=at) from None


def check_signature(reward: Reward, use: str, at: KeyPath = ()) -> None:
    """Refuse what is not called with (completion, example), such as a reward of another trainer. Raises UserError."""
    try:
        signature = inspect.signature(reward)
    except (TypeError, ValueError):  # no Python code
        return
    name = use.rpartition(":")[2]
    call = f"`def {name}(" if inspect.isfunction(reward) else "`def __call__(self, "
    wanted = f"Here a reward scores one completion: write {call}completion, example)`, which returns a number in [0, 1]"
    if {"solution_str", "solution_strs"} & signature.parameters.keys():
        kind = "as verl's score functions do"
        wanted += "; solution_str is `completion`, ground_truth `example.gold`, extra_info `example.meta`"
    elif "completions" in signature.parameters:
        kind = "as TRL's reward functions do"
        wanted += "; the row's gold is `example.gold`, its prompt `example.prompt`"
    elif _takes_two(signature):
        return
    else:
        kind = "which is not (completion, example)"
    raise UserError(f"{use} takes {signature}, {kind}. {wanted}.", at=at)


def _takes_two(signature: inspect.Signature) -> bool:
    """Whether it can be called with completion and example. A completion in the second place would get the example."""
    first, second = [*signature.parameters, "", ""][:2]
    if first == "prompt" or second == "completion":
        return False
    try:
        signature.bind("", None)
    except TypeError:
        return False
    return True


def task_of(reward: Reward | None, name: str, given: str | None = None) -> str | None:
    """The task of a reward's rows: the given, its `task` attribute, or the one of its name."""
    return given or getattr(reward, "task", None) or (name if offered("tasks", name) else None)


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


def probe(named: NamedReward, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Try a reward on gold, empty and garbage text of 20 rows before any model is loaded.

    A slow reward is tried on as many rows as `PROBE_SECONDS` allow, one at least. Raises UserError when it fails,
    leaves [0, 1], or scores garbage higher than gold. Returns notes. A reward with `on_error` zero or skip may fail
    here, except on gold.
    """
    rows = [example for example in examples[:20] if example.completion is not None]
    texts = [text for example in rows for text in (example.completion or "", "", GARBAGE)]
    scores: list[float | None] = [None] * len(texts)
    seconds, failed = list[float](), 0
    grader, until = Grader(named), time.monotonic() + PROBE_SECONDS
    try:
        with closing(grader.attempts(texts, [example for example in rows for _ in range(3)])) as attempts:
            for n, outcome, took in attempts:
                seconds.append(took)
                if not isinstance(outcome, RewardError):
                    scores[n] = outcome.score
                elif named.faults.on_error == "raise" or isinstance(outcome, RewardStuckError) or n % 3 == 0:
                    raise UserError(str(outcome), at=at) from outcome
                else:
                    failed += 1
                if time.monotonic() > until and len(seconds) >= 3:
                    break
    finally:
        grader.close()
    return _probed(named, rows, scores, seconds, failed, at)


def _probed(
    named: NamedReward,
    rows: Sequence[Example],
    scores: Sequence[float | None],
    seconds: Sequence[float],
    failed: int,
    at: KeyPath,
) -> list[str]:
    as_gold, tried, notes = 0, len(seconds) // 3, list[str]()
    for row, example in enumerate(rows):
        gold, *wrong = scores[3 * row : 3 * row + 3]
        best = max(score or 0 for score in wrong)
        if gold is not None and best > gold + 1e-9:
            raise UserError(
                f"{named.name} scores empty or broken text ({best:.3f}) higher than the gold answer ({gold:.3f}) "
                f"on row {example.id!r}; the model would learn to write such text.",
                at=at,
            )
        as_gold += gold is not None and wrong[1] == gold > 0
    if tried < len(rows):
        notes.append(
            f"the reward {named.name} was tried on {tried} of {len(rows)} rows, because a call takes "
            f"{sum(seconds) / len(seconds):.2g} s; for more: adapters rewards test {named.use or named.name}"
        )
    if as_gold:
        notes.append(f"the reward {named.name} scores broken text as high as gold on {as_gold} of {tried} rows tried")
    if failed:
        notes.append(f"the reward {named.name} fails on empty or broken text; on_error: {named.faults.on_error}")
    return notes


def stage_rewards(file: RecipeFile) -> list[tuple[NamedReward, ...]]:
    """The rewards of each stage; empty for stages that have none."""
    return [
        resolve_all(getattr(stage, "rewards", ()), folder=file.folder, at=("stages", n, "rewards"))
        for n, stage in enumerate(file.recipe.stages)
    ]
