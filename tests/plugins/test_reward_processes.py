"""Rewards called by several threads and processes at the same time, and from programs without a main guard."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from adapters.errors import UserError
from adapters.integrations import named_reward, trl_reward, verl_score
from adapters.plugins.grader import Grader
from adapters.plugins.reward_bench import try_reward
from adapters.plugins.reward_worker import Workers
from adapters.plugins.rewards import NamedReward
from adapters.testing import check_reward
from adapters.types import Example

LENGTHS = """
import asyncio, os, time
from dataclasses import dataclass
from adapters.types import Scored

@dataclass(frozen=True)
class Length:
    wait: float = 0.0
    part_names = ("tenth",)
    def __call__(self, completion, example):
        if completion == "pid":
            return os.getpid() / 2**32
        time.sleep(self.wait)
        return Scored(len(completion) / 4000, {"tenth": len(completion) / 40000})

def tensor(completion, example):
    import torch
    return Scored(torch.tensor(0.5), {"tenth": torch.tensor(True)})

@dataclass(frozen=True)
class AsyncLength:
    async def __call__(self, completion, example):
        await asyncio.sleep(0)
        return len(completion) / 4000

@dataclass(frozen=True)
class MostOpen:
    async def __call__(self, completion, example):
        OPEN.append(1)
        await asyncio.sleep(0.01)
        return len(OPEN) / 100 if not OPEN.pop() else sum(OPEN) / 100 + 0.01

