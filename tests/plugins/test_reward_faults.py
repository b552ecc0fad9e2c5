"""What a run does about a reward that crashes, hangs, dies or returns nonsense."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import FAULTY, funding_rows, write_jsonl

from adapters.errors import UserError
from adapters.integrations import named_reward, trl_reward, verl_score
from adapters.pipeline.fingerprint import fingerprinted_settings
from adapters.plugins.attempts import RewardError
from adapters.plugins.grader import Grader
from adapters.plugins.reward_probe import probe
from adapters.plugins.rewards import NamedReward, resolve_all
from adapters.recipe.fields import RewardSpec
from adapters.recipe.load import load_recipe
from adapters.tasks.funding import FundingTask
from adapters.types import Scored

EXAMPLE = FundingTask().example(funding_rows(1)[0], id="r0")


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    (tmp_path / "faulty.py").write_text(FAULTY)

    def made(**params: object) -> NamedReward:
        return named_reward("./faulty.py:Faulty", folder=tmp_path, **params)

    return made


BAD = ["crash", "exit", "nan", "inf", "high", "text"]


@pytest.mark.parametrize("text", BAD)
def test_the_policies(make, text: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RewardError, match=r"the reward Faulty .* row 'r0'"):
        Grader(make())(text, EXAMPLE)
    zero, skip = Grader(make(on_error="zero")), Grader(make(on_error="skip"))
    assert zero(text, EXAMPLE).score == 0
    assert skip(text, EXAMPLE).score is None
    assert "r0" in str(zero.last_error)
    assert zero("fine", EXAMPLE).score == 1
    assert (zero.last_error, zero.failures, zero.calls) == (None, 1, 2)


@pytest.mark.parametrize(("parts", "said"), [({"a": "b"}, "part 'b'"), (None, "parts of type NoneType")])
def test_parts_that_are_no_numbers_are_failures(parts: object, said: str) -> None:
    named = NamedReward("odd", lambda c, e: Scored(1.0, parts))  # type: ignore[arg-type]
    with pytest.raises(RewardError, match=said):
        Grader(named)("x", EXAMPLE)


def test_parts_that_are_not_finite_are_left_out() -> None:
    parts = {"a": 0.5, "nan": math.nan, "inf": -math.inf, "huge": 10**400}
    assert Grader(NamedReward("odd", lambda c, e: Scored(1, parts)))("x", EXAMPLE) == Scored(1, {"a": 0.5})
    with pytest.raises(RewardError, match="not a number in"):
        Grader(NamedReward("odd", lambda c, e: 10**400))("x", EXAMPLE)


def test_the_budget_stops_the_run(make) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(make(on_error="zero", max_errors=0.02))
    for n in range(400):  # exactly 2 %, spread evenly
        grader("crash" if n % 50 == 49 else "fine", EXAMPLE)
    assert grader.failures == 8
    with pytest.raises(RewardError, match=r"9 of 401 calls failed, more than max_errors \(2.0%\)"):
        grader("crash", EXAMPLE)
    early = Grader(make(on_error="skip"))
    early("crash", EXAMPLE)
    early("crash", EXAMPLE)  # of a hundred calls two may fail, in whatever order they come
    with pytest.raises(RewardError, match="3 of 3"):
        early("crash", EXAMPLE)
    with pytest.raises(RewardError):
        Grader(make(on_error="skip", max_errors=0.0))("crash", EXAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["loop", "backtrack"])
def test_a_call_that_never_returns_is_ended(make, text: str) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(make(timeout=1.0, on_error="skip"))
    assert grader("fine", EXAMPLE).score == 1
    first = grader("pid", EXAMPLE).score
    assert first != os.getpid() % 1000 / 1000, "another process"
    assert grader(text, EXAMPLE).score is None
    assert "longer than 1 s" in str(grader.last_error)
    assert grader("fine", EXAMPLE).score == 1, "the next call gets a new process"
    assert grader("pid", EXAMPLE).score != first
    process = grader._workers.made[0].process
    grader.close()
    assert process.poll() is not None


def test_a_worker_that_dies_or_answers_nonsense_is_one_failure(make) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(make(timeout=20.0, on_error="zero", max_errors=0.5))
    for text, said in (("die", "exit code 7"), ("lambda", "cannot be sent"), ("crash", "KeyError"), ("nan", "nan")):
        assert grader(text, EXAMPLE).score == 0
        assert said in str(grader.last_error)
    assert grader("fine", EXAMPLE).score == 1
    grader.close()


def test_no_process_without_a_timeout(make) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(make())
    assert grader._workers is None
    assert grader("pid", EXAMPLE).score == os.getpid() % 1000 / 1000


def test_a_grader_travels_to_another_process(make) -> None:  # type: ignore[no-untyped-def]
    grader = Grader(make(timeout=20.0))
    grader("fine", EXAMPLE)
    again = pickle.loads(pickle.dumps(grader))
    assert again.calls == 0
    assert again("fine", EXAMPLE).score == 1
    grader.close()
    again.close()


@pytest.mark.slow
def test_a_reward_that_hangs_is_found_by_the_plan(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "def slow(completion, example):\n    while not completion.startswith('['): pass\n    return 1.0\n"
    )
    [named] = resolve_all([RewardSpec(use="./slow.py:slow", timeout=0.5)], folder=tmp_path, at=("rewards",))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"longer than 0\.5 s"):
        probe(named, [EXAMPLE], ("rewards", 0))
    assert time.monotonic() - began < 60
    [named] = resolve_all(
        [RewardSpec(use="./slow.py:slow", timeout=0.5, on_error="skip")], folder=tmp_path, at=("rewards",)
    )
    assert any("fails on empty or broken text" in note for note in probe(named, [EXAMPLE], ()))


def test_names_of_the_recipe_are_not_parameters(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Judge:\n    timeout: float = 1.0\n"
        "    def __call__(self, completion, example): return 1.0\n"
    )
    with pytest.raises(UserError, match="has a parameter 'timeout', which is a key of every reward"):
        resolve_all([RewardSpec(use="./judge.py:Judge")], folder=tmp_path, at=("rewards",))


def test_a_timeout_needs_a_reward_that_pickles(tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "class Odd:\n    def __init__(self): self.f = lambda: 1.0\n"
        "    def __call__(self, completion, example): return self.f()\n"
    )
    resolve_all([RewardSpec(use="./odd.py:Odd")], folder=tmp_path, at=())
    with pytest.raises(UserError, match="cannot be pickled, which running it in a process") as raised:
        resolve_all([RewardSpec(use="./odd.py:Odd", timeout=1.0)], folder=tmp_path, at=("rewards",))
    assert raised.value.at == ("rewards", 0, "timeout")


def test_a_stopped_run_may_continue_under_another_policy(tmp_path: Path) -> None:
    text = (
        "name: x\ntask: funding\nmodel: {base: none}\nstages:\n"
        "  - {kind: grpo, data: [{path: a}], learning_rate: 1, rewards: [funding]}\n"
    )
    (tmp_path / "x.yaml").write_text(text)
    stages = [
        load_recipe(tmp_path / "x.yaml", overrides).recipe.stages[0]
        for overrides in ([], ["stages.0.rewards.0.on_error=zero", "stages.0.rewards.0.timeout=9"])
    ]
    assert fingerprinted_settings(stages[0]) == fingerprinted_settings(stages[1])
    identities = {resolve_all(stage.rewards, folder=tmp_path, at=())[0].identity for stage in stages}
    assert len(identities) == 1


def test_two_of_one_class_are_logged_apart(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from adapters.backends.local.trl_reward import TrlReward

    plugs = [RewardSpec(use="funding"), RewardSpec.model_validate({"use": "funding", "scorer": "corrected"})]
    rewards = [TrlReward(n, [EXAMPLE], tmp_path / "r.jsonl") for n in resolve_all(plugs, folder=tmp_path, at=())]
    logged: dict[str, float] = {}
    for reward in rewards:
        assert reward(completions=["sorry", EXAMPLE.completion], row=[0, 0], log_metric=logged.__setitem__)
    assert [r.__name__ for r in rewards] == ["funding", "funding#2"]
    assert {"parts/funding/funder", "parts/funding#2/funder"} <= set(logged)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 4


def test_the_trainer_gets_a_number_or_none(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("torch")
    from adapters.backends.local.trl_reward import TrlReward

    logged: dict[str, float] = {}
    for policy, wanted in (("zero", 0.0), ("skip", None)):
        reward = TrlReward(make(on_error=policy, max_errors=1.0), [EXAMPLE], tmp_path / "r.jsonl")
        texts = [*BAD, "fine"]
        scores = reward(completions=texts, row=[0] * len(texts), log_metric=logged.__setitem__)
        assert scores == [wanted] * len(BAD) + [1.0]
        assert all(s is None or math.isfinite(s) for s in scores)
        assert logged["errors/Faulty"] == pytest.approx(len(BAD) / len(texts))
    entries = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sum("error" in e for e in entries) == 2 * len(BAD)


# --- the same rewards elsewhere ----------------------------------------------------------------------------------


def test_as_a_reward_function_of_trl() -> None:
    rows = funding_rows(6)
    reward = trl_reward("funding", scorer="corrected")
    task = FundingTask()
    golds = [task.example(row).completion for row in rows]
    logged: dict[str, float] = {}
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    call = {"prompts": [[]] * 6, "completion_ids": [[]] * 6, "trainer_state": None, "log_extra": None, **columns}
    assert reward(completions=golds, log_metric=logged.__setitem__, **call) == [1.0] * 6
    chat = [[{"role": "assistant", "content": "no JSON"}]] * 6
    assert reward(completions=chat, **call) == [0.0] * 6
    assert logged["parts/funding/funder"] == 1
    assert reward.__name__ == "funding"
    assert pickle.loads(pickle.dumps(reward))(completions=golds, **call) == [1.0] * 6
    without_text = {k: v for k, v in call.items() if k != "funding_statement"}
    assert reward(completions=golds, **without_text) == [1.0] * 6


def test_as_a_score_function_of_verl() -> None:
    row = funding_rows(2)[1]
    example = FundingTask().example(row)
    score = verl_score("funding", scorer="corrected")
    truth = json.dumps(FundingTask().gold(row))
    right = score("funding", example.completion, truth, {"index": 3, "split": "train"})
    assert (right["score"], right["funder"], right["id_ratio"]) == (1.0, 1.0, 1.0)
    assert score(data_source="funding", solution_str="[]", ground_truth=truth, extra_info=None)["score"] == 0.0
    assert score("funding", example.completion, FundingTask().gold(row)) == right
    assert {type(value) for value in score("funding", "[", truth).values()} == {float}
    assert pickle.loads(pickle.dumps(score))("funding", example.completion, truth) == right
    unlabelled = verl_score("funding")("x", "[]", "null")
    assert unlabelled == dict.fromkeys(right, 0.0), "no gold: the reward does not apply"


def test_a_reward_without_a_task_reads_plain_columns(tmp_path: Path) -> None:
    (tmp_path / "same.py").write_text("def same(completion, example):\n    return float(completion == example.gold)\n")
    reward = trl_reward(f"{tmp_path}/same.py:same")
    assert reward(completions=["a", "b"], gold=["a", "a"]) == [1.0, 0.0]
    assert verl_score(f"{tmp_path}/same.py:same")("x", "a", '"a"') == 1.0


def test_outside_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="Did you mean funding"):
        trl_reward("fundign")
    with pytest.raises(UserError, match="Did you mean scorer"):
        verl_score("funding", scorr="corrected")


def test_a_fault_policy_outside(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = f"{tmp_path}/faulty.py:Faulty"
    make()
    assert trl_reward(path, on_error="skip")(completions=["nan", "fine"]) == [None, 1.0]
    assert isinstance(verl_score(path, on_error="zero")("d", "crash", "null"), float)


@pytest.mark.slow
def test_in_a_bare_grpo_trainer(tiny_model: Path, tmp_path: Path) -> None:
    """TRL's own trainer, none of ours: the reward is called, logged under its name, and moves the policy."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    task = FundingTask(target="compact")
    rows = [{"prompt": list(task.example(row).prompt), **row} for row in funding_rows(4)]
    for row in rows:
        row["funders"] = json.dumps(row["funders"])  # as text it survives Arrow unchanged; the task reads both
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = "<|endoftext|>"
    seen: list[list[float | None]] = []
    funding, again = trl_reward("funding", scorer="corrected"), trl_reward("funding", scorer="published")
    again.__name__ = "funding_published"

    def recorded(**columns: object) -> list[float | None]:
        seen.append(funding(**columns))
        return seen[-1]

    recorded.__name__ = funding.__name__
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            max_steps=2,
            logging_steps=1,
            report_to="none",
            bf16=False,
            use_cpu=True,
        ),
        reward_funcs=[recorded, again],
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules="all-linear"),
    )
    trainer.train()
    assert len(seen) >= 2
    assert all(score is not None and 0 <= score <= 1 for batch in seen for score in batch)
    logs = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert {"rewards/funding/mean", "rewards/funding_published/mean"} <= set(logs[0])
    assert any(key.startswith("parts/funding_published/") for key in logs[0]) or "parts/funding/funder" in logs[0]


