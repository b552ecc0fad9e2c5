"""The bench finds what a reward gets wrong, and the workshop's verbs work from an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from docs_blocks import ROOT, blocks
from tiny import funding_rows, ie_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.errors import UserError
from adapters.integrations import named_reward
from adapters.plugins.reward_bench import answers, baselines, try_reward
from adapters.plugins.rewards import FaultPolicy, NamedReward
from adapters.rewards.funding import Funding
from adapters.tasks.funding import FundingTask
from adapters.testing import check_reward, examples, reward_task
from adapters.types import Example, Scored

runner = CliRunner()
TASK = FundingTask(target="compact")
ROWS = [TASK.example(row, id=row["id"]) for row in funding_rows(12)]


def same(completion: str, example: Example) -> float:
    return float(completion == example.completion)


def constant(completion: str, example: Example) -> float:
    return 1.0


def substring(completion: str, example: Example) -> float:
    return float((example.completion or "") in completion)


def longer(completion: str, example: Example) -> float:
    return min(1.0, len(completion) / 200_000)


def never(completion: str, example: Example) -> None:
    return None


def hashed(completion: str, example: Example) -> float:
    return 1.0 if completion == example.completion else abs(hash(completion)) % 1000 / 2000


def from_process(completion: str, example: Example) -> float:
    return 1.0 if completion == example.completion else os.getpid() % 1000 / 2000


def crashes(completion: str, example: Example) -> float:
    return 1.0 if completion == example.completion else json.loads(completion)[0]


def out_of_range(completion: str, example: Example) -> float:
    return 1.0 if completion else -1.0


def hangs(completion: str, example: Example) -> float:
    while len(completion) > 50_000:
        pass
    return same(completion, example)


@dataclass(frozen=True)
class Brief:
    """Cannot tell right from wrong, and says so."""

    blind_to: ClassVar[tuple[str, ...]] = (
        "empty", "garbage", "truncated", "always empty", "right id, wrong funder", "right funder, wrong id",
    )  # fmt: skip

    def __call__(self, completion: str, example: Example) -> Scored:
        extra = len(completion) - len(example.completion or "")
        return Scored(min(1.0, max(0.0, 1 - extra / 100)), {"extra": float(extra)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (constant, "garbage earns as much as gold on 12 of 12 rows"),
        (substring, "100 kB of gold earns as much as gold"),
        (longer, "prefers fenced to gold"),
        (longer, "gold earns less than 1"),
        (never, "gives no score to any gold answer"),
        (hashed, "not deterministic"),
        (from_process, "not deterministic"),
        (crashes, "JSONDecodeError"),
        (out_of_range, "outside [0, 1]"),
        (hangs, "longer than 1 s"),
        (lambda completion, example: 1.0, "cannot be pickled"),
    ],
)
def test_what_is_wrong_is_named(reward: Callable, said: str) -> None:
    found = try_reward(NamedReward("it", reward), ROWS, TASK, limit=1.0)
    assert any(said in error for error in found.errors), found.errors


@pytest.mark.parametrize("scorer", ["published", "corrected"])
@pytest.mark.parametrize("target", ["nested", "compact"])
def test_the_shipped_reward_is_fit(scorer: str, target: str) -> None:
    task = FundingTask(target=target)
    rows = [task.example(row, id=row["id"]) for row in funding_rows(12)]
    found = check_reward(Funding(scorer=scorer), rows, task)
    assert found.variants["gold"]["mean"] == 1
    assert found.variants["fenced"]["mean"] == 1
    assert found.variants["right id, wrong funder"]["mean"] <= 0.2
    assert found.variants["always empty"]["mean"] == 0
    # Two of the twelve rows have no funder: the known defect of the published scorer, and no other, is warned of.
    assert any("garbage earns as much" in w for w in found.warnings) == (scorer == "published")
    assert found.baselines["an empty answer"] == pytest.approx(2 / 12)
    assert found.speed["calls_per_second"] > 0


@pytest.mark.slow
def test_a_reward_may_be_blind_to_something_by_design() -> None:
    found = check_reward(Brief(), ROWS, TASK)
    assert found.variants["empty"]["as_gold"] == 1
    with pytest.raises(AssertionError, match=r"constant is not fit to train on:\n"):
        check_reward(constant, ROWS, TASK)


def test_answers_say_something_else_than_gold() -> None:
    two = [{"funder_name": "A", "awards": []}, {"funder_name": "B", "awards": []}]
    made = answers(TASK.example({"funding_statement": "x", "funders": two}), TASK, long=True)
    assert json.loads(made["shuffled"])[0]["funder_name"] == "B"
    assert len(json.loads(made["duplicated"])) == 4
    assert json.loads(made["one funder missing"]) == [{"funder_name": "B"}]
    assert all(len(made[name]) >= 100_000 for name in made if name.startswith("100 kB"))
    empty = answers(TASK.example({"funding_statement": "x", "funders": []}), TASK)
    assert "always empty" not in empty
    assert "duplicated" not in empty
    text = answers(Example("1", "", (), completion="Thought: a\nAction: b", gold="b"))
    assert text["shuffled"] == "Action: b\nThought: a"
    entities = answers(Example("1", "", (), completion='{"entities": [1, 2], "n": 2}', gold={}))
    assert json.loads(entities["always empty"]) == {"entities": [], "n": 2}


def test_baselines_do_not_look_at_the_row() -> None:
    made = baselines(ROWS)
    assert made["an empty answer"](0) == "[]"
    assert len({made["the most common answer"](n) for n in range(12)}) == 1
    assert made["another row's answer"](0) == ROWS[1].completion


@pytest.mark.slow
@pytest.mark.parametrize(("share", "warned"), [(5, False), (6, True)])
def test_a_constant_answer_above_half_of_golds_reward_is_warned_of(share: int, warned: bool) -> None:
    """Of ten rows `share` have the same answer: to give it always earns that share of gold's reward."""
    rows = [
        Example(str(n), "", (), completion=text, gold=text)
        for n, text in enumerate("same" if n < share else f"other {n}" for n in range(10))
    ]
    result = try_reward(NamedReward("same", same), rows)
    assert result.baselines["the most common answer"] == share / 10
    assert [w for w in result.warnings if w.startswith("the most common answer, whatever")] == (
        [f"the most common answer, whatever the input, earns {share / 10:.3f} of gold's 1.000 on average"] * warned
    )