OPEN = []
"""
EXAMPLE = Example("1", "", (), completion="x", gold="x")


@pytest.fixture
def lengths(tmp_path: Path) -> str:
    (tmp_path / "lengths.py").write_text(LENGTHS)
    return f"{tmp_path}/lengths.py"


def in_threads(call: Callable[[int], Any], numbers: range, threads: int = 8) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, numbers))


@pytest.mark.parametrize("timeout", [None, 20.0])
@pytest.mark.parametrize("parallel", [1, 4])
@pytest.mark.parametrize("name", ["Length", "AsyncLength"])
@pytest.mark.slow
def test_two_thousand_calls_of_eight_threads_get_their_own_scores(
    lengths: str, name: str, parallel: int, timeout: float | None
) -> None:
    settings: dict[str, Any] = {"timeout": timeout, "parallel": parallel}
    score = verl_score(f"{lengths}:{name}", parts=(), **settings)
    numbers = range(1, 2001)
    assert in_threads(lambda n: score("d", "x" * n, "{}"), numbers) == [n / 4000 for n in numbers]
    score.grader.close()
    reward = trl_reward(f"{lengths}:{name}", **settings)
    batches = in_threads(lambda n: reward(completions=["x" * (4 * n + k) for k in range(4)]), range(500))
    assert batches == [[(4 * n + k) / 4000 for k in range(4)] for n in range(500)]
    reward.caller.grader.close()


@pytest.mark.slow
def test_tensors_come_back_from_a_process_as_numbers(lengths: str) -> None:
    pytest.importorskip("torch")
    graded = Grader(named_reward(f"{lengths}:tensor", timeout=60.0)).grade(["a"] * 20, [EXAMPLE] * 20)
    assert graded.error is None
    assert {(g.scored.score, g.scored.parts["tenth"]) for g in graded.graded if g} == {(0.5, 1.0)}


def test_threads_start_no_more_processes_than_calls_at_once(lengths: str) -> None:
    grader = Grader(named_reward(f"{lengths}:Length", timeout=20.0, parallel=2))
    pids = {grader("pid", EXAMPLE).score for _ in range(3)}
    assert len(pids) == 1, "one call after the other needs one process"
    pids |= set(in_threads(lambda _: grader("pid", EXAMPLE).score, range(40)))
    assert len(pids) == 2
    processes = [worker.process for worker in grader._workers.made]  # type: ignore[union-attr]
    grader.close()
    assert None not in [process.poll() for process in processes if process]


def test_calls_without_processes_are_bounded_too(lengths: str) -> None:
    most, now, lock = [0], [0], threading.Lock()

    def counted(completion: str, example: Example) -> float:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.002)
        with lock:
            now[0] -= 1
        return 1.0

    for parallel in (None, 3):
        most[0] = 0
        grader = Grader(NamedReward("counted", counted, parallel=parallel))
        in_threads(lambda _, grader=grader: grader("x", EXAMPLE), range(24))  # type: ignore[misc]
        assert most == [parallel or 1]
    several = Grader(named_reward(f"{lengths}:MostOpen", parallel=3))
    assert max(in_threads(lambda _: several("x", EXAMPLE).score, range(24))) <= 0.03


@pytest.mark.slow
def test_a_call_that_is_interrupted_leaves_its_answer_to_nobody(lengths: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a notebook, and the cell is run again: the first answer is not the second call's."""
    workers = Workers(named_reward(f"{lengths}:Length", wait=0.05).reward, 20.0)
    assert workers("x" * 40, EXAMPLE).score == 0.01
    pipe = workers.made[0]._running[1]  # type: ignore[index]

    class Interrupted:
        send, close = pipe.send, pipe.close

        def poll(self, seconds: float) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers.made[0], "_running", (workers.made[0].process, Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        workers("x" * 80, EXAMPLE)
    assert workers("x" * 120, EXAMPLE).score == 0.03
    workers.stop()


# --- processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("timeout", [None, 20.0])
@pytest.mark.parametrize("name", ["Length", "AsyncLength"])
def test_a_forked_child_does_not_share_the_calls_of_its_parent(lengths: str, name: str, timeout: float | None) -> None:
    """As a data loader, Ray or `multiprocessing` fork: while another thread of the parent is in a call."""
    score = verl_score(f"{lengths}:{name}", parts=(), timeout=timeout, parallel=2)

    def right(numbers: range) -> bool:
        return in_threads(lambda n: score("d", "x" * n, "{}"), numbers, 4) == [n / 4000 for n in numbers]

    assert right(range(1, 9))
    ended = threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            score("d", "x", "{}")

    busy = threading.Thread(target=go_on)
    busy.start()
    children = []
    for n in range(2):
        if (child := os.fork()) == 0:
            code = 1
            try:
                code = 0 if right(range(1 + 100 * n, 41 + 100 * n)) else 2
                score.grader.close()
            finally:
                os._exit(code)
        children.append(child)
    assert right(range(1000, 1100)), "the parent's processes and pipes are still its own"
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    ended.set()
    busy.join()
    score.grader.close()


@pytest.mark.slow
def test_a_spawned_child_gets_a_copy_that_starts_its_own_process(lengths: str) -> None:
    score = verl_score(f"{lengths}:Length", timeout=20.0)
    assert score("d", "x" * 400, "{}") == {"score": 0.1, "tenth": 0.01}
    program = (
        "import pickle, sys; from adapters.plugins.registry import load_file; from pathlib import Path\n"
        "load_file(Path(sys.argv[1])); f = pickle.load(sys.stdin.buffer); print(f('d', 'x' * 800, '{}')['score'])"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, lengths], input=pickle.dumps(score), capture_output=True, check=True, timeout=60
    )
    assert child.stdout.split() == [b"0.2"]
    assert score("d", "x" * 4, "{}")["score"] == 0.001  # type: ignore[index]
    score.grader.close()


