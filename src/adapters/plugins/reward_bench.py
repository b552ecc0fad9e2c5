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
import pickle
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.parallel import each
from adapters.plugins.reward_worker import Workers
from adapters.plugins.rewards import GARBAGE, FaultPolicy, Grader, NamedReward, RewardError, checked
from adapters.types import Example, Scored, Task

AT_MOST_GOLD = ("fenced", "shuffled", "duplicated")
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
    """calls_per_second, p50_ms, p99_ms, and long_ms: the slowest call on an output of 100 kB."""


def try_reward(
    named: NamedReward, examples: Sequence[Example], task: Task | None = None, *, limit: float = 10.0
) -> RewardTest:
    """Test a reward on gold, on wrong answers made from it, and on constant outputs.

    All calls are made twice: in another process, which stops them after `limit` seconds, and in this one, to time them
    and to compare the scores. Raises ValueError when no example has a target text.
    """
    rows = [e for e in examples if e.completion is not None and e.gold is not None]
    if not rows:
        raise ValueError("no example has a gold answer and a target text")
    result = RewardTest(named.name, named.score_hash, len(rows))
    trials = [(n, *answer) for n, e in enumerate(rows) for answer in answers(e, task, long=n < LONG_ROWS).items()]
    constants = baselines(rows, task)
    trials += [(n, f"={name}", make(n)) for name, make in constants.items() for n in range(len(rows))]
    try:
        first = _in_other_process(named, rows, trials, limit)
    except RewardError as error:
        result.errors.append(str(error))
        return result
    second = _in_this_process(named, rows, trials, result)
    if differing := [t for t, a, b in zip(trials, first, second, strict=True) if b != a]:
        n, name, _ = differing[0]
        result.errors.append(
            f"not deterministic: {len(differing)} of {len(trials)} calls scored differently in another process, such "
            f"as {name.removeprefix('=')} on row {rows[n].id!r}"
        )
    scores: dict[str, dict[int, float]] = defaultdict(dict)
    for (n, name, _), scored in zip(trials, second, strict=True):
        if scored is not None and scored.score is not None:
            scores[name][n] = scored.score
    _rank(scores, rows, frozenset(getattr(named.reward, "blind_to", ())), result)
    best = result.variants.get("gold", {}).get("mean", 0.0)
    for name in constants:
        if earned := scores.get(f"={name}"):
            result.baselines[name] = mean = math.fsum(earned.values()) / len(earned)
            if best and mean > HACKABLE * best:
                result.warnings.append(f"{name}, whatever the input, earns {mean:.3f} of gold's {best:.3f} on average")
    return result


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


def _in_other_process(
    named: NamedReward, rows: Sequence[Example], trials: Sequence[tuple[int, str, str]], limit: float
) -> list[Scored]:
    try:
        workers = Workers(named.reward, limit)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RewardError(f"cannot be pickled, so it cannot run in a process of its own: {error}") from error

    def scored(at: int) -> tuple[int, Scored]:
        n, name, text = trials[at]
        try:
            return at, checked(named.name, workers(text, rows[n]), rows[n])
        except (RuntimeError, TimeoutError) as error:
            where = f"{name.removeprefix('=')} of row {rows[n].id!r}"
            raise RewardError(f"fails on {where}: {error}") from error

    try:
        out = dict(each(scored, range(len(trials)), threads=named.calls_at_once, window=len(trials)))
    finally:
        workers.stop()
    return [out[at] for at in range(len(trials))]


def _in_this_process(
    named: NamedReward, rows: Sequence[Example], trials: Sequence[tuple[int, str, str]], result: RewardTest
) -> list[Scored | None]:
    out: list[Scored | None] = [None] * len(trials)
    grader = Grader(replace(named, faults=FaultPolicy()))  # in this process, whatever the recipe says
    usual, long = list[float](), [0.0]
    # Backwards: a reward that remembers what it saw before would give itself away.
    backwards = trials[::-1]
    for at, outcome, seconds in grader.attempts([text for *_, text in backwards], [rows[n] for n, *_ in backwards]):
        if isinstance(outcome, RewardError):
            result.errors.append(str(outcome))
            continue
        out[len(trials) - 1 - at] = outcome
        (long if backwards[at][1].startswith("100 kB") else usual).append(seconds)
    grader.close()
    usual.sort()
    if usual:
        result.speed = {
            "calls_per_second": round(len(usual) / max(sum(usual), 1e-9), 1),
            "p50_ms": round(1000 * usual[len(usual) // 2], 3),
            "p99_ms": round(1000 * usual[int(0.99 * (len(usual) - 1))], 3),
            "long_ms": round(1000 * max(long), 3),
        }
        if max(long) > 1:
            result.warnings.append(f"an output of 100 kB takes {max(long):.1f} s; a `timeout` in the recipe limits it")
    return out


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
            kind = out.errors if len(equal) == len(shared) else out.warnings
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
