"""Recipes started as several processes on a CPU, with the launch files that users are given."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH_FILES = ROOT / "recipes" / "accelerate"
FSDP_ON_CPU = ROOT / "tests" / "fsdp_on_cpu.py"
# What a GPU's defaults are: 16-bit weights, gradient checkpointing, padded passes.
AS_ON_A_GPU = ["model.dtype=bfloat16", "model.precision=bf16", "model.speedups=false"]
AS_ON_A_GPU += ["stages.0.gradient_checkpointing=true", "stages.1.gradient_checkpointing=true"]


def start(command: list[str], cwd: Path, **env: str) -> subprocess.Popen:
    # No ACCELERATE_USE_CPU here: accelerate leaves DeepSpeed out when it is set.
    env = {**os.environ, "COLUMNS": "200", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", **env}
    return subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def ended(process: subprocess.Popen, timeout: float = 300) -> subprocess.CompletedProcess:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run(command: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return ended(start(command, cwd, **env))


def two_processes(folder: Path, kind: str) -> str:
    """The launch file of a kind, for two processes."""
    text = (LAUNCH_FILES / f"{kind}.yaml").read_text()
    config = folder / f"{kind}.accelerate.yaml"
    config.write_text(re.sub(r"num_processes: \d+", "num_processes: 2", text))
    return str(config)


def accelerate(config: str, *options: str) -> list[str]:
    """`accelerate launch` of this Python."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]
    return [*launcher, "--config_file", config, *options]


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def difference(one: Path, two: Path) -> float:
    """The largest difference of two adapters, whose tensors must be the same ones."""
    a, b = weights(one), weights(two)
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    return max(float((a[k].float() - b[k].float()).abs().max()) for k in a)


def figures(run: Path, stage: str) -> dict:
    return json.loads((run / stage / "manifest.json").read_text())["figures"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]
