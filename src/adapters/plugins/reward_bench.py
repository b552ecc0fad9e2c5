"""Test a reward: every kind of answer that a model may write, and how it must score beside the gold answer.

| answer                             | must score                                                  |
|------------------------------------|-------------------------------------------------------------|
| gold                               | 1                                                           |
| fenced, shuffled, duplicated       | at most what gold scores                                    |
| empty, garbage, truncated, always empty, 100 kB, and what the task adds | less than gold         |

"Always empty" is an answer of the right form without content, on rows that have content. A task adds wrong answers of
its own by `adversarial(example) -> {name: text}`. A reward that by design cannot tell some of these from gold (one for
brevity, say) lists their names in a class attribute `blind_to`.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from adapters import console
from adapters.plugins.attempts import RewardError
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import GARBAGE, NamedReward, check_signature
from adapters.types import Example, Progress, Scored, Task

AT_MOST_GOLD = ("fenced", "shuffled", "duplicated")
REPEATED = ("gold", "truncated", "garbage")
"""Answers that are scored twice where the time does not allow to score all of them twice."""
SECONDS = 180.0
OVERTIME = 1.25
"""Share of the time after which a test ends, whatever was planned."""
FIRST = 5
"""Answers whose speed decides how many others there is time for."""
LONG = 100_000
LONG_ROWS = 3
HACKABLE = 0.5
"""Share of gold's mean above which a constant answer is warned of."""
TOLERANCE = 1e-9


@dataclass
class RewardTest:
    """Result of testing a reward: `errors` make it unfit, `warnings` may be exploited by a model."""

    name: str
    score_hash: str
    rows: int
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    variants: dict[str, dict[str, float]] = field(default_factory=dict)
    """answer -> n, mean, and `as_gold`: the share of rows on which it scores as high as gold."""
    baselines: dict[str, float] = field(default_factory=dict)
    """Answers that do not depend on the input -> mean reward."""
    speed: dict[str, float] = field(default_factory=dict)
    """first_s: seconds of a call in the first answers; calls_per_second, p50_ms, p99_ms, and long_ms: the slowest call
    on an output of 100 kB."""
    left_out: list[str] = field(default_factory=list)
    """What the time did not allow."""


def try_reward(
    named: NamedReward,
    examples: Sequence[Example],
    task: Task | None = None,
    *,
    limit: float = 10.0,
    seconds: float = SECONDS,
    progress: Progress = lambda *_: None,
) -> RewardTest:
    """Test a reward on gold, on wrong answers made from it, and on constant outputs, under its fault policy.

    All calls are made twice: in another process, which stops them after `limit` seconds, and in this one, to time them
    and to compare the scores. Where that would take longer than `seconds`, by the speed of the first answers, fewer
    answers are made twice, and then fewer rows are tried. Raises ValueError when no example has a target text.
    """
    rows = [e for e in examples if e.completion is not None and e.gold is not None]
    if not rows:
        raise ValueError("no example has a gold answer and a target text")
    check_signature(named.reward, named.use or named.name)
    result = RewardTest(named.name, named.score_hash, len(rows))
    calls = _Calls(named, rows, task, seconds, progress)
    try:
        calls.in_other_process(limit)
    except (RewardError, TypeError) as error:
        result.errors.append(str(error))
        return result
    try:
        calls.in_this_process()
    except RewardError as error:
        result.errors.append(str(error))
    result.rows, result.left_out, result.speed = len(calls.chosen), calls.left_out(), calls.speed()
    _judge(calls, result)
    return result


Call = tuple[int, str]
"""Number of a row, and the text to score for it."""


