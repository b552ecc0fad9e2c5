"""Rewards whose calls are made at the same time: the results, the log and the faults are those of one at a time."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
from tiny import funding_rows

from adapters.errors import UserError
from adapters.integrations import named_reward, trl_reward, verl_score
from adapters.plugins import async_calls
from adapters.plugins.attempts import RewardError, RewardStuckError
from adapters.plugins.grader import Grader
from adapters.plugins.reward_bench import try_reward
from adapters.plugins.reward_probe import probe
from adapters.plugins.rewards import ASYNC_CALLS, FaultPolicy, NamedReward, resolve_all
from adapters.plugins.rollouts import RewardCaller
from adapters.recipe.fields import RewardSpec
from adapters.tasks.funding import FundingTask
from adapters.testing import check_reward
from adapters.types import Example

JUDGES = """
import asyncio, os, threading, time
from dataclasses import dataclass
from adapters.types import Scored

def score(completion):
    kind, _, number = completion.partition(" ")
    if kind == "crash":
        raise KeyError(number)
    if kind == "exit":
        raise SystemExit(3)
    if kind == "cancel":
        raise asyncio.CancelledError
    if kind == "block":
        time.sleep(1.5)
    if kind == "pid":
        return os.getpid() / 2**32
    return None if kind == "none" else Scored(int(number or 0) % 7 / 7, {"length": len(completion)})

@dataclass(frozen=True)
class Sync:
    wait: float = 0.05
    def __call__(self, completion, example):
        time.sleep(5 if completion.startswith("slow") else int(example.id) % 3 * self.wait)
        return score(completion)

@dataclass(frozen=True)
class Async:
    wait: float = 0.05
    async def __call__(self, completion, example):
        await asyncio.sleep(5 if completion.startswith("slow") else int(example.id) % 3 * self.wait)
        return score(completion)

async def loop_of(completion, example):
    return id(asyncio.get_running_loop()) % 2**31 / 2**31

async def exact(completion, example):
    await asyncio.sleep(0)
    return float(completion == example.completion)

def forgotten(completion, example):
    return exact(completion, example)
