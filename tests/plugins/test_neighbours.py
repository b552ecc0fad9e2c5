"""Plug-in files import the files beside them: each its own, however a run is started."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from launching import accelerate, run, two_processes
from tiny import funding_rows, write_jsonl

from adapters.errors import UserError
from adapters.plugins.own_files import FILE_MODULE, is_neighbour
from adapters.plugins.registry import resolve
from adapters.plugins.reward_worker import Workers
from adapters.plugins.source_files import files_of_plugin, identity
from adapters.recipe.fields import PluginSpec
from adapters.types import Example

JUDGE = """from dataclasses import dataclass

from levels import LEVEL
import parts.sums
from parts import sums as again


@dataclass(frozen=True)
class Judge:
    def __call__(self, completion, example):
        from late import LATE

        assert parts.sums is again
        return parts.sums.total(LEVEL, LATE)
"""
FILES = {
    "judge.py": JUDGE,
    "levels.py": "from floor import FLOOR\n\nLEVEL = FLOOR + {level}\n",
    "floor.py": "FLOOR = 0.25\n",
    "late.py": "LATE = 0.125\n",
    "parts/__init__.py": "from .units import UNIT\n",
    "parts/units.py": "from levels import LEVEL\n\nUNIT = 1.0\n",
    "parts/sums.py": "from . import UNIT\n\n\ndef total(*values):\n    return sum(values) * UNIT\n",
}
NOBODY = Example("1", "", ())


def write_judge(folder: Path, level: float = 0.0) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("{level}", str(level)))
    return folder


def judge(folder: Path) -> object:
    return resolve("rewards", PluginSpec(use="./judge.py:Judge"), folder=folder)


def test_files_of_one_name_in_two_folders_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write_judge(tmp_path / "one"), write_judge(tmp_path / "two", 0.5)
    (tmp_path / "on_path").mkdir()
    (tmp_path / "on_path" / "levels.py").write_text("LEVEL = 9.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "on_path"))
    rewards = [judge(folder) for folder in (one, two)]
    assert [reward("", NOBODY) for reward in rewards] == [0.375, 0.875]
    assert "levels" not in sys.modules


def test_a_neighbour_and_the_same_file_as_a_plug_in_are_one_module(tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text("class Base:\n    pass\n")
    (tmp_path / "mine.py").write_text("from base import Base\n\n\nclass Mine(Base):\n    pass\n")
    mine = type(resolve_any("./mine.py:Mine", tmp_path))
    base = type(resolve_any("./base.py:Base", tmp_path))
    assert issubclass(mine, base)


def resolve_any(use: str, folder: Path) -> object:
    return resolve("noise", PluginSpec(use=use), folder=folder)


@pytest.mark.parametrize("use", ["./judge.py:Judge", "./uses.py:Judge", "./uses.py:Deep"])
def test_a_reward_with_neighbours_is_unpickled_in_a_process_of_its_own(use: str, tmp_path: Path) -> None:
    """Also one whose class is defined in a neighbour, or in a package of the folder."""
    write_judge(tmp_path)
    (tmp_path / "uses.py").write_text("from judge import Judge\nfrom parts.deep import Deep\n")
    (tmp_path / "parts" / "deep.py").write_text(
        "from late import LATE\n\n\nclass Deep:\n    def __call__(self, completion, example):\n"
        "        return 3 * LATE\n"
    )
    worker = Workers(resolve("rewards", PluginSpec(use=use), folder=tmp_path), timeout=20)
    try:
        assert worker("", NOBODY) == 0.375
    finally:
        worker.stop()


def test_installed_libraries_and_pythons_modules_come_before_a_neighbour(tmp_path: Path) -> None:
    for name in ("json.py", "numpy.py", "adapters.py", "mine_alone.py"):
        (tmp_path / name).write_text("raise RuntimeError('this file is not meant')\n")
    assert [is_neighbour(name, tmp_path) for name in ("json", "numpy", "adapters")] == [False] * 3
    assert is_neighbour("mine_alone", tmp_path)
    (tmp_path / "uses.py").write_text(
        "import json, numpy\nfrom adapters.types import Scored\n\n\ndef one(c, e):\n    1\n"
    )
    assert resolve("rewards", PluginSpec(use="./uses.py:one"), folder=tmp_path)


def test_a_folder_without_python_files_hides_no_old_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p, "data_aug").is_dir()])  # as for the command
    monkeypatch.delitem(sys.modules, "data_aug", raising=False)
    (tmp_path / "data_aug").mkdir()
    (tmp_path / "uses.py").write_text("from data_aug.noise import Label\n\n\nclass Uses:\n    label = Label\n")
    assert resolve_any("./uses.py:Uses", tmp_path).label.__name__ == "Label"
    (tmp_path / "rewards.py").write_text("MINE = 1\n")
    (tmp_path / "own.py").write_text("from rewards import MINE\n\n\nclass Own:\n    mine = MINE\n")
    assert resolve_any("./own.py:Own", tmp_path).mine == 1
    files = files_of_plugin("rewards", PluginSpec(use="./own.py:Own"), tmp_path).files
    assert [path.name for path in files] == ["own.py", "rewards.py"]


def test_neighbours_are_listed_and_fingerprinted_without_an_import(tmp_path: Path) -> None:
    write_judge(tmp_path)
    spec = PluginSpec(use="./judge.py:Judge")
    files = files_of_plugin("rewards", spec, tmp_path).files
    assert {str(path.relative_to(tmp_path)) for path in files} == set(FILES)
    assert not [name for name in sys.modules if name.startswith(FILE_MODULE) and tmp_path.name in name]
    before = identity("rewards", spec, None, tmp_path)
    for name in FILES:
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text + "# edited\n")
        assert identity("rewards", spec, None, tmp_path) != before, name
        (tmp_path / name).write_text(text)


def test_a_file_name_with_dots_and_one_that_a_folder_hides(tmp_path: Path) -> None:
    (tmp_path / "judge.v2.py").write_text("def two(completion, example):\n    return 0.2\n")
    assert resolve("rewards", PluginSpec(use="./judge.v2.py:two"), folder=tmp_path)("", NOBODY) == 0.2
    (tmp_path / "one.py").write_text("class One:\n    pass\n")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "__init__.py").write_text("")
    with pytest.raises(UserError, match=r"one/__init__.py has the same module name; rename one of them"):
        resolve_any("./one.py:One", tmp_path)


RECIPE = """if __name__ == "__main__": from adapters import main; main(__file__); r\"\"\"
name: beside
task: funding
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: train.jsonl}], learning_rate: 1e-4, validation: 0}
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    rewards: [funding, {use: ./one/judge.py:Judge, timeout: 20}, ./two/judge.py:Judge]
evaluate:
  - {name: seen, data: [{path: train.jsonl}]}
