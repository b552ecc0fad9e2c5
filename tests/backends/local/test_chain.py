"""The whole chain, SFT -> GRPO -> evaluate, through real TRL on a tiny random model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def launch(command: list[str], cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "COLUMNS": "200", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=400, check=False)


def accelerate(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *arguments]


def figures(run: Path) -> dict:
    return json.loads((run / "2-grpo" / "manifest.json").read_text())["figures"]


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture
def recipe(tmp_path: Path, recipe_text: str) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(recipe_text)
    return path


@pytest.mark.slow
def test_one_process_by_the_two_line_header(recipe: Path, tmp_path: Path) -> None:
    done = launch(accelerate("--num_processes", "1", str(recipe)), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "chain"
    assert figures(run)["first_kl"] == pytest.approx(0, abs=1e-6)
    report = json.loads((run / "report.json").read_text())
    assert set(report["sets"]["test"]) == {"base", "1-sft", "2-grpo"}
    assert report["sets"]["test"]["2-grpo"]["n"] == 6
    config = json.loads((run / "2-grpo" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-llama", "a published adapter names no local path"
    left = {p.name for p in (run / "2-grpo").iterdir()}
    assert not left & {"trainer", "ref", "training_args.bin", "README.md"}
    sft, grpo = weights(run / "1-sft"), weights(run / "2-grpo")
    assert sft.keys() == grpo.keys()
    assert any(not sft[k].equal(grpo[k]) for k in sft), "GRPO trained the adapter on"
    assert "nll_before" in json.loads((run / "1-sft" / "manifest.json").read_text())["figures"]
    again = launch(accelerate("--num_processes", "1", str(recipe)), tmp_path)
    assert again.returncode == 0
    assert again.stdout.count("done, skipped") == 2


@pytest.mark.slow
def test_two_processes_make_the_same_adapter(recipe: Path, tmp_path: Path) -> None:
    # Adam turns rounding near zero into steps of full size.
    same = [
        "model.precision=fp32",
        "stages.0.trl.optim=sgd",
        "stages.0.validation=0.1",
    ]
    same += ["stages.0.learning_rate=0.5"]
    one = launch([sys.executable, str(recipe), *same, "name=one"], tmp_path)
    assert one.returncode == 0, one.stderr[-3000:]
    config = Path(__file__).parents[3] / "recipes" / "accelerate" / "ddp.yaml"
    command = [sys.executable, "-m", "adapters", "run", str(recipe), "--launch", str(config), *same, "name=two"]
    two = launch(command, tmp_path)
    assert two.returncode == 0, two.stderr[-3000:]
    assert "2 processes on cpu" in two.stdout
    assert two.stdout.count("1-sft") == one.stdout.count("1-sft"), "only the first process speaks"
    a, b = (weights(tmp_path / "runs" / name / "1-sft") for name in ("one", "two"))
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-4
    assert figures(tmp_path / "runs" / "two")["first_kl"] == pytest.approx(0, abs=1e-6)
    samples = (tmp_path / "runs" / "two" / "eval" / "2-grpo" / "test" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(s)["id"] for s in samples] == [f"t{i}" for i in range(6)]
    rollouts = [p.read_text().splitlines() for p in (tmp_path / "runs" / "two" / "2-grpo").glob("rollouts-*.jsonl")]
    assert sorted(map(len, rollouts)) == [16, 16], "each rollout is graded once by each reward, by one process"


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_stage_continues_from_its_checkpoint(recipe: Path, tmp_path: Path, damaged: bool) -> None:
    """The reference stays the SFT adapter, and the policy goes on from the checkpoint."""
    (tmp_path / "dying.py").write_text(
        "import os\n"
        "class Dying:\n"
        "    calls = 0\n"
        "    def __call__(self, completion, example):\n"
        "        Dying.calls += 1\n"
        f"        if Dying.calls > 80 and not os.path.exists({str(tmp_path / 'died')!r}):\n"
        f"            open({str(tmp_path / 'died')!r}, 'w').close()\n"
        "            os._exit(9)\n"
        "        return 1.0 if completion == example.completion else (len(completion) % 7) / 8\n"
    )
    command = [
        sys.executable,
        str(recipe),
        "stages.1.rewards=[./dying.py:Dying]",
        "stages.1.max_steps=4",
        "evaluate=[]",
    ]
    command.append("stages.1.save_every=1")
    first = launch([*command, "name=died"], tmp_path)
    assert first.returncode != 0
    died = tmp_path / "runs/died"
    assert (died / "2-grpo.partial/trainer").is_dir()
    if damaged:  # the newest checkpoint cannot be read: the one before it is good enough
        newest = max((died / "2-grpo.partial/trainer").glob("checkpoint-*"))
        (newest / "optimizer.pt").write_bytes(b"half")
    second = launch([*command, "name=died"], tmp_path)
    assert second.returncode == 0, second.stderr[-3000:]
    assert "done, skipped" in second.stdout
    assert "continues" in second.stdout
    straight = launch([*command, "name=straight"], tmp_path)
    assert straight.returncode == 0, straight.stderr[-3000:]
    a, b = (weights(tmp_path / "runs" / name / "2-grpo") for name in ("died", "straight"))
    assert all(a[k].equal(b[k]) for k in a), "the same weights, to the last bit, as without the death"
    for file, times in (("log.jsonl", 1), ("rollouts-0.jsonl", 8)):
        steps = [json.loads(x)["step"] for x in (died / "2-grpo" / file).read_text().splitlines()]
        whole = (tmp_path / "runs/straight/2-grpo" / file).read_text().splitlines()
        assert steps == [json.loads(x)["step"] for x in whole], "no record is lost or doubled"
        assert steps.count(2) == times
