"""The chain under DeepSpeed on two processes, and on a 4-bit base: the same adapter, never an empty one."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest
from launching import figures, run, two_processes, weights
from tiny import chain_recipe, save_tiny_model

from adapters.errors import UserError

NO_DEEPSPEED = "DeepSpeed is not installed; DS_BUILD_OPS=0 pip install -c constraints.txt -e '.[deepspeed]'"
needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason=NO_DEEPSPEED)
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed; pip install -c constraints.txt -e '.[quant]'",
)
# Adam turns rounding near zero into steps of full size.
SAME = ["model.precision=fp32", "stages.0.trl.optim=sgd", "stages.0.learning_rate=0.5"]


def launched(folder: Path, kind: str, *overrides: str) -> list[str]:
    command = [sys.executable, "-m", "adapters", "run", str(folder / "chain.yaml")]
    return [*command, "--launch", two_processes(folder, kind), *SAME, *overrides]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and the run of one process, named `one`."""
    folder = tmp_path_factory.mktemp("sharding")
    text = chain_recipe(folder, save_tiny_model(folder / "tiny-llama"))
    (folder / "chain.yaml").write_text(text)
    done = run([sys.executable, "chain.yaml", *SAME, "name=one"], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@needs_deepspeed
@pytest.mark.parametrize("kind", ["zero2", "zero3"])
def test_sharded_processes_make_the_same_adapter(place: Path, kind: str) -> None:
    done = run(launched(place, kind, f"name={kind}"), place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"2 processes on cpu:0, fp32, {kind}" in done.stdout
    one, two = place / "runs" / "one", place / "runs" / kind
    a, b = (weights(folder / "1-sft") for folder in (one, two))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].shape == b[name].shape
        assert float((a[name] - b[name]).abs().max()) < 1e-4, name
    assert any(float(b[name].abs().max()) > 1e-3 for name in b if "lora_B" in name), "the adapter is not empty"
    for key in ("nll_before", "nll_after"):
        assert figures(one, "1-sft")[key] == pytest.approx(figures(two, "1-sft")[key], abs=1e-4)
    assert figures(two, "2-grpo")["first_kl"] == pytest.approx(0, abs=1e-6)
    grpo = weights(two / "2-grpo")
    assert all(grpo[name].shape == b[name].shape for name in b)
    assert any(not grpo[name].equal(b[name]) for name in b), "GRPO trained the adapter on"
    rollouts = [p.read_text().splitlines() for p in (two / "2-grpo").glob("rollouts-*.jsonl")]
    assert sorted(map(len, rollouts)) == [16, 16], "each rollout is graded once by each reward, by one process"
    asked = [{json.loads(r)["id"] for p in (run / "2-grpo").glob("rollouts-*") for r in p.open()} for run in (one, two)]
    assert asked[0] == asked[1], "the order of the data does not depend on the number of processes"
    report = json.loads((two / "report.json").read_text())
    assert {m["n"] for m in report["sets"]["test"].values()} == {6}


@pytest.mark.slow
@needs_deepspeed
def test_a_dead_process_takes_the_sharded_run_down_which_then_continues(place: Path) -> None:
    (place / "dying.py").write_text(
        "import glob, os\n"
        "class Dying:\n"
        "    def __call__(self, completion, example):\n"
        f"        died = {str(place / 'died')!r}\n"
        f"        saved = glob.glob({str(place / 'runs/died/2-grpo.partial/trainer/checkpoint-*/seal.json')!r})\n"
        "        if saved and os.environ.get('RANK') == '1' and not os.path.exists(died):\n"
        "            open(died, 'w').close()\n"
        "            raise ValueError('the second process has had enough')\n"
        "        return (len(completion) % 7) / 8\n"
    )
    command = launched(place, "zero3", "name=died", "stages.1.rewards=[./dying.py:Dying]", "evaluate=[]")
    command += ["stages.1.max_steps=6", "stages.1.save_every=1"]
    began = time.monotonic()
    first = run(command, place)
    assert first.returncode != 0
    assert (place / "died").exists()
    assert time.monotonic() - began < 200, "no waiting for the collective's timeout"
    assert "process 1: the run failed" in first.stderr
    assert "the second process has had enough" in first.stderr
    assert list((place / "runs/died/2-grpo.partial/trainer").glob("checkpoint-*/seal.json"))
    second = run(command, place)
    assert second.returncode == 0, second.stderr[-3000:]
    assert figures(place / "runs/died", "2-grpo")["steps"] == 6


@pytest.mark.slow
@needs_bitsandbytes
def test_an_adapter_of_a_4_bit_base_fits_the_whole_base(place: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    done = run([sys.executable, "chain.yaml", *SAME, "name=nf4", "model.quantize=nf4"], place)
    assert done.returncode == 0, done.stderr[-3000:]
    trained = place / "runs" / "nf4" / "2-grpo"
    four, whole = (figures(place / "runs" / name, "1-sft") for name in ("nf4", "one"))
    assert four["nll_before"] != whole["nll_before"], "it was trained on rounded weights"
    assert four["nll_after"] < four["nll_before"]
    assert figures(place / "runs" / "nf4", "2-grpo")["first_kl"] == pytest.approx(0, abs=1e-6)
    assert "quantization" not in (trained / "adapter_config.json").read_text()
    base = AutoModelForCausalLM.from_pretrained(place / "tiny-llama")
    ids = torch.tensor([[5, 6, 7, 8]])
    before = base(ids).logits
    model = PeftModel.from_pretrained(base, trained)
    assert float((model(ids).logits - before).abs().max()) > 1e-3
    merged = model.merge_and_unload()
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "FSDP needs fsdp_version: 2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_CPU": "true"}, "says use_cpu"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero3_save_16bit_model"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_CONFIG_FILE": "/no/such.json"}, "cannot be read"),
        (
            {
                "ACCELERATE_USE_DEEPSPEED": "true",
                "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
                "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
            },
            "zero3_init_flag",
        ),
    ],
)
def test_launches_that_would_not_do_what_they_say(env: dict, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.backends.local import sharding

    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    assert sharding.check_launch() is None
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sharding.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UserError, match=text):
        sharding.check_launch()


def test_a_4_bit_base_is_checked_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.backends import local

    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[quant\]'") as raised:
        local._check_quantized(None)
    assert raised.value.at == ("model", "quantize")
    monkeypatch.setattr(local.importlib.util, "find_spec", lambda name: object())
    local._check_quantized("zero2")
    for sharded in ("zero3", "fsdp2"):
        with pytest.raises(UserError, match=r"cannot shard 4-bit weights.*zero2\.yaml"):
            local._check_quantized(sharded)