# \"\"\"
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["adapters run", "python", "accelerate launch", "--launch"])
def test_every_way_of_starting_a_run_finds_each_files_neighbours(how: str, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    write_judge(home / "one", -0.25)  # constant rewards; the probe wants gold to be no worse than garbage
    write_judge(home / "two", 0.5)
    elsewhere.mkdir()
    (elsewhere / "levels.py").write_text("raise RuntimeError('the working folder is nobody's neighbour')\n")
    write_jsonl(home / "train.jsonl", funding_rows(12))
    (home / "beside.yaml").write_text(RECIPE)
    recipe, config = str(home / "beside.yaml"), two_processes(tmp_path, "cpu")
    commands = {
        "adapters run": [sys.executable, "-m", "adapters", "run", recipe],
        "python": [sys.executable, recipe],
        "accelerate launch": accelerate(config, "--num_processes", "1", recipe),
        "--launch": [*(sys.executable, "-m", "adapters", "run", recipe, "--launch", config),
                     *("--launch-args", "--num_processes 1")],
    }  # fmt: skip
    done = run(commands[how], elsewhere)
    assert done.returncode == 0, done.stderr[-3000:]

    def means() -> list[float]:
        report = json.loads((elsewhere / "runs" / "beside" / "report.json").read_text())
        rewards = report["sets"]["seen"]["2-grpo"]["rewards"]
        return [rewards["Judge"]["mean"], rewards["Judge#2"]["mean"]]

    assert means() == [0.125, 0.875]
    if how == "adapters run":
        for verb in ("eval", "report"):
            done = run([sys.executable, "-m", "adapters", verb, "runs/beside"], elsewhere)
            assert done.returncode == 0, done.stderr[-3000:]
        assert means() == [0.125, 0.875]
