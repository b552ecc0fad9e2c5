"""The hosted trainer against a real Tinker-compatible server on this machine's CPU, through the command line.

The server is TuFT (scripts/build/install_tuft.sh) behind tests/hosted_server.py. It draws a new adapter's first weights
itself, so two runs are alike and not equal: trends are asserted, and exact numbers where both sides hold one adapter.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosted_process import KEY, Server
from tiny import LETTERS, VOWELS, funding_rows, save_lively_model, write_jsonl
from typer.testing import CliRunner, Result

from adapters.cli.main import app
from adapters.plugins.attempts import RewardError

pytestmark = pytest.mark.slow

if missing := [name for name in ("tinker", "tuft") if importlib.util.find_spec(name) is None]:
    if os.environ.get("ADAPTERS_REQUIRE_HOSTED"):
        raise RuntimeError(f"{missing[0]} is not installed: scripts/build/install_tuft.sh")
    pytest.skip(f"needs {missing[0]}: scripts/build/install_tuft.sh", allow_module_level=True)


@pytest.fixture(scope="module")
def lively_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tiny.save_lively_model`."""
    return save_lively_model(tiny_model, tmp_path_factory.mktemp("lively") / "lively-llama")


@pytest.fixture(scope="module")
def server(tiny_model: Path, lively_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server([tiny_model, lively_model], tmp_path_factory.mktemp("hosted") / "server")
    yield made
    made.kill()


@pytest.fixture
def client(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """This process talks to the server."""
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    return server


SFT = """
  - kind: sft
    data: [{path: train.jsonl}]
    batch_size: 8
    max_steps: 12
    learning_rate: 1e-2
    max_length: 512
    validation: 0.1
    save_every: 2
"""
GRPO = """
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 2
    group_size: 4
    max_steps: 3
    learning_rate: 1e-3
    beta: 0.05
    rewards: [funding, {use: ./vowels.py:Vowels, weight: 0.5}]
    max_prompt_length: 512
    max_completion_length: 64
"""
DPO = """
  - kind: dpo
    data: [{path: pairs.jsonl}]
    batch_size: 8
    max_steps: 6
    learning_rate: 5e-3
    beta: 0.5
    max_length: 512
    validation: 0.2
    save_every: 2
"""


def write_recipe(folder: Path, model: Path, stages: str, *, evaluate: bool = False) -> Path:
    write_jsonl(folder / "train.jsonl", funding_rows(40))
    write_jsonl(folder / "pairs.jsonl", [{**row, "rejected": "[]"} for row in funding_rows(40) if row["funders"]])
    write_jsonl(folder / "test.jsonl", funding_rows(6, "t"))
    (folder / "vowels.py").write_text(VOWELS)
    text = f"""
name: chain
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {model}}}
lora: {{rank: 4, alpha: 32}}
run_dir: {folder / "runs"}
stages:{stages}
"""
    if evaluate:
        text += "evaluate:\n  - {name: test, data: [{path: test.jsonl}], max_new_tokens: 8}\n"
    path = folder / "chain.yaml"
    path.write_text(text)
    return path


def command(recipe: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "adapters", "run", str(recipe), *overrides]


def environment(url: str, **changes: str) -> dict[str, str]:
    return {**os.environ, "TINKER_BASE_URL": url, "TINKER_API_KEY": KEY, "COLUMNS": "250", **changes}


def call(arguments: list[str], folder: Path, server: Server, **changes: str) -> subprocess.CompletedProcess:
    environ = environment(server.url, **changes)
    return subprocess.run(arguments, cwd=folder, env=environ, capture_output=True, text=True, timeout=500, check=False)


def run(recipe: Path, server: Server, *overrides: str, **changes: str) -> subprocess.CompletedProcess:
    return call(command(recipe, *overrides), recipe.parent, server, **changes)


def kill_at(recipe: Path, server: Server, stage: str, step: int, *overrides: str) -> Path:
    """Start a run and kill -9 it once a step is logged; returns the stage's unfinished folder."""
    process = subprocess.Popen(
        command(recipe, *overrides),
        cwd=recipe.parent,
        env=environment(server.url),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    partial = recipe.parent / "runs" / "chain" / f"{stage}.partial"
    wait_for_step(process, partial / "log.jsonl", step)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert lines(partial / "trainer" / "checkpoints.jsonl"), "a checkpoint was confirmed before the kill"
    return partial


def run_here(recipe: Path, *overrides: str) -> Path:
    """The same run in this process, which saves the start of another; returns the run's folder."""
    from adapters.backends import backend
    from adapters.pipeline.plan import make_plan
    from adapters.pipeline.run import run_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(recipe, ["trainer=tinker", *overrides])
    made = backend(file.recipe)
    planned = make_plan(file, made)
    run_plan(planned, made)
    return planned.folder


def invoke(verb: str, recipe: Path, *arguments: str) -> Result:
    """The command in this process, which saves the start of another."""
    return CliRunner().invoke(app, [verb, str(recipe), "trainer=tinker", *arguments], env={"COLUMNS": "250"})


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def figures(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["figures"]


def wait_for_step(process: subprocess.Popen, log: Path, step: int) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"the run ended before step {step}: {process.communicate()[1][-2000:]}")
        if log.is_file() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} was never reached")


# --- one recipe, two trainers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chains(tiny_model: Path, server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One recipe run with either trainer, nothing else changed: trainer -> the run's folder."""
    folder = tmp_path_factory.mktemp("chains")
    recipe = write_recipe(folder, tiny_model, SFT + GRPO, evaluate=True)
    for trainer in ("local", "tinker"):
        done = run(recipe, server, f"trainer={trainer}", f"name={trainer}")
        assert done.returncode == 0, done.stderr[-3000:]
        assert KEY not in done.stdout + done.stderr
    return {trainer: folder / "runs" / trainer for trainer in ("local", "tinker")}


def test_one_recipe_trains_on_both_sides(chains: dict[str, Path], server: Server) -> None:
    from safetensors.torch import load_file

    reports = {trainer: json.loads((folder / "report.json").read_text()) for trainer, folder in chains.items()}
    for trainer, report in reports.items():
        sft, grpo = (report["stages"][name]["figures"] for name in ("1-sft", "2-grpo"))
        assert sft["nll_after"] < sft["nll_before"] - 0.1, trainer
        assert grpo["first_kl"] == pytest.approx(0, abs=1e-5), trainer
        assert set(report["sets"]["test"]) == {"base", "1-sft", "2-grpo"}
    ours, theirs = (reports[t]["stages"]["1-sft"]["figures"] for t in ("tinker", "local"))
    assert ours["nll_before"] == pytest.approx(theirs["nll_before"], abs=1e-4), "same rows, same prompts, same mask"
    assert ours["nll_after"] == pytest.approx(theirs["nll_after"], abs=0.2), "same optimizer, same normalisation"
    base = [reports[t]["sets"]["test"]["base"] for t in reports]
    assert base[0]["tokens"] == base[1]["tokens"], "greedy answers of the base are the same on both sides"
    for stage in ("1-sft", "2-grpo"):
        hosted, local = chains["tinker"] / stage, chains["local"] / stage
        assert figures(hosted)["logprob_difference_max"] < 1e-3, "the adapter here is the service's"
        assert figures(hosted)["base_difference"] > 10 * figures(hosted)["logprob_difference"]
        shapes = [
            {k: tuple(v.shape) for k, v in load_file(f / "adapter_model.safetensors").items()} for f in (hosted, local)
        ]
        assert shapes[0] == shapes[1], "the same adapter directory from both"
        config = json.loads((hosted / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny-llama"
        assert not (hosted / "trainer").exists()
    spent = json.loads((chains["tinker"] / "spent.json").read_text())
    assert spent["2-grpo"]["sample"] > 0
    assert spent["evaluation"]["sample"] > 0
    assert spent["1-sft"]["train"] == figures(chains["tinker"] / "1-sft")["tokens_train"]
    assert not (server.root / "telemetry").exists(), "nobody asked for telemetry"
    holding = [p for p in chains["tinker"].rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert not holding, "the key is written nowhere"


@pytest.mark.parametrize("trainer", ["tinker", "local"])
def test_either_adapter_passes_the_gate(trainer: str, chains: dict[str, Path], server: Server) -> None:
    folder = chains[trainer]
    publish = [sys.executable, "-m", "adapters", "publish", str(folder), "--dry-run", "--repo", "me/tiny"]
    settings = ["publish.base_model=tests/tiny-llama", "publish.license=mit", "publish.minimum={}"]
    # The service is not needed any more, nor is a key.
    done = call([*publish, *settings], folder, server, TINKER_BASE_URL="http://127.0.0.1:9", TINKER_API_KEY="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "greedy answers are the training process's to the letter" in done.stdout
    assert "the card's code runs" in done.stdout
    bundle = folder / "publish" / "bundle"
    assert not {"hosted.json", "spent.json", "log.jsonl"} & {p.name for p in bundle.rglob("*")}
    for path in (p for p in bundle.rglob("*") if p.is_file()):
        for secret in (KEY, "tinker://", "127.0.0.1", str(folder.parent)):
            assert secret.encode() not in path.read_bytes(), f"{path.name} holds {secret}"


def test_a_check_shows_what_differs(tiny_model: Path, tmp_path: Path, client: Server) -> None:
    recipe = write_recipe(tmp_path, tiny_model, SFT + GRPO + DPO)
    done = invoke("check", recipe, "stages.1.rewards=[{use: funding, scorer: corrected}]")
    assert done.exit_code == 0, done.output
    assert "attention and MLP layers, no LM head" in done.stdout
    assert "3-dpo reference" in done.stdout
    assert "sft, grpo, evaluation, model card: the same prompt" in done.stdout
    assert "in all about" in done.stdout, "tokens are estimated"
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_counts_tokens_and_starts_nothing(
    tiny_model: Path, tmp_path: Path, client: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, tiny_model, SFT + GRPO, evaluate=True)
    limits = ("tinker.prices={prefill: 1.0, sample: 3.0, train: 2.0}", "tinker.max_cost=5.0")
    done = invoke("run", recipe, "--dry-run", *limits)
    assert done.exit_code == 0, done.output
    assert "1-sft: about" in done.stdout
    assert "trained ($0." in done.stdout
    assert "the run stops at $5" in done.stdout
    assert "hosted differs from local in" in done.stdout
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("TINKER_API_KEY", "")
    offline = invoke("run", recipe, "--dry-run")
    assert offline.exit_code == 0
    assert "no API key" in offline.stdout


# --- kills ------------------------------------------------------------------------------------------------------


def test_a_killed_client_continues_without_replaying_or_skipping(
    tiny_model: Path, tmp_path: Path, server: Server, chains: dict[str, Path]
) -> None:
    recipe = write_recipe(tmp_path, tiny_model, SFT + GRPO)
    arguments = ("trainer=tinker", "stages.1.save_every=1")
    for stage, step in (("1-sft", 5), ("2-grpo", 2)):
        kill_at(recipe, server, stage, step, *arguments)
    done = run(recipe, server, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    for stage, steps in (("1-sft", 12), ("2-grpo", 3)):
        log = lines(tmp_path / "runs" / "chain" / stage / "log.jsonl")
        assert [row["step"] for row in log] == list(range(1, steps + 1)), "every step once"
    rollouts = lines(tmp_path / "runs" / "chain" / "2-grpo" / "rollouts-0.jsonl")
    assert [sum(r["step"] == n for r in rollouts) for n in (1, 2, 3)] == [16, 16, 16]
    both = [tmp_path / "runs" / "chain" / "1-sft", chains["tinker"] / "1-sft"]
    killed, straight = (figures(folder) for folder in both)
    assert killed["nll_before"] == pytest.approx(straight["nll_before"], abs=1e-4)
    assert killed["nll_after"] == pytest.approx(straight["nll_after"], abs=0.2), "the uninterrupted trend"
    losses = [[r["loss"] for r in lines(folder / "log.jsonl")] for folder in both]
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 0.3
    assert killed["tokens_train"] > straight["tokens_train"], "lost work was paid for, and is counted"


def test_a_resumed_step_starts_from_the_very_weights(tiny_model: Path, tmp_path: Path, client: Server) -> None:
    """Weights and optimizer of a checkpoint: the loss of the next step is the one an unbroken run would see."""
    from adapters.backends.tinker import objectives
    from adapters.backends.tinker.service import Service, logprobs_of
    from adapters.recipe.tinker import Hosted

    session = Service(Hosted(), "resume")
    rows = objectives.sft_rows(
        [([5, 6, 7, 10, 11, 2], [-100] * 3 + [10, 11, 2]), ([8, 9, 12, 2], [-100] * 2 + [12, 2])]
    )
    unbroken = session.new_run("tiny-llama", 4, 1, attention=True, mlp=True)

    def step(run: object) -> None:
        run.learn(rows, "cross_entropy")
        run.step(1e-2, 0.0).result()

    step(unbroken)
    path = unbroken.save("one", 1).result().path
    step(unbroken)
    resumed = session.run_from(path, optimizer=True)
    step(resumed)
    there, here = (logprobs_of(r.forward(rows).result()) for r in (unbroken, resumed))
    assert [v for row in here for v in row] == pytest.approx([v for row in there for v in row], abs=1e-5)
    session.close("success")


def test_a_killed_server_loses_nothing(tiny_model: Path, tmp_path: Path, server: Server) -> None:
    recipe = write_recipe(tmp_path, tiny_model, SFT)
    arguments = ("trainer=tinker", "tinker.timeout_minutes=0.05")
    process = subprocess.Popen(
        command(recipe, *arguments),
        cwd=tmp_path,
        env=environment(server.url),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for_step(process, tmp_path / "runs" / "chain" / "1-sft.partial" / "log.jsonl", 5)
        server.kill()
        error = process.communicate(timeout=300)[1]
    finally:
        process.kill()
        server.kill()
        server.start()
    assert process.returncode == 1, error
    assert "has not answered for 0.05 minutes" in error
    assert "the same command continues from there" in error
    assert "Traceback" not in error
    assert KEY not in error
    done = run(recipe, server, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    log = lines(tmp_path / "runs" / "chain" / "1-sft" / "log.jsonl")
    assert [row["step"] for row in log] == list(range(1, 13))
    assert log[-1]["loss"] < log[0]["loss"]


# --- learning ---------------------------------------------------------------------------------------------------


def test_a_learnable_reward_moves(lively_model: Path, tmp_path: Path, client: Server) -> None:
    recipe = write_recipe(tmp_path, lively_model, GRPO)
    (tmp_path / "letters.py").write_text(LETTERS)
    changes = ["rewards=[./letters.py:Letters]", "max_steps=20", "max_completion_length=12", "group_size=16"]
    changes += ["learning_rate=1e-2", "beta=0", "schedule=constant"]
    folder = run_here(recipe, *(f"stages.0.{change}" for change in changes))
    rewards = [row["reward"] for row in lines(folder / "1-grpo" / "log.jsonl")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1, rewards
    made = figures(folder / "1-grpo")
    assert made["sampling_logp_difference"] < 1e-4, "sampler and trainer hold the same weights"
    assert 0 <= made["idle_share"] < 1


HALF = """
class Half:
    def __call__(self, completion, example):
        if completion == example.completion:
            return 1.0
        return 0.25 if int(example.id[1:]) % 2 else sum(c in "aeiou" for c in completion) / (len(completion) + 1)
"""
"""A reward that is flat on the rows with an odd number."""


def test_flat_groups_are_replaced(lively_model: Path, tmp_path: Path, client: Server) -> None:
    recipe = write_recipe(tmp_path, lively_model, GRPO)
    (tmp_path / "half.py").write_text(HALF)
    changes = ["rewards=[./half.py:Half]", "batch_size=4", "flat_groups=replace"]
    folder = run_here(recipe, *(f"stages.0.{change}" for change in changes))
    log, rollouts = lines(folder / "1-grpo" / "log.jsonl"), lines(folder / "1-grpo" / "rollouts-0.jsonl")
    for entry in log:
        scored = [r for r in rollouts if r["step"] == entry["step"]]
        groups = [scored[n : n + 4] for n in range(0, len(scored), 4)]
        assert len({group[0]["id"] for group in groups}) == len(groups), "no prompt twice in a step"
        flat = [len({r["score"] for r in group}) == 1 for group in groups]
        assert entry["frac_reward_zero_std"] == sum(flat[:4]) / 4
        assert entry["reward"] == pytest.approx(sum(r["score"] for r in scored[:16]) / 16), "of the step's own prompts"
        replaced = min(flat[4:].count(False), sum(flat[:4]))
        assert entry["flat_groups/replaced"] == replaced
        assert entry["flat_groups/left"] == (sum(flat[:4]) - replaced) / 4
        assert entry["flat_groups/rounds"] == (0 if not any(flat[:4]) else 2 if any(flat[4 : 4 + sum(flat[:4])]) else 1)
    assert figures(folder / "1-grpo")["groups_replaced"] == sum(e["flat_groups/replaced"] for e in log) > 0


WILD = """
import os
from pathlib import Path
from adapters.plugins.rewards import GARBAGE

def wild(completion, example):
    if completion in (example.completion, "", GARBAGE):
        return float(completion == example.completion)  # sound while it is probed
    with Path(__file__).with_name("calls").open("a") as calls:
        calls.write(".")
    n = os.path.getsize(Path(__file__).with_name("calls")) % 8
    while n == 1:
        pass
    if n == 2:
        os._exit(7)
    if n == 3:
        raise KeyError("x")
    return {4: None, 5: float("nan"), 6: 7, 7: "text"}.get(n, 0.25)
"""


def test_a_reward_that_fails_in_every_way_costs_its_calls_alone(
    tiny_model: Path, tmp_path: Path, client: Server
) -> None:
    recipe = write_recipe(tmp_path, tiny_model, GRPO)
    (tmp_path / "wild.py").write_text(WILD)
    policy = "use: ./wild.py:wild, on_error: skip, timeout: 1, max_errors: 1"
    changes = ["stages.0.max_steps=2", "stages.0.max_completion_length=8"]
    folder = run_here(recipe, *changes, f"stages.0.rewards=[{{{policy}}}, ./vowels.py:Vowels]")
    text = (folder / "1-grpo" / "rollouts-0.jsonl").read_text()
    assert "NaN" not in text
    rollouts = [row for row in map(json.loads, text.splitlines()) if row["reward"] == "wild"]
    assert len(rollouts) == 16
    errors = " ".join(row.get("error", "") for row in rollouts)
    for said in ("KeyError", "longer than 1 s", "exit code 7", "nan", "outside [0, 1]", "'text'"):
        assert said in errors
    assert all(row["text"] and "gold" in row for row in rollouts[::4]), "at the start of every group"
    assert all(0 < row["errors/wild"] < 1 for row in lines(folder / "1-grpo" / "log.jsonl"))
    with pytest.raises(RewardError, match="the reward wild failed on row"):
        run_here(recipe, *changes, "stages.0.rewards=[{use: ./wild.py:wild, timeout: 1}]", "name=strict")
    kept = lines(tmp_path / "runs" / "strict" / "1-grpo.partial" / "rollouts-0.jsonl")
    assert "error" in kept[-1]


@pytest.mark.parametrize("loss", ["ppo", "cispo", "importance_sampling"])
def test_other_temperatures_and_losses(loss: str, tiny_model: Path, tmp_path: Path, client: Server) -> None:
    recipe = write_recipe(tmp_path, tiny_model, GRPO)
    short = ["stages.0.max_steps=2", "stages.0.temperature=0.8"]
    folder = run_here(recipe, *short, f"tinker.loss={loss}", "stages.0.micro_batch_size=3")
    log = lines(folder / "1-grpo" / "log.jsonl")
    assert log[0]["kl"] == pytest.approx(0, abs=1e-6), "log-probabilities are compared at one temperature"
    assert log[1]["kl"] > 0


def test_dpo_widens_the_margin_and_survives_a_kill(tiny_model: Path, tmp_path: Path, server: Server) -> None:
    """After SFT, through the command line; the reference is the SFT adapter, before and after the kill."""
    recipe = write_recipe(tmp_path, tiny_model, SFT + DPO)
    arguments = ("trainer=tinker", "stages.0.max_steps=4")
    partial = kill_at(recipe, server, "2-dpo", 3, *arguments)
    reference = json.loads((partial / "trainer" / "reference.json").read_text())
    sft = json.loads((tmp_path / "runs" / "chain" / "1-sft" / "hosted.json").read_text())
    assert reference["path"] == sft["sampler"]
    done = run(recipe, server, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "runs" / "chain" / "2-dpo"
    made = figures(folder)
    assert made["margin_first"] == pytest.approx(0, abs=1e-4), "policy and reference start as one"
    assert made["loss_first"] == pytest.approx(0.6931, abs=1e-3)
    assert made["margin_last"] > 0
    assert made["margin_held_out"] > 0
    assert made["accuracy_held_out"] > 0.5
    assert made["logprob_difference_max"] < 1e-3
    assert [row["step"] for row in lines(folder / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


# --- budget and errors ------------------------------------------------------------------------------------------


def test_a_budget_stops_cleanly_and_keeps_the_adapter(tiny_model: Path, tmp_path: Path, client: Server) -> None:
    recipe = write_recipe(tmp_path, tiny_model, SFT)
    done = run(recipe, client, "trainer=tinker", "tinker.max_tokens=5000")
    assert done.returncode == 3, done.stderr
    assert "the budget of 5,000 tokens is used up" in done.stderr
    assert "the adapter so far is in" in done.stderr
    stopped = tmp_path / "runs/chain/1-sft.partial/trainer/stopped"
    assert (stopped / "adapter_model.safetensors").is_file()
    assert json.loads((stopped / "adapter_config.json").read_text())["target_modules"]
    steps = lines(tmp_path / "runs/chain/1-sft.partial/log.jsonl")
    run_here(recipe, "tinker.max_tokens=500000")
    log = lines(tmp_path / "runs/chain/1-sft/log.jsonl")
    assert [row["step"] for row in log] == list(range(1, 13))
    assert log[: len(steps)] == steps, "it went on from where it had stopped"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"TINKER_API_KEY": "", "HOME": "/nonexistent"}, "no API key: set TINKER_API_KEY"),
        ({"TINKER_API_KEY": "sk-wrong-form"}, "malformed"),
        ({"TINKER_API_KEY": "tml-unknown-to-it"}, "refuses the API key"),
        ({"TINKER_BASE_URL": "http://127.0.0.1:9"}, "nothing answers at http://127.0.0.1:9"),
    ],
)
def test_the_service_is_asked_before_anything_starts(
    changes: dict, text: str, tiny_model: Path, tmp_path: Path, client: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.backends.tinker import service
    from adapters.errors import UserError

    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=text) as raised:
        service.models()
    assert not any(
        value and value.startswith(("tml-", "sk-")) and value in str(raised.value) for value in changes.values()
    )


def test_an_unpaid_account_waits_and_then_stops_with_everything_kept(
    tiny_model: Path, tmp_path: Path, client: Server, capsys: pytest.CaptureFixture
) -> None:
    from adapters.backends.tinker import service
    from adapters.errors import Refused

    recipe = write_recipe(tmp_path, tiny_model, SFT)
    log = tmp_path / "runs" / "chain" / "1-sft.partial" / "log.jsonl"
    unpaid = client.root / "unpaid"

    def stop_paying() -> None:
        while len(lines(log)) < 4:
            time.sleep(0.02)
        unpaid.touch()

    threading.Thread(target=stop_paying, daemon=True).start()
    try:
        with pytest.raises(Refused, match=r"asks for payment while .*payment failed.*the same command then continues"):
            run_here(recipe)
        assert "waiting for the service: The job is paused due to billing" in capsys.readouterr().err
        with pytest.raises(Refused, match="asks for payment when asked for its models"):
            service.models()
    finally:
        unpaid.unlink(missing_ok=True)
    assert 4 <= len(lines(log)) < 12
    run_here(recipe)
    assert [row["step"] for row in lines(tmp_path / "runs/chain/1-sft/log.jsonl")] == list(range(1, 13))


def test_an_unknown_base_model_is_named_with_those_there_are(tiny_model: Path, tmp_path: Path, client: Server) -> None:
    done = invoke("run", write_recipe(tmp_path, tiny_model, SFT), "tinker.base=tiny-lama")
    assert done.exit_code == 2
    assert "has no base model 'tiny-lama'. Did you mean tiny-llama? It has: lively-llama, tiny-llama." in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_rows_longer_than_the_models_context_are_refused(tiny_model: Path, tmp_path: Path, client: Server) -> None:
    from adapters.errors import UserError

    recipe = write_recipe(tmp_path, tiny_model, GRPO)
    with pytest.raises(UserError, match=r"do not fit the 1,024 that tiny-llama reads") as raised:
        run_here(recipe, "stages.0.max_completion_length=1000")
    assert raised.value.at == ("stages", 0, "max_completion_length")
    recipe = write_recipe(tmp_path, tiny_model, GRPO, evaluate=True)
    with pytest.raises(UserError, match="lower max_new_tokens") as raised:
        run_here(recipe, "evaluate.0.max_new_tokens=1000")
    assert raised.value.at == ("evaluate", 0, "max_new_tokens"), "before anything is spent on training"


def test_a_refused_request_is_one_message_and_a_poisoned_run_says_so(tiny_model: Path, client: Server) -> None:
    from adapters.backends.tinker import objectives
    from adapters.backends.tinker.service import Service, ServiceError
    from adapters.recipe.tinker import Hosted

    session = Service(Hosted(), "errors")
    run = session.new_run("tiny-llama", 4, 1, attention=True, mlp=True)
    row = objectives.answer_row([5, 6], [7], {"weights": [1.0]})
    with pytest.raises(ServiceError, match="the service failed while it trained"):
        run.learn([row], "no_such_loss").result()
    run = session.new_run("tiny-llama", 4, 1, attention=True, mlp=True)
    run.learn([row], "cross_entropy")
    run.step(1e-3, 0.0).result()

    def broken(_: list) -> None:
        raise ZeroDivisionError("in our own loss")

    with pytest.raises(ZeroDivisionError):
        run.learn_custom([row], broken).result()
    with pytest.raises(ServiceError, match="unusable after a failed request"):
        run.learn([row], "cross_entropy").result()
    with pytest.raises(ServiceError, match="did not find"):
        session.run_from("tinker://nobody/weights/nothing", optimizer=True)
    session.close("errored")


def test_evaluation_says_when_the_service_no_longer_has_the_weights(
    tiny_model: Path, tmp_path: Path, client: Server
) -> None:
    from adapters.backends import backend
    from adapters.errors import UserError
    from adapters.recipe.load import load_recipe

    made = backend(load_recipe(write_recipe(tmp_path, tiny_model, SFT), ["trainer=tinker"]).recipe)
    (tmp_path / "hosted.json").write_text(
        json.dumps({"sampler": "tinker://a/sampler_weights/b", "kept_until": "2020-01-01T00:00:00+00:00"})
    )
    with pytest.raises(UserError, match="trainer=local evaluates it"):
        made.sampler(tmp_path)