class _Calls:
    """The calls of a test, each made once in each process, and their scores."""

    def __init__(
        self, named: NamedReward, rows: Sequence[Example], task: Task | None, seconds: float, progress: Progress
    ) -> None:
        self.named, self.rows, self.task, self.seconds, self.progress = named, rows, task, seconds, progress
        self.began = time.monotonic()
        self.constants = baselines(rows, task)
        # A fixed order that is not the file's, whose first rows may be all of one kind.
        self.order = random.Random(0).sample(range(len(rows)), len(rows))
        self.golds = [(n, rows[n].completion or "") for n in self.order[:FIRST]]
        self.chosen: list[int] = []
        self.trials: list[tuple[str, Call]] = []
        """Name of an answer (of a constant one after "="), and its call."""
        self.names: dict[Call, str] = {}
        self.repeated: list[Call] = []
        self.first: dict[Call, Scored] = {}
        self.second: dict[Call, Scored] = {}
        self.took: list[dict[Call, float]] = [{}, {}]
        """Seconds of the calls in the other process, and in this one."""
        self.first_seconds = 0.0
        self.failures: list[str] = []
        self.counted = 0
        self.late = False
        """Whether calls took so long that others were not made."""

    def in_other_process(self, limit: float) -> None:
        """Make the first calls, choose others by their speed, and make those. Raises RewardError or TypeError."""
        grader = Grader(_with_timeout(self.named, limit), own_process=True)
        try:
            console.phase(f"{self.named.name}: first answers")
            for gold in self.golds:  # one at a time: the first waits for the process to start
                self._make(grader, [gold], self.first, self.took[0])
            self.first_seconds = statistics.median(self.took[0].values())
            self._choose()
            took = f"the first took {_time(self.first_seconds)} each"
            console.phase(f"{self.named.name}: scoring {len(self.names):,} answers ({took})")
            self._make(grader, [call for call in self.names if call not in self.golds], self.first, self.took[0])
        finally:
            grader.close()

    def in_this_process(self) -> None:
        """Make the calls again, backwards: a reward that remembers would give itself away. Raises RewardError."""
        grader = Grader(_with_timeout(self.named, None))  # in this process, whatever the recipe says
        try:
            calls = [call for call in self.repeated if call in self.first]  # nothing would stop one that hung there
            self._make(grader, calls[::-1], self.second, self.took[1])
        finally:
            grader.close()

    def left_out(self) -> list[str]:
        """What the time did not allow, in a sentence; empty if nothing was left out."""
        made, again = len(self.took[0]), len(self.took[1])
        all_planned = len(self.chosen) == len(self.rows) and len(self.repeated) == len(self.names)
        if all_planned and not self.late:
            return []
        all_calls = FIRST + 2 * len(self.names) / len(self.chosen) * len(self.rows)
        needed = math.ceil(all_calls * self.first_seconds / self.named.calls_at_once)
        text = (
            f"a call takes {_time(self.first_seconds)}, so of {len(self.rows)} rows {len(self.chosen)} were tried, and "
            f"of {made} calls {again} were made twice; all of it takes {console.clock(needed)}: adapters rewards test "
            f"with the same settings and --seconds {needed}; --set parallel=N makes N calls at a time"
        )
        missing = len(self.names) - made
        return [text, *([f"{missing} calls were not made, because others took longer than the first"] * (missing > 0))]

    def speed(self) -> dict[str, float]:
        """See `RewardTest.speed`."""
        took = self.took[1] if len(self.took[1]) == len(self.took[0]) else self.took[0]
        is_long = {call: self.names[call].startswith("100 kB") for call in took}
        usual = sorted(seconds for call, seconds in took.items() if not is_long[call])
        long = max((seconds for call, seconds in took.items() if is_long[call]), default=0.0)
        return {
            "first_s": round(self.first_seconds, 6),
            "calls_per_second": round(len(usual) / max(sum(usual), 1e-9), 1),
            "p50_ms": round(1000 * usual[len(usual) // 2], 3),
            "p99_ms": round(1000 * usual[int(0.99 * (len(usual) - 1))], 3),
            "long_ms": round(1000 * long, 3),
        }

    def _choose(self) -> None:
        """Choose as many rows and repetitions as there is time for, one row at least."""
        left = self.seconds - (time.monotonic() - self.began)
        affordable = left * self.named.calls_at_once / max(self.first_seconds, 1e-9)
        count, repeats = len(self.rows), True
        while True:
            self.chosen = sorted(self.order[:count])
            self.trials = self._trials(long_rows=LONG_ROWS if count == len(self.rows) else 1)
            self.names = {}
            for name, call in self.trials:
                self.names.setdefault(call, name)  # a constant may be the very text of another answer
            self.repeated = [call for call, name in self.names.items() if repeats or name in REPEATED]
            if len(self.names) + len(self.repeated) <= affordable or count == 1:
                return
            count, repeats = (count, False) if repeats else (count // 2, False)

    def _trials(self, long_rows: int) -> list[tuple[str, Call]]:
        made = [
            (name, (n, text))
            for at, n in enumerate(self.chosen)
            for name, text in answers(self.rows[n], self.task, long=at < long_rows).items()
        ]
        made += [("gold", call) for call in self.golds if call[0] not in self.chosen]
        return made + [(f"={name}", (n, make(n))) for name, make in self.constants.items() for n in self.chosen]

    def _make(self, grader: Grader, calls: Sequence[Call], out: dict[Call, Scored], took: dict[Call, float]) -> None:
        texts, examples = [text for _, text in calls], [self.rows[n] for n, _ in calls]
        with closing(grader.attempts(texts, examples)) as attempts:
            for done, (at, outcome, seconds) in enumerate(attempts, 1):
                took[calls[at]] = seconds
                try:
                    graded = grader.under_policy(outcome)
                except RewardError as error:
                    raise RewardError(f"{self.names.get(calls[at], 'gold').removeprefix('=')}: {error}") from error
                self.counted += 1
                if graded.error is None:
                    out[calls[at]] = graded.scored
                else:
                    self.failures.append(graded.error)
                if self.names:
                    self.progress(len(self.took[0]) + len(self.took[1]), len(self.names) + len(self.repeated), {})
                if time.monotonic() - self.began > OVERTIME * self.seconds and done < len(calls):
                    self.late = True
                    return


def _time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:,.1f} ms"


def _with_timeout(named: NamedReward, timeout: float | None) -> NamedReward:
    return replace(named, faults=replace(named.faults, timeout=timeout))


def _judge(calls: _Calls, result: RewardTest) -> None:
    """Add to a result what the scores say."""
    if calls.failures:
        result.warnings.append(
            f"{len(calls.failures)} of {calls.counted} calls failed, which on_error: {calls.named.faults.on_error} "
            f"lets pass; the last: {calls.failures[-1]}"
        )
    both = [call for call in calls.second if call in calls.first]
    if differing := [call for call in both if calls.first[call] != calls.second[call]]:
        n, name = differing[0][0], calls.names[differing[0]].removeprefix("=")
        result.errors.append(
            f"not deterministic: {len(differing)} of {len(both)} calls scored differently in another process, such "
            f"as {name} on row {calls.rows[n].id!r}"
        )
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for name, call in calls.trials:
        if call in calls.first and (score := calls.first[call].score) is not None:
            scores[name][call[0]] = score
    _rank(scores, calls.rows, frozenset(getattr(calls.named.reward, "blind_to", ())), result)
    best = result.variants.get("gold", {}).get("mean", 0.0)
    for name in calls.constants:
        if earned := scores.get(f"={name}"):
            result.baselines[name] = mean = math.fsum(earned.values()) / len(earned)
            enough = len(earned) >= FIRST or not result.left_out
            if enough and best and mean > HACKABLE * best:
                result.warnings.append(f"{name}, whatever the input, earns {mean:.3f} of gold's {best:.3f} on average")
    if result.speed["long_ms"] > 1000:
        seconds = result.speed["long_ms"] / 1000
        usual = result.speed["p50_ms"] / 1000
        if seconds > 2 * usual:
            result.warnings.append(f"an output of 100 kB takes {seconds:.1f} s; a `timeout` in the recipe limits it")


def answers(example: Example, task: Task | None = None, *, long: bool = False) -> dict[str, str]:
    """Gold and the answers made from it, name -> text, without those that equal gold."""
    gold = example.completion or ""
    value = _parse(gold)
    out = {
        "gold": gold,
        "fenced": f"```json\n{gold}\n```",
        "shuffled": _each_list(value, lambda items: items[::-1]) or "\n".join(gold.splitlines()[::-1]),
        "duplicated": _each_list(value, lambda items: items * 2) or f"{gold}\n{gold}",
        "truncated": gold[: max(1, len(gold) // 2)],
        "empty": "",
        "always empty": _empty_answer(example, task),
        "garbage": GARBAGE,
    }
    out |= getattr(task, "adversarial", lambda _: {})(example)
    if long:
        out |= {
            "100 kB of gold": (gold + "\n") * (LONG // (len(gold) + 1) + 1),
            "100 kB of one letter": "a" * LONG,
            "100 kB of brackets": "[" * LONG,
        }
    return {k: text for k, text in out.items() if k == "gold" or not (text == gold or _same(_parse(text), value))}


def baselines(rows: Sequence[Example], task: Task | None = None) -> dict[str, Callable[[int], str]]:
    """Answers that ignore the row's text: name -> the answer for a row's number."""
    golds = [e.completion or "" for e in rows]
    most_common = Counter(golds).most_common(1)[0][0]
    empty = [_empty_answer(e, task) for e in rows]
    out: dict[str, Callable[[int], str]] = {
        "nothing at all": lambda n: "",
        "the most common answer": lambda n: most_common,
        "another row's answer": lambda n: golds[(n + 1) % len(golds)],
        "the prompt": lambda n: rows[n].prompt[-1]["content"] if rows[n].prompt else "",
    }
    if any(empty):
        out["an empty answer"] = lambda n: empty[n]
    return out


def _empty_answer(example: Example, task: Task | None) -> str:
    of_task: Callable[[Example], str] | None = getattr(task, "empty_answer", None)
    return of_task(example) if of_task else _each_list(_parse(example.completion or ""), lambda _: []) or ""


def _rank(
    scores: Mapping[str, Mapping[int, float]], rows: Sequence[Example], blind_to: frozenset[str], out: RewardTest
) -> None:
    gold = scores.get("gold", {})
    if not gold:
        out.errors.append("gives no score to any gold answer")
        return
    blind: list[str] = []
    for name, earned in scores.items():
        shared = [n for n in earned if n in gold]
        if name.startswith("=") or not shared:
            continue
        equal = [n for n in shared if earned[n] >= gold[n] - TOLERANCE]
        out.variants[name] = {
            "n": len(shared),
            "mean": math.fsum(earned[n] for n in shared) / len(shared),
            "as_gold": len(equal) / len(shared),
        }
        if name in blind_to:
            blind += [name] * (len(equal) == len(shared))
        elif name == "gold":
            if low := [n for n in shared if gold[n] < 1 - TOLERANCE]:
                out.errors.append(f"gold earns less than 1 on {_rows(low, shared, rows)}: {gold[low[0]]:.3f}")
        elif higher := [n for n in shared if earned[n] > gold[n] + TOLERANCE]:
            scores_of_first = f"{earned[higher[0]]:.3f}, {gold[higher[0]]:.3f}"
            out.errors.append(f"prefers {name} to gold on {_rows(higher, shared, rows)}: {scores_of_first}")
        elif equal and name not in AT_MOST_GOLD:
            everywhere = len(equal) == len(shared) and not (out.left_out and len(shared) < FIRST)
            kind = out.errors if everywhere else out.warnings
            kind.append(f"{name} earns as much as gold on {_rows(equal, shared, rows)}")
    if blind:
        out.warnings.append(f"it cannot tell from gold, as its `blind_to` says: {', '.join(blind)}")


def _rows(some: Sequence[int], of: Sequence[int], rows: Sequence[Example]) -> str:
    return f"{len(some)} of {len(of)} rows, such as {rows[some[0]].id!r}"


_NO_JSON = object()


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NO_JSON


def _same(a: Any, b: Any) -> bool:
    return a is not _NO_JSON and type(a) is type(b) and bool(a == b)


def _each_list(value: Any, change: Callable[[list[Any]], list[Any]]) -> str | None:
    """The answer with its lists changed; None when it is no JSON list and no object of lists."""
    if isinstance(value, list):
        return json.dumps(change(value), ensure_ascii=False)
    if isinstance(value, dict) and any(isinstance(v, list) for v in value.values()):
        return json.dumps({k: change(v) if isinstance(v, list) else v for k, v in value.items()}, ensure_ascii=False)
    return None