@pytest.mark.slow
def test_a_worker_starts_from_a_recipe_that_is_the_program(tmp_path: Path) -> None:
    """`python recipe.yaml`: the child process reads the recipe again as its parent's program, and must not run it."""
    write_jsonl(tmp_path / "train.jsonl", funding_rows(12))
    (tmp_path / "sleepy.py").write_text(
        "import time\n"
        "def sleepy(completion, example):\n"
        "    if completion == '[]' and example.gold:\n"
        "        time.sleep(60)\n"
        "    return float(completion == example.completion)\n"
    )
    (tmp_path / "r.yaml").write_text(
        'if __name__ == "__main__": from adapters import main; main(__file__); r"""\n'
        "name: r\ntask: funding\nmodel: {base: none}\ntrainer: echo\nevaluate_base: true\nstages:\n"
        "  - kind: grpo\n    data: [{path: train.jsonl}]\n    batch_size: 2\n    learning_rate: 1\n"
        "    rewards: [{use: ./sleepy.py:sleepy, timeout: 0.5, on_error: zero, max_errors: 0.05}]\n"
        "evaluate:\n  - {name: seen, data: [{path: train.jsonl, cap: 4}]}\n"
        '# """\n'
    )
    command = [sys.executable, "r.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    sets = json.loads((tmp_path / "runs/r/report.json").read_text())["sets"]["seen"]
    assert sets["1-grpo"]["rewards"]["sleepy"]["mean"] == 1
    assert 1 <= sets["base"]["reward_errors"]["sleepy"] <= 4, "the base's answer `[]` made it sleep"
    assert "longer than 0.5 s" in (tmp_path / "runs/r/run.log").read_text()
    strict = [*command, "stages.0.rewards.0.max_errors=0", "name=strict"]
    stopped = subprocess.run(strict, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert stopped.returncode == 1
    assert "calls failed, more than max_errors (0.0%)" in stopped.stderr
