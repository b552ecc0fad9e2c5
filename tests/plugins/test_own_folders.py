"""A project with its own `rewards/` and `data_aug/` folders: its folders and ours do not hide each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

RECIPE = """name: own
task: funding
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: train.jsonl}], learning_rate: 1e-4, validation: 0, noise: {use: ocr}}
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    rewards: [funding, {use: "rewards.short:Short"}]
"""
REWARD = """from dataclasses import dataclass


@dataclass(frozen=True)
class Short:
    def __call__(self, completion, example):
        return 1.0 if len(completion) < 5000 else 0.0
"""
TEST = """from adapters.testing import check_reward, examples
from adapters.rewards.funding import Funding
from rewards.short import Short


def test_ours_beside_theirs():
    check_reward(Funding(scorer="corrected"), examples("funding"))
    assert Short()("[]", None) == 1.0
"""
SCRIPT = """from adapters.integrations import trl_reward

assert trl_reward("funding")(completions=["[]"], funders=[[]]) == [1.0]
"""


@pytest.fixture(params=["package", "folder"])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    for name in ("rewards", "data_aug"):
        (tmp_path / name).mkdir()
        if request.param == "package":
            (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "rewards" / "short.py").write_text(REWARD)
    (tmp_path / "own.yaml").write_text(RECIPE)
    (tmp_path / "test_own.py").write_text(TEST)
    (tmp_path / "script.py").write_text(SCRIPT)
    write_jsonl(tmp_path / "train.jsonl", funding_rows(20))
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_own.py"],
        ["script.py"],
        ["-m", "adapters", "run", "own.yaml"],
    ],
    ids=["pytest", "script", "run"],
)
@pytest.mark.slow
def test_their_folders_and_ours_work_together(project: Path, command: list[str]) -> None:
    path = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, *command], cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