SLOW = """
import time
from adapters.rewards.funding import Funding

def judge(completion, example):
    time.sleep(0.02)
    return float(completion == example.completion)

def lenient(completion, example):
    time.sleep(0.02)
    return Funding()(completion, example)

def slow_on_long(completion, example):
    time.sleep(0.4 if len(completion) > 10_000 else 0)
    return float(completion == example.completion)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Callable[..., NamedReward]:
    (tmp_path / "slow.py").write_text(SLOW)
    return lambda name, **keys: named_reward(f"./slow.py:{name}", folder=tmp_path, **keys)


@pytest.mark.slow
def test_a_slow_reward_is_tried_on_as_many_rows_as_there_is_time_for(slow: Callable[..., NamedReward]) -> None:
    steps: list[tuple[int, int]] = []
    began = time.monotonic()
    found = try_reward(
        slow("judge"), ROWS, TASK, seconds=1.5, progress=lambda done, total, _: steps.append((done, total))
    )
    assert time.monotonic() - began < 3
    assert found.errors == []
    assert found.rows in (1, 3, 6), "halves of the 12 rows, so that the choice does not waver"
    assert found.variants["gold"]["n"] >= 5, "the first answers"
    assert found.variants["garbage"] == {"n": found.rows, "mean": 0.0, "as_gold": 0.0}
    assert found.variants["100 kB of brackets"]["n"] == 1
    assert found.speed["first_s"] >= 0.02
    [text] = found.left_out
    assert re.search(r"a call takes [\d.]+ ms, so of 12 rows \d were tried, and of \d+ calls \d+ were made twice", text)
    assert re.search(r"adapters rewards test with the same settings and --seconds \d+; --set parallel=N makes N", text)
    assert steps[-1][0] == steps[-1][1] == len(steps) + 5
    again = try_reward(slow("judge"), ROWS, TASK, seconds=1.5)
    assert again.rows != found.rows or again.variants == found.variants, "the same rows"


@pytest.mark.slow
def test_calls_at_once_and_more_time_leave_nothing_out(slow: Callable[..., NamedReward]) -> None:
    found = try_reward(slow("judge", parallel=8), ROWS, TASK, seconds=10)
    assert (found.errors, found.left_out, found.rows) == ([], [], 12)
    assert found.variants["gold"]["n"] == 12


@pytest.mark.slow
def test_a_reward_that_is_slow_on_long_texts_alone_ends_in_time(slow: Callable[..., NamedReward]) -> None:
    began = time.monotonic()
    found = try_reward(slow("slow_on_long"), ROWS, TASK, seconds=0.5)
    assert time.monotonic() - began < 2
    assert any("calls were not made, because others took longer than the first" in text for text in found.left_out)


def test_a_reward_that_fails_in_this_process_alone_says_nothing_of_time(tmp_path: Path) -> None:
    (tmp_path / "here.py").write_text(
        "import sys\ndef here(completion, example):\n"
        "    if 'pytest' in sys.modules: raise KeyError('here')\n    return float(completion == example.completion)\n"
    )
    found = try_reward(named_reward("./here.py:here", folder=tmp_path), ROWS, TASK)
    assert [error for error in found.errors if "KeyError: 'here'" in error]
    assert found.left_out == []


@pytest.mark.slow
def test_calls_that_hang_are_not_made_where_nothing_stops_them(tmp_path: Path) -> None:
    (tmp_path / "hang.py").write_text(
        "def hang(completion, example):\n    while completion.startswith(']]}'): pass\n"
        "    return float(completion == example.completion)\n"
    )
    named = named_reward("./hang.py:hang", folder=tmp_path, on_error="skip", max_errors=1.0)
    found = try_reward(named, ROWS[:3], TASK, limit=0.2)
    assert found.errors == []
    assert found.warnings[0].startswith("3 of ")
    assert "longer than 0.2 s" in found.warnings[0]


@pytest.mark.slow
def test_few_rows_condemn_nobody_for_what_one_row_cannot_tell(slow: Callable[..., NamedReward]) -> None:
    """On a row without funders garbage is right to the published scorer; on all rows that would be an error."""
    empty = [TASK.example({"funding_statement": f"None {n}.", "funders": []}, id=str(n)) for n in range(40)]
    found = try_reward(slow("lenient"), empty, TASK, seconds=1.0)
    assert found.left_out
    assert found.errors == []
    assert any("garbage earns as much as gold" in warning for warning in found.warnings)


@dataclass(frozen=True)
class Flaky:
    """Fails on one answer in `every`."""

    every: int = 50

    def __call__(self, completion: str, example: Example) -> float:
        if completion != example.completion and zlib.crc32((completion + example.id).encode()) % self.every == 0:
            raise ConnectionError("the judge answered 503")
        return float(completion == example.completion)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "every", "errors"),
    [
        (FaultPolicy(), 20, "the judge answered 503"),
        (FaultPolicy("skip", max_errors=0.2), 20, None),
        (FaultPolicy("zero", max_errors=0.2), 20, None),
        (FaultPolicy("skip", max_errors=0.02), 5, r"more than max_errors \(2.0%\)"),
    ],
)
def test_the_test_follows_the_fault_policy(policy: FaultPolicy, every: int, errors: str | None) -> None:
    found = try_reward(NamedReward("Flaky", Flaky(every), faults=policy), ROWS, TASK)
    if errors:
        assert re.search(errors, found.errors[0])
    else:
        assert found.errors == []
        assert any(re.match(r"\d+ of \d+ calls failed, which on_error: \w+ lets pass", w) for w in found.warnings)


def test_examples_and_their_task(tmp_path: Path) -> None:
    assert len(examples("funding", n=7)) == 7
    path = write_jsonl(tmp_path / "rows.jsonl", funding_rows(9))
    assert [e.id for e in examples("funding", path, n=3)] == ["r0", "r1", "r2"]
    assert reward_task(Funding(), "funding") == "funding"
    with pytest.raises(UserError, match="no task is called 'fundin'"):
        reward_task(Funding(), "funding", "fundin")
    with pytest.raises(ValueError, match="no example"):
        try_reward(NamedReward("same", same), [Example("1", "", ())])


# --- the verbs ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rewards_test_and_its_exit_codes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", funding_rows(9))
    good = runner.invoke(app, ["rewards", "test", "funding", "scorer=corrected", "--data", str(path), "--json"])
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["rows"] == 9
    human = runner.invoke(app, ["rewards", "test", "funding", "--data", str(path)])
    assert "no errors; mend the" in human.stdout
    assert "fit to train on" not in human.stdout, "that would stand under warnings"
    clean = runner.invoke(app, ["rewards", "test", "funding", "reading=fixed", "--data", str(path)])
    assert "warning" not in clean.stdout
    assert clean.stdout.splitlines()[-1] == "fit to train on"
    assert "answers that do not depend on the input" in human.stdout
    (tmp_path / "flat.py").write_text("def flat(completion, example):\n    return 1.0\n")
    bad = runner.invoke(app, ["rewards", "test", f"{tmp_path}/flat.py:flat", "--task", "funding"])
    assert bad.exit_code == 1
    assert "not fit to train on" in bad.stdout
    assert runner.invoke(app, ["rewards", "test", "fundin"]).exit_code == 2
    assert "Did you mean scorer" in runner.invoke(app, ["rewards", "test", "funding", "scorr=corrected"]).stderr
    assert "KEY=VALUE" in runner.invoke(app, ["rewards", "test", "funding", "fixed"]).stderr


@pytest.mark.slow
def test_rewards_test_takes_the_recipes_keys(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "import time, zlib\n"
        "def judge(completion, example):\n"
        "    time.sleep(0.02)\n"
        "    if completion != example.completion and zlib.crc32(completion.encode()) % 20 == 0:\n"
        "        raise ConnectionError('503')\n"
        "    return float(completion == example.completion)\n"
    )
    path = write_jsonl(tmp_path / "rows.jsonl", funding_rows(9))
    command = ["rewards", "test", f"{tmp_path}/judge.py:judge", "--task", "funding", "--data", str(path)]
    assert "503" in runner.invoke(app, command).stdout
    keys = ["on_error=skip", "max_errors=0.5", "timeout=9", "parallel=8"]
    fit = runner.invoke(app, [*command, *keys, "--json"])
    assert fit.exit_code == 0, fit.output
    assert json.loads(fit.stdout)["left_out"] == []
    assert "test: judge: scoring" in fit.stderr
    brief = runner.invoke(app, [*command, *keys, "parallel=1", "--seconds", "1"])
    assert "left out: a call takes 2" in brief.stdout
    assert "first answers 0.02" in brief.stdout
    assert "are the same" in runner.invoke(app, [*command, "timeout=9", "--limit", "5"]).stderr
    for verb in (command, ["rewards", "score", command[2], str(path), "--task", "funding", "--set"]):
        refused = runner.invoke(app, [*verb, "weight=0.5"])
        assert refused.exit_code == 2
        assert "weight: one reward alone has none" in refused.stderr


def test_the_task_is_the_rewards_own_or_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "class Own:\n    task = 'ie'\n"
        "    def __call__(self, completion, example):\n        return float('answer' in completion)\n"
        "def plain(completion, example):\n    return 1.0\n"
    )
    completions = write_jsonl(tmp_path / "rows.jsonl", [{**ie_rows(1)[0], "completion": "answer"}])
    for verb in (["test"], ["score", str(completions)]):
        asked = runner.invoke(app, ["rewards", verb[0], f"{tmp_path}/mine.py:plain", *verb[1:]])
        assert asked.exit_code == 2
        assert "no task is known for the reward" in asked.stderr
        assert "--task (agent, chat, funding, ie" in asked.stderr
    own = runner.invoke(app, ["rewards", "score", f"{tmp_path}/mine.py:Own", str(completions)])
    assert own.exit_code == 0, own.output
    assert json.loads(own.stdout.splitlines()[0])["reward"] == 1
    assert reward_task(None, "agent") == "agent"


def test_rewards_show() -> None:
    shown = runner.invoke(app, ["rewards", "show", "funding"]).stdout
    assert "scorer: Scorer = 'published'" in shown
    assert "funding_matching.py" in shown
    found = json.loads(runner.invoke(app, ["rewards", "show", "funding", "--json"]).stdout)
    assert found["parameters"]["beta"]["default"] == 0.5
    assert len(found["score_hash"]) == 64


@pytest.mark.slow
@pytest.mark.parametrize("task", ["funding", "ie", "agent", "records"])
def test_rewards_new_prints_commands_that_work(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written = runner.invoke(app, ["rewards", "new", "word_overlap", "--task", task])
    assert written.exit_code == 0, written.output
    tested, tried = (line.split() for line in written.stdout.splitlines() if line.startswith("  "))
    assert tried == ["adapters", "rewards", "test", "./word_overlap.py:WordOverlap", "--task", task]
    for command in (tried, tried[:-2]):
        assert runner.invoke(app, command[1:]).exit_code == 0
    done = subprocess.run([sys.executable, *tested[1:]], capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout


@pytest.mark.slow
def test_rewards_new_writes_a_reward_whose_test_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["rewards", "new", "word_overlap", "--task", "funding"]).exit_code == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_word_overlap.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    (tmp_path / "word_overlap.py").write_text(
        (tmp_path / "word_overlap.py").read_text().replace("return Scored(f1,", "return Scored(1.0,")
    )
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1, "the test can fail"
    again = runner.invoke(app, ["rewards", "new", "word_overlap", "--task", "funding"])
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert runner.invoke(app, ["rewards", "new", "my-reward", "--task", "funding"]).exit_code == 2
    asked = runner.invoke(app, ["rewards", "new", "another"])
    assert asked.exit_code == 2
    assert "Give one with --task" in asked.stderr
    assert not (tmp_path / "another.py").exists()
    for taken in ("json", "class", "pytest"):
        refused = runner.invoke(app, ["rewards", "new", taken, "--task", "funding"])
        assert refused.exit_code == 2
        assert f"'{taken}' is taken" in refused.stderr
    assert not (tmp_path / "json.py").exists()
    unknown = runner.invoke(app, ["rewards", "test", "funding", "scorr=corrected"])
    assert unknown.exit_code == 2
    assert "scorr: funding has no parameter 'scorr'. Did you mean scorer?" in unknown.stderr
    absent = runner.invoke(app, ["rewards", "test", "funding", "--data", "none.jsonl"])
    assert absent.exit_code == 2
    assert "data_root" not in absent.stderr


def test_the_score_hash_follows_code_and_parameters(tmp_path: Path) -> None:
    plain = named_reward("funding")
    assert plain.score_hash == named_reward("funding", weight=0.3).score_hash
    assert plain.score_hash == named_reward("funding", beta=0.5, on_error="zero").score_hash
    assert plain.score_hash != named_reward("funding", beta=1.0).score_hash
    (tmp_path / "mine.py").write_text("def mine(completion, example):\n    return 1.0\n")
    before = named_reward("./mine.py:mine", folder=tmp_path).score_hash
    (tmp_path / "mine.py").write_text("def mine(completion, example):\n    return 0.5\n")
    assert named_reward("./mine.py:mine", folder=tmp_path).score_hash != before
    assert plain.record["reward"].startswith("Funding(funder=0.5")


def test_the_documented_reward_is_as_documented(tmp_path: Path) -> None:
    """The first code block of docs/rewards.md, tried as the page says."""
    code = next(block.text for block in blocks(ROOT / "docs/rewards.md") if block.language == "python")
    (tmp_path / "brevity.py").write_text(code)
    done = runner.invoke(app, ["rewards", "test", f"{tmp_path}/brevity.py:Brevity", "--task", "funding", "free=100"])
    assert done.exit_code == 0, done.output
