"""A package of somebody else's, installed by pip, gives a recipe its reward and its noise by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.errors import UserError
from adapters.plugins.registry import resolve
from adapters.recipe.fields import PluginSpec

HERE = Path(__file__).parents[1]
RECIPE = """name: outside
task: funding
model: {base: none}
trainer: echo
stages:
  - kind: sft
    data: [{path: train.jsonl}]
    learning_rate: 1e-4
    noise: {use: shouting, rate: 1.0, share: 1.0}
    validation: 0
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    rewards: [{use: grounded, ignore_case: true, weight: 0.5}, funding]
evaluate:
  - {name: seen, data: [{path: train.jsonl}]}
"""


@pytest.mark.slow
def test_an_installed_package_offers_its_plugins_by_name(tmp_path: Path) -> None:
    """Needs a package index for the package's build backend."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    subprocess.run([*pip, "--target", str(site), str(HERE / "outside_package")], check=True, timeout=300)
    write_jsonl(tmp_path / "train.jsonl", funding_rows(20))
    (tmp_path / "outside.yaml").write_text(RECIPE)

    def adapters(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "adapters", *arguments]
        env = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300)

    assert "scholarly_extras.grounded:Grounded" in adapters("rewards", "list").stdout
    listed = json.loads(adapters("check", "outside.yaml", "--no-import", "--json").stdout)["plugins"]
    files = {p["use"]: p["files"] for p in listed}
    assert files["grounded"][0].endswith("site/scholarly_extras/grounded.py")
    assert files["shouting"][0].endswith("site/scholarly_extras/shouting.py")
    done = adapters("run", "outside.yaml")
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "outside"
    report = json.loads((run / "report.json").read_text())
    assert report["sets"]["seen"]["2-grpo"]["rewards"]["grounded"]["mean"] == pytest.approx(1)
    manifest = json.loads((run / "2-grpo" / "manifest.json").read_text())
    assert manifest["scoring"][0]["reward"] == "Grounded(ignore_case=True)"
    noise = json.loads((run / "ledger.json").read_text())["stages"]["1-sft"]["sources"][0]["noise"]
    assert noise["by_family"]["shouting"]["rows"] == 1
    wrong = adapters("run", "outside.yaml", "name=other", "stages.1.rewards.0.ignore_cas=true")
    assert wrong.returncode == 2
    assert "Did you mean ignore_case?" in wrong.stderr


def test_a_task_with_the_old_method_names_still_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.py").write_text(
        "class Old:\n    text_field = 'text'\n    def valid(self, completion):\n        return completion == 'yes'\n"
    )
    for _ in range(2):
        task = resolve("tasks", PluginSpec(use="./old.py:Old"), folder=tmp_path)
        assert task.is_well_formed("yes")
    assert capsys.readouterr().err.count("`valid` is now `is_well_formed`") == 1


def test_an_old_method_of_a_subclass_overrides_the_new_one_it_inherits(tmp_path: Path) -> None:
    (tmp_path / "sub.py").write_text(
        "from adapters.tasks.funding import FundingTask\n\n\nclass Sub(FundingTask):\n"
        "    def valid(self, completion):\n        return False\n"
    )
    assert not resolve("tasks", PluginSpec(use="./sub.py:Sub"), folder=tmp_path).is_well_formed("[]")
    assert resolve("tasks", PluginSpec(use="funding")).is_well_formed("[]")


def test_a_plugin_file_imports_its_neighbours_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neighbour_of_a_plugin.py").write_text("LOW = 0.25\n")
    (tmp_path / "low.py").write_text(
        "from neighbour_of_a_plugin import LOW\n\n\ndef low(completion, example):\n    return LOW\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert resolve("rewards", PluginSpec(use="./low.py:low"), folder=tmp_path)("", None) == 0.25
    assert sys.path[-1] == str(tmp_path), "last, so that it hides no library"


def test_a_module_beside_the_command_is_pointed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "short.py").write_text("def short(completion, example):\n    return 1.0\n")
    with pytest.raises(UserError, match=r"write \./mine/short\.py:CLASS"):
        resolve("rewards", PluginSpec(use="mine.short:short"))
