"""A disk that is full, wherever the run is by then: one message that names it, and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.cli.main import app

TESTS = Path(__file__).parents[1]
PAGE = 4096
# Runs and publishes in ever so much more room, from none at all, until it is enough. Prints what each try said.
SCRIPT = """
import json, shutil, subprocess, sys
from pathlib import Path
from typer.testing import CliRunner
from adapters.cli.main import app
from adapters.publish import gate, gguf
from test_bundle import FACTS, RECIPE, make_run

folder, page = Path(sys.argv[1]), int(sys.argv[2])
gate.loaded = lambda *_: ([gate.Check("tensors", True, "fine")], FACTS)
gate.used = lambda *_: gate.Check("usage", True, "runs")
gguf.BUILT = folder  # no llama.cpp, whether or not this checkout has built one
straight, small = folder / "straight", folder / "small"
straight.mkdir()
make_run(straight)
for file in ("train.jsonl", "test.jsonl", "vowels.py"):
    (small / "runs").mkdir(parents=True, exist_ok=True)
    shutil.copy(straight / file, small)
(small / "echo.yaml").write_text(RECIPE.format(folder=small))


def mount(size, *options):
    how = ",".join((f"size={size}", *options))
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", small / "runs"], check=True)


def until_it_fits(*command):
    size = shutil.disk_usage(small / "runs").used
    while True:
        size = (size * 9 // 8 // page + 1) * page
        mount(size, "remount")
        done = CliRunner().invoke(app, command)
        strange = done.exception is not None and not isinstance(done.exception, SystemExit)
        print(json.dumps([command[0], size, done.exit_code, repr(done.exception) if strange else "", done.stderr]))
        if done.exit_code == 0 or size > 2000 * page:
            break


mount(page)
until_it_fits("run", str(small / "echo.yaml"))
mount(10**8, "remount")
make_run(small)  # the run is done: this makes LoRA files of its adapters
until_it_fits("publish", str(small / "runs" / "echoed"), "--dry-run")
run = small / "runs" / "echoed"
print(json.dumps({
    "files": sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()),
    "samples": {str(p.relative_to(run)): p.read_text() for p in run.rglob("samples.jsonl")},
    "sets": json.loads((run / "report.json").read_text())["sets"],
}))
"""


def figures(sets: dict) -> dict:
    """Without the key, which names the reward by its path."""
    return {name: {label: {**one, "key": None} for label, one in models.items()} for name, models in sets.items()}


def namespaces() -> bool:
    """Whether this process may mount a small disk of its own."""
    try:
        return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode == 0  # fmt: skip # noqa: E501
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not namespaces(), reason="needs unshare and mount namespaces, which this machine does not grant")
def test_a_disk_that_is_full_at_any_point(tmp_path: Path) -> None:
    command = ["unshare", "-rm", sys.executable, "-c", SCRIPT, str(tmp_path), str(PAGE)]
    places = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": places}
    done = subprocess.run(
        command, cwd=TESTS / "publish", env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *tries, held = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in "[{"]
    failed = [t for t in tries if t[2] != 0]
    assert {t[0] for t in failed} == {"run", "publish"}
    assert len(failed) > 10, "an eighth more each time: it failed at many places"
    for _, size, code, strange, said in failed:
        assert (code, strange) == (1, ""), (size, said)
        assert "Traceback" not in said
        assert "Logging error" not in said
        assert "is full. Free some space on it." in said, said
        assert f"{tmp_path}/small/runs" in said
    straight = tmp_path / "straight" / "runs" / "echoed"
    assert figures(held["sets"]) == figures(json.loads((straight / "report.json").read_text())["sets"])
    for name, text in held["samples"].items():
        assert text == (straight / name).read_text()
    assert not [name for name in held["files"] if "/." in f"/{name}" or ".partial" in name], "nothing half-written"
    assert "publish/bundle/README.md" in held["files"]


# A stage of real training whose first checkpoint finds no room, and the same command with room.
TRAIN = """
import subprocess, sys
folder = sys.argv[1]
def mount(how):
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", f"{folder}/runs"], check=True)
def run():
    command = [sys.executable, f"{folder}/chain.yaml", "stages.0.save_every=1", "evaluate=[]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.returncode, done.stderr, done.stdout)
mount("size=128k")
run()
subprocess.run(["find", f"{folder}/runs", "-name", "checkpoint-*"], check=True)
print("-" * 9)
mount("remount,size=100m")
run()
subprocess.run(["find", f"{folder}/runs", "-name", "adapter_model.safetensors"], check=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not namespaces(), reason="needs unshare and mount namespaces, which this machine does not grant")
def test_a_checkpoint_that_finds_no_room(tmp_path: Path, recipe_text: str) -> None:
    (tmp_path / "chain.yaml").write_text(recipe_text)
    (tmp_path / "runs").mkdir()
    command = ["unshare", "-rm", sys.executable, "-c", TRAIN, str(tmp_path)]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = done.stdout.split("-" * 9)
    assert first.startswith("1 "), first
    assert f"The disk of {tmp_path}/runs/chain" in first
    assert "is full. Free some space on it." in first
    assert "Traceback" not in first
    assert "1-sft.partial/trainer/checkpoint-1" in first, "it was at a checkpoint"
    assert second.strip().startswith("0 "), second
    for stage in ("1-sft", "2-grpo"):
        assert f"{tmp_path}/runs/chain/{stage}/adapter_model.safetensors" in second


RECIPE = """
name: echoed
task: funding
model: {base: tiny}
trainer: echo
run_dir: runs
stages:
  - {kind: sft, data: [{path: train.jsonl}], learning_rate: 1e-4, max_steps: 2}
evaluate:
  - {name: test, data: [{path: train.jsonl}]}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "recipe.json",
        "ledger.json",
        "fingerprint",
        "manifest.json",
        "metrics.json",
        "samples.jsonl",
        "report.json",
        "report.html",
    ],
)
def test_a_file_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Half of the file arrives, then the disk gives the error."""
    write_jsonl(tmp_path / "train.jsonl", funding_rows(20))
    (tmp_path / "echo.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    opened = Path.open

    def failing(self: Path, mode: str = "r", *args: object, **options: object):  # type: ignore[no-untyped-def]
        file = opened(self, mode, *args, **options)  # type: ignore[arg-type]
        if name in self.name and "w" in mode:
            real = file.write

            def write(text: str) -> None:
                real(text[: len(text) // 2])
                file.flush()
                raise OSError(errno.ENOSPC, "it cannot be")

            file.write = write
        return file

    monkeypatch.setattr(Path, "open", failing)
    failed = CliRunner().invoke(app, ["run", "echo.yaml"])
    run = tmp_path / "runs" / "echoed"
    assert failed.exit_code == (0 if name == "report.html" else 1), failed.output
    said = failed.output if name == "report.html" else failed.stderr
    assert "it cannot be" in said
    assert "Traceback" not in said
    assert not (run / "report.json").exists() or name == "report.html"
    monkeypatch.setattr(Path, "open", opened)
    done = CliRunner().invoke(app, ["run", "echo.yaml"])
    assert done.exit_code == 0, done.output
    assert not adapter_folder.problems(run / "1-sft")
    assert len((run / "eval" / "1-sft" / "test" / "samples.jsonl").read_text().splitlines()) == 20
    assert not [p for p in run.rglob("*") if p.name.startswith(".") or ".partial" in p.name]
    assert json.loads((run / "report.json").read_text())["sets"]["test"]["1-sft"]["n"] == 20
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_a_fork_that_finds_no_room_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(20))
    (tmp_path / "echo.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["run", "echo.yaml"]).exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}

    def copytree(source: Path, target: Path) -> None:
        target.mkdir(parents=True)
        raise shutil.Error([(str(source), str(target), "[Errno 28] No space left on device")])

    again = ["run", "echo.yaml", "--fork", "evaluate.0.max_new_tokens=9"]
    monkeypatch.setattr(shutil, "copytree", copytree)
    failed = CliRunner().invoke(app, again)
    assert failed.exit_code == 1
    assert "is full. Free some space on it." in failed.stderr
    assert {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()} == before
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, again)
    assert "Taken over from it: 1-sft" in done.output
    assert {p.name for p in (tmp_path / "runs").iterdir() if p.is_dir()} == {"echoed", "echoed.1"}