"""
ROWS = [Example(str(n), "", ({"role": "user", "content": f"row {n}"},), gold=n) for n in range(20)]
GROUPS = [ROWS[n // 4] for n in range(20)]
TEXTS = [f"{'none' if n % 6 == 5 else 'crash' if n % 7 == 6 else 'fine'} {n}" for n in range(20)]


@pytest.fixture
def judge(tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "judges.py").write_text(JUDGES)

    def made(name: str, **params: object) -> NamedReward:
        return named_reward(f"./judges.py:{name}", folder=tmp_path, **params)

    return made


def graded(reward: NamedReward, log: Path) -> tuple[list[float | None], dict[str, float], list[dict], float]:
    caller = RewardCaller(reward, log)
    began = time.perf_counter()
    scores = caller.score(TEXTS, GROUPS, 3)
    seconds = time.perf_counter() - began
    caller.grader.close()
    return scores, caller.take_figures(), [json.loads(line) for line in log.read_text().splitlines()], seconds


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Sync", "Async"])
def test_as_one_at_a_time_but_sooner(judge, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    policy = {"on_error": "skip", "max_errors": 1.0}
    scores, figures, log, slow = graded(judge(name, parallel=1, **policy), tmp_path / "one.jsonl")
    at_once = graded(judge(name, parallel=20, **policy), tmp_path / "all.jsonl")
    log[:] = [{**entry, "reward": name} for entry in log]
    assert at_once[:3] == (scores, figures, log)
    assert [e["completion"] for e in log] == TEXTS
    assert [n for n, e in enumerate(log) if "gold" in e] == [0, 4, 8, 12, 16], "the row once a group"
    assert scores[:7] == [0, 1 / 7, 2 / 7, 3 / 7, 4 / 7, None, None]
    assert figures[f"errors/{name}"] == 2 / 20
    assert sum("error" in e for e in log) == 2
    assert slow > 1.5 * at_once[3]


def test_the_number_of_calls_is_kept(judge, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    assert judge("Sync").calls_at_once == 1
    assert judge("Sync", parallel=5).calls_at_once == 5
    assert judge("Async").calls_at_once == ASYNC_CALLS == 16
    assert judge("Async", parallel=2).calls_at_once == 2
    most, now = [0], [0]

    def counted(completion: str, example: Example) -> float:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.01)
        now[0] -= 1
        return 1.0

    Grader(NamedReward("counted", counted, parallel=3)).scores(["x"] * 20, ROWS)
    assert most == [3]


@pytest.mark.parametrize("name", ["Sync", "Async"])
def test_a_failure_stops_the_others_at_once(judge, tmp_path: Path, name: str) -> None:  # type: ignore[no-untyped-def]
    caller = RewardCaller(judge(name, parallel=4, wait=0.0), tmp_path / "log.jsonl")
    texts = ["fine 1", "slow", "fine 3", "slow", *["fine 2"] * 8, "crash", "fine 5", *["slow"] * 6]
    began = time.perf_counter()
    with pytest.raises(RewardError, match=f"the reward {name} failed on row '12': KeyError"):
        caller.score(texts, ROWS, 1)
    assert time.perf_counter() - began < 2
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [e["completion"] for e in entries if "error" in e] == ["crash"]
    assert next(e for e in entries if "error" in e)["gold"] == 12
    assert {e["completion"] for e in entries} <= {"fine 1", "fine 2", "fine 3", "fine 5", "crash"}
    assert [int(e["id"]) for e in entries] == sorted(int(e["id"]) for e in entries)


@pytest.mark.parametrize("name", ["Sync", "Async"])
def test_the_budget_counts_all_calls(judge, name: str) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(judge(name, parallel=8, on_error="zero", max_errors=0.02, wait=0.0))
    grader.scores(["crash", "crash", *["fine 1"] * 18], ROWS)
    assert (grader.calls, grader.failures) == (20, 2)
    with pytest.raises(RewardError, match=r"3 of \d+ calls failed, more than max_errors"):
        grader.scores(["crash", *["fine 1"] * 19], ROWS)
    grader.close()


def test_counts_of_eight_threads() -> None:
    def odd(completion: str, example: Example) -> float:
        return 1 / 0 if completion == "crash" else 1.0

    grader = Grader(NamedReward("odd", odd, faults=FaultPolicy("zero", max_errors=1.0)))

    def work() -> None:
        for n in range(400):
            assert grader("crash" if n % 4 == 0 else "fine", ROWS[0]).score == (n % 4 > 0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (grader.calls, grader.failures) == (3200, 800)


@pytest.mark.slow
def test_time_limits_of_several_processes(judge) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(judge("Sync", parallel=4, timeout=1.0, on_error="skip", max_errors=1.0))
    first = grader.scores(["pid"] * 12, ROWS[:12])
    assert 1 <= len({scored.score for scored in first}) <= 4
    began = time.perf_counter()
    scores = [s.score for s in grader.scores(["slow", "fine 1", "slow", "fine 2", "slow", "slow", "crash 7"], ROWS[:7])]
    assert scores == [None, 1 / 7, None, 2 / 7, None, None, None]
    assert time.perf_counter() - began < 4.5, "stopped side by side, not one after another"
    assert grader.failures == 5
    assert len(grader._workers.made) == 4, "reused"
    again = {scored.score for scored in grader.scores(["pid"] * 12, ROWS[:12])}
    assert {s.score for s in first} != again, "those that were killed were replaced"
    processes = [worker.process for worker in grader._workers.made]
    grader.close()
    assert None not in [process.poll() for process in processes]


def test_time_limits_of_async_calls(judge) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(judge("Async", timeout=0.3, on_error="zero", max_errors=1.0))
    began = time.perf_counter()
    batch = grader.grade(["slow", "fine 1", "slow", "cancel", "exit", "fine 2"], ROWS[:6])
    assert time.perf_counter() - began < 2
    assert [g.scored.score for g in batch.graded if g] == [0, 1 / 7, 0, 0, 0, 2 / 7]
    errors = [g.error for g in batch.graded if g and g.error]
    assert errors[0] == "the reward Async failed on row '0': it took longer than 0.3 s and was stopped"
    reasons = ["longer than", "longer than", "CancelledError", "SystemExit: 3"]
    assert all(reason in error for reason, error in zip(reasons, errors, strict=True))
    assert grader("fine 3", ROWS[0]).score == 3 / 7, "the loop goes on"
    grader.close()


@pytest.mark.slow
def test_an_async_call_that_blocks_ends_the_run(judge, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(async_calls, "MARGIN_SECONDS", 0.1)
    grader = Grader(judge("Async", timeout=0.2, on_error="skip", max_errors=1.0, wait=0.0))
    with pytest.raises(RewardStuckError, match=r"row '3': it blocks the event loop, .* an ordinary `def`"):
        grader.scores(["fine 1", "slow", "fine 1", "block", "slow"], ROWS[:5])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "parallel"), [("Sync", 1), ("Sync", 4), ("Async", 4)])
def test_a_call_that_hangs_is_shown(
    judge, name: str, parallel: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("adapters.plugins.grader.SLOW", 0.2)
    Grader(judge(name, parallel=parallel, wait=0.3)).scores(["fine 1"] * 3, ROWS[:3])
    said = capsys.readouterr().err
    assert f"warning: the reward {name} has given no answer for 0 s on row '2'" in said
    assert "nothing stops it without a `timeout` in the recipe" in said
    Grader(judge(name, parallel=parallel, wait=0.01)).scores(["fine 1"] * 3, ROWS[:3])
    assert capsys.readouterr().err == ""


def test_an_async_reward_keeps_its_loop(judge) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(judge("loop_of"))
    first = {s.score for s in grader.scores(["x"] * 5, ROWS[:5])}
    assert first == {s.score for s in grader.scores(["x"] * 5, ROWS[:5])} == {grader("x", ROWS[0]).score}
    loop = grader._awaited._loop
    grader.close()
    deadline = time.monotonic() + 5
    while not loop.is_closed() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loop.is_closed()


# --- wherever rewards are used -----------------------------------------------------------------------------------


def test_async_rewards_are_tried_and_tested(judge, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    examples = [FundingTask().example(row, id=row["id"]) for row in funding_rows(6)]
    assert probe(judge("exact"), examples, ()) == []
    with pytest.raises(UserError, match="the reward bad failed on row '1'"):
        probe(NamedReward("bad", judge("Sync").reward, parallel=4), [Example("1", "", (), completion="crash")], ())
    with pytest.raises(UserError, match=r"gave a coroutine .* declare its call as `async def`"):
        probe(judge("forgotten"), examples, ("rewards", 0))
    resolve_all([RewardSpec(use="./judges.py:exact", timeout=1.0)], folder=tmp_path, at=())


@pytest.mark.slow
def test_the_bench_takes_async_rewards(judge) -> None:  # type: ignore[no-untyped-def]
    examples = [FundingTask().example(row, id=row["id"]) for row in funding_rows(6)]
    result = try_reward(judge("exact", parallel=2), examples, FundingTask())
    assert result.errors == []
    assert result.variants["gold"]["mean"] == 1
    assert result.speed["calls_per_second"] > 0
    assert check_reward(judge("exact", parallel=2).reward, examples).errors == []


def test_async_rewards_in_other_trainers(judge, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    judge("exact")
    use = f"{tmp_path}/judges.py:exact"
    assert trl_reward(use)(completions=["a", "b"], target=["a", "a"]) == [1.0, 0.0]
    assert verl_score(use)("x", "a", '"a"', {"target": "a"}) == 1.0
