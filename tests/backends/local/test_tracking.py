"""Trackers get parameters, figures, rollouts and the report; a run that was stopped is one run there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.backends.local import check_trackers, tracking
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.recipe.load import load_recipe

KEYS = (
    "WANDB_API_KEY",
    "WANDB_IDENTITY_TOKEN_FILE",
    "WANDB_MODE",
    "WANDB_BASE_URL",
    "NETRC",
    "TENSORBOARD_LOGGING_DIR",
)


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without a login, in a folder of their own."""
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(folder: Path, recipe: str, *overrides: str, **env: str) -> subprocess.Popen:
    (folder / "chain.yaml").write_text(recipe)
    known = {**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "COLUMNS": "200", **env}
    command = [sys.executable, "-m", "adapters", "run", "chain.yaml", "model.precision=fp32", *overrides]
    return subprocess.Popen(command, cwd=folder, env=known, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(folder: Path, recipe: str, *overrides: str, **env: str) -> None:
    process = start(folder, recipe, *overrides, **env)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-3000:]


def test_wandb_without_a_login_is_a_sentence(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="wandb has no login on this machine: run `wandb login`"):
        tracking.check_login("wandb", ("report_to", 0))
    tracking.check_login("tensorboard", ())
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracking.check_login("wandb", ())
    monkeypatch.delenv("WANDB_MODE")
    (nobody / "wandb").mkdir()
    (nobody / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    tracking.check_login("wandb", ())
    (nobody / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    (nobody / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    with pytest.raises(UserError, match="WANDB_MODE=offline"):
        tracking.check_login("wandb", ())
    (nobody / ".netrc").write_text("machine wandb.example.org login user password x\n")
    tracking.check_login("wandb", ())
    (nobody / ".netrc").write_text("wandb.example.org x")
    with pytest.raises(UserError):
        tracking.check_login("wandb", ())


def test_other_trackers_without_a_login(nobody: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="clearml has no login on this machine: set CLEARML_API_ACCESS_KEY"):
        tracking.check_login("clearml", ())
    (nobody / "clearml.conf").touch()
    tracking.check_login("clearml", ())
    monkeypatch.setenv("COMET_MODE", "OFFLINE")
    tracking.check_login("comet_ml", ())


def test_what_is_not_installed_is_said_before_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.backends.local.get_available_reporting_integrations", lambda: ["wandb"])
    with pytest.raises(UserError, match="trackio is not installed"):
        check_trackers(["wandb", "trackio"])
    with pytest.raises(UserError, match="wandb has no login"):
        check_trackers(["wandb"])


def test_the_table_holds_the_newest_rollouts_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "ROLLOUTS", 3)
    for process in (0, 1):
        lines = [{"step": n, "id": f"{process}", "reward": "r", "score": 0.5, "completion": "[]"} for n in (0, 1)]
        (tmp_path / f"rollouts-{process}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [row[:2] for row in tracking._table(tmp_path)] == [[0, "1"], [1, "0"], [1, "1"]]


@pytest.mark.slow
def test_tensorboard_gets_one_folder_a_stage_also_of_a_killed_run(tmp_path: Path, recipe_text: str) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    overrides = ["report_to=[tensorboard]", "stages.0.max_steps=40", "stages.0.save_every=1"]
    process = start(tmp_path, recipe_text, *overrides)
    stage = tmp_path / "runs" / "chain" / "1-sft.partial"
    while process.poll() is None and not list(stage.glob("trainer/checkpoint-*/trainer_state.json")):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "runs" / "chain" / "1-sft").exists(), "it was killed while it trained"
    run(tmp_path, recipe_text, *overrides)
    sft, grpo = sorted((tmp_path / "runs" / "chain" / "tensorboard").iterdir(), key=lambda p: "grpo" in p.name)
    assert sft.name.startswith("chain-sft-")
    found = {folder: EventAccumulator(str(folder)) for folder in (sft, grpo)}
    for events in found.values():
        events.Reload()
    assert max(event.step for event in found[sft].Scalars("train/loss")) == 40
    texts = found[grpo].Tags()["tensors"]
    assert {"args/text_summary", "recipe/text_summary", "rollouts/text_summary"} <= set(texts)
    table = found[grpo].Tensors("rollouts/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert table.startswith("|step|id|reward|score|completion|")
    assert table.count("\n") > 2
    assert "train/reward" in found[grpo].Tags()["scalars"]


@pytest.mark.slow
def test_wandb_offline_and_trackio_get_one_run_a_stage_and_the_report(tmp_path: Path, recipe_text: str) -> None:
    pytest.importorskip("wandb")
    pytest.importorskip("trackio")
    env = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(tmp_path / "trackio")}
    run(tmp_path, recipe_text, "report_to=[wandb, trackio]", **env)
    opened = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    ids = {json.loads(path.read_text())["id"]: path.parent.name for path in tmp_path.glob("runs/chain/*/tracking.json")}
    names = sorted(f"chain-{stage.partition('-')[2]}-{key}" for key, stage in ids.items())
    assert sorted({name.split("-", 3)[3] for name in opened}) == names, "one run a stage, however often it is opened"
    run(tmp_path, recipe_text, "report_to=[wandb, trackio]", **env)
    again = sorted(path.name for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert again == opened, "the report is sent once"
    files = {path.name for path in (tmp_path / "wandb").rglob("*") if path.is_file()}
    assert any(name.startswith("rollouts_") and name.endswith(".table.json") for name in files), files
    code = (
        "import json\n"
        "from trackio.sqlite_storage import SQLiteStorage as S\n"
        "p = 'huggingface'\n"
        "print(json.dumps({n: [sorted({k for m in S.get_logs(p, n) for k in m}), sorted(S.get_run_config(p, n))]"
        " for n in S.get_runs(p)}))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    runs = json.loads(asked.stdout.splitlines()[-1])
    assert sorted(runs) == names
    figures, parameters = runs[names[0]]  # grpo
    assert {"train/reward", "rollouts"} <= set(figures)
    assert {"recipe", "learning_rate"} <= set(parameters)


def test_a_tracker_without_a_login_stops_the_command_before_training(
    tmp_path: Path, recipe_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.backends.local.get_available_reporting_integrations", lambda: ["wandb"])
    (tmp_path / "chain.yaml").write_text(recipe_text)
    result = CliRunner().invoke(app, ["run", "chain.yaml", "report_to=[wandb]"])
    assert result.exit_code == 2
    assert "report_to.0: wandb has no login on this machine" in " ".join(result.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_a_report_that_a_tracker_did_not_take_is_sent_again(
    tmp_path: Path, recipe_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chain.yaml").write_text(recipe_text)
    recipe = load_recipe(tmp_path / "chain.yaml", ["report_to=[wandb]"]).recipe
    (tmp_path / tracking.FILE).write_text('{"id": "ab"}')
    (tmp_path / "report.html").write_text("page")
    calls: list[str] = []

    class Run:
        def log_artifact(self, *_: object, **__: object) -> None:
            calls.append("sent")
            if len(calls) == 2:
                raise OSError("no network")

        def finish(self) -> None:
            calls.append("finished")

    monkeypatch.setattr(tracking, "_open_wandb", lambda _: calls.append("opened") or Run())
    for _ in range(3):
        tracking.send_report(recipe, tmp_path, tmp_path / "report.html")
    assert calls == ["opened", "sent", "finished"] * 2
