"""`scripts/gpu_check.py`, rehearsed on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.py"


def gpu_check(*arguments: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], env=env, capture_output=True, text=True, check=False, timeout=1800
    )


@pytest.mark.slow
@pytest.mark.first
def test_every_check_passes_on_a_cpu(tmp_path: Path) -> None:
    done = gpu_check("--cpu", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = {check["check"]: check for check in json.loads((tmp_path / "out" / "gpu_check.json").read_text())}
    elsewhere = {"chain_zero2", "chain_zero3", "chain_fsdp2", "vllm"}
    assert {name for name, check in results.items() if check["result"] != "ok"} <= elsewhere
    assert results["environment"]["versions"]["torch"]
    losses = results["chain"]["losses"]
    assert losses[1] < losses[0]
    assert results["same_losses"]["largest_difference"] == "0.0e+00", "the CPU beside itself"
    assert results["sft_speed"]["tokens_a_second"] > 0
    assert results["grpo_speed"]["ms_a_token"] > 0


@pytest.mark.slow
def test_a_check_that_fails_stops_no_other(tmp_path: Path) -> None:
    done = gpu_check("--cpu", "--only", "chain,environment", "--limit", "0.1", "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stdout.count("FAILED") == 4, "a line and a row of the table each"
    assert "not finished after 0.1 s" in done.stdout
    assert "2 of 2 checks failed" in done.stdout
    unknown = gpu_check("--only", "chian")
    assert unknown.returncode == 2
    assert "no check is called chian; there are environment, chain" in unknown.stderr