@pytest.mark.slow
def test_no_process_is_left_when_the_program_ends_during_a_call(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(
        "import os, pathlib, time\ndef hangs(completion, example):\n"
        "    pathlib.Path(completion).write_text(str(os.getpid()))\n    time.sleep(60)\n"
    )
    (tmp_path / "program.py").write_text(
        "import threading, pathlib, time\nfrom adapters.integrations import verl_score\n"
        "score = verl_score('./hangs.py:hangs', timeout=50.0)\n"
        "threading.Thread(target=score, args=('d', 'pid', '{}'), daemon=True).start()\n"
        "while not (pathlib.Path('pid').exists() and pathlib.Path('pid').read_text()): time.sleep(0.05)\n"
    )
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True, timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


# --- programs without a main guard -------------------------------------------------------------------------------

WITHOUT_GUARD = """
print("the script runs", flush=True)
from dataclasses import dataclass
from adapters.integrations import trl_reward
from adapters.testing import check_reward, examples
from adapters.types import Example
f = trl_reward("./lengths.py:Length", timeout=20.0, on_error="zero", max_errors=0.5, parallel=2)
print(f(completions=["x" * 400] * 3), flush=True)
from mine import exact
print(check_reward(exact, [Example(str(n), "", (), completion=str(n), gold=n) for n in range(3)]).rows)
@dataclass
class Mine:
    def __call__(self, completion, example):
        return 1.0
check_reward(Mine(), examples("funding", n=3))
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(lengths: str) -> None:
    folder = Path(lengths).parent
    (folder / "script.py").write_text(WITHOUT_GUARD)
    (folder / "mine.py").write_text(
        "def exact(completion, example):\n    return float(completion == example.completion)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.splitlines() == ["the script runs", "[0.1, 0.1, 0.1]", "3"]
    last = done.stderr.splitlines()[-1]
    assert "script.py:11: Mine is defined in the program itself" in last
    assert "move it into a file of its own, and import it from there or name it as ./file.py:Mine" in last
    assert "Traceback" not in done.stderr.replace("Traceback", "", 1), "one error, in this process"


def test_a_reward_of_the_program_itself_is_refused_before_any_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(completion: str, example: Example) -> float:
        raise AssertionError

    mine.__module__ = "__main__"
    mine.__qualname__ = mine.__name__ = "mine"
    monkeypatch.setattr(sys.modules["__main__"], "mine", mine, raising=False)
    with pytest.raises(
        UserError, match=r"mine is defined in the program itself.*name it as \./file\.py:mine"
    ) as raised:
        trl_reward("__main__:mine", timeout=1.0)
    assert raised.value.at[-1] == "timeout"
    assert "is defined in the program itself" in try_reward(NamedReward("mine", mine), [EXAMPLE]).errors[0]
    assert trl_reward("__main__:mine").__name__ == "mine", "without a timeout it runs in this process"


class Client:
    def __init__(self) -> None:
        self.answers: queue.Queue[str] = queue.Queue()


class Early:
    """Makes its client before the first call."""

    def __init__(self) -> None:
        self.client = Client()

    def __call__(self, completion: str, example: Example) -> float:
        return 1.0


def test_what_cannot_be_pickled_is_named_with_file_line_and_remedy() -> None:
    said = r"test_reward_processes\.py:\d+: Early cannot be pickled.*make that in the first call and not before"
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text == "class Early:")
    with pytest.raises(AssertionError, match=said) as raised:
        check_reward(Early(), [EXAMPLE])
    assert f".py:{line}: " in str(raised.value)
    with pytest.raises(UserError, match=said):
        trl_reward(f"{__name__}:Early", timeout=1.0)


def test_a_wrong_policy_is_one_sentence_with_its_key() -> None:
    for keys, wanted in (
        ({"timeout": "abc"}, "timeout: this should be"),
        ({"on_error": "zro"}, "on_error: this should be 'raise', 'zero' or 'skip'"),
        ({"max_errors": 2, "on_error": "zero"}, "max_errors: "),
        ({"max_errors": 0.1}, "max_errors has no effect while a failure stops the run"),
        ({"scorer": "corected"}, "scorer: "),
    ):
        for wrapper in (trl_reward, verl_score):
            with pytest.raises(UserError) as raised:
                wrapper("funding", **keys)
            assert wanted in str(raised.value)
            assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="ground_truth is text, but not JSON"):
        verl_score("funding")("d", "[]", "{bad")
    with pytest.raises(UserError, match=r"row 0 of the batch: funders must be a list.*columns that TRL passes are: x"):
        trl_reward("funding")(completions=["[]"], x=[1])


def test_a_function_of_python_is_no_reward() -> None:
    with pytest.raises(UserError, match=r"os:getcwd takes \(\), which is not \(completion, example\)"):
        trl_reward("os:getcwd", task="funding")
