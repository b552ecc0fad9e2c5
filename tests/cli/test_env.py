"""`adapters env`: what it says, and the secrets that it does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer
from typer.testing import CliRunner

from adapters import environment
from adapters.cli.main import app

pytest.importorskip("torch")
TOKEN = "hf_" + "Abcd1234" * 4
SECRETS = {
    "HF_TOKEN": TOKEN,
    "WANDB_API_KEY": "wandb-secret-0123456789",
    "TINKER_API_KEY": "tml-secret0123456789",
    "HTTPS_PROXY": "http://me:proxy-password@proxy:3128",
    "HF_ENDPOINT": "http://me:endpoint-password@hub",
    # Somebody put a token where it does not belong.
    "ACCELERATE_MIXED_PRECISION": TOKEN,
}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_secret_and_no_home_folder(planted: Path, options: list[str]) -> None:
    result = CliRunner().invoke(app, ["env", *options])
    assert result.exit_code == 0, result.output
    for secret in (*SECRETS.values(), "password", str(planted)):
        assert secret not in result.output
    assert "~/hub" in result.output
    assert "HF_HUB_OFFLINE is set" in result.output
    for name in ("torch", "peft", "trl", "numpy", "python", "memory", "flash-linear-attention", "CUDA_VISIBLE_DEVICES"):
        assert name in result.output
    if options:
        found = json.loads(result.output)
        assert found["variables"]["HF_TOKEN"] == "set"
        assert found["variables"]["OPENAI_API_KEY"] == "not set"
        assert found["variables"]["HF_HUB_OFFLINE"] == "1"
        assert found["variables"]["ACCELERATE_MIXED_PRECISION"] == "***"


def test_a_hub_that_does_not_answer_is_said_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: TOKEN)
    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", lambda self: time.sleep(5))
    monkeypatch.setattr(environment, "HUB_SECONDS", 0.1)
    began = time.monotonic()
    assert "within 0.1 seconds" in environment._hub()
    assert time.monotonic() - began < 2
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert environment._hub() == "not logged in"


def test_a_broken_library_does_not_stop_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("libcuda.so.1")

    monkeypatch.setattr(environment, "_devices", broken)
    found = environment.describe()
    assert "libcuda.so.1" in found["devices"]
    assert found["versions"]["torch"]


@pytest.mark.slow
def test_the_login_is_a_name(tmp_path: Path) -> None:
    with HubServer() as server:
        known = {"HF_ENDPOINT": server.url, "HF_TOKEN": server.token, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | known
        command = [sys.executable, "-m", "adapters", "env"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
        assert "hub: logged in as me" in done.stdout
        assert server.token not in done.stdout + done.stderr
