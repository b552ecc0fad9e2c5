"""Test sets that are played, without a model that learns: figures, stored records, the report, and wrong recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import backend
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.evaluation.episodes import EpisodeTask
from adapters.pairs import mine
from adapters.pipeline.plan import make_plan
from adapters.publish import finished_run
from adapters.recipe.load import load_recipe
from adapters.types import Counts

GAME = '''
class Game:
    """Succeeds where the last letter of a row's id is even; ends after two turns."""
    def reset(self, row, seed):
        self.even, self.turns = int(row["id"][-1]) % 2 == 0, 0
        return f"Round one of {row['id']}."
    def step(self, text):
        self.turns += 1
        if self.turns == 1:
            return "Round two.", 0.25
        return None, 0.75 if self.even else None
'''
RECIPE = """name: played
task: funding
model: {base: none}
trainer: echo
stages:
  - {kind: grpo, data: [{path: rows.jsonl}], batch_size: 4, learning_rate: 1e-5, environment: "./game.py:Game"}
evaluate:
  - {name: test, data: [{path: rows.jsonl}], environment: "./game.py:Game"}
  - {name: plain, data: [{path: rows.jsonl}]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "rows.jsonl", funding_rows(10))
    (tmp_path / "game.py").write_text(GAME)
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


@pytest.mark.slow
def test_a_run_plays_its_test_set_and_reports_success(folder: Path) -> None:
    result = run("run", "r.yaml")
    assert result.exit_code == 0, result.output
    report = json.loads((folder / "runs/played/report.json").read_text())
    for figures in report["sets"]["test"].values():
        success = figures["metrics"]["balanced"]["success"]
        assert (success["matched"], success["gold"], success["f1"]) == (5, 10, 0.5)
        assert success["f1_ci"][0] < 0.5 < success["f1_ci"][1]
        assert figures["rewards"]["Game"]["mean"] == pytest.approx((5 * 1 + 5 * 0.25) / 10)
        assert figures["parts"]["Game"] == {"cut": 0, "endless": 0, "success": 0.5, "turns": 2}
    assert "Game" not in report["sets"]["plain"]["base"]["rewards"]
    [first, *_] = (folder / "runs/played/eval/base/test/samples.jsonl").read_text().splitlines()
    record = json.loads(json.loads(first)["completion"])
    assert record["opening"] == "Round one of r0."
    assert record["turns"][0] == {"text": "[]", "observation": "Round two.", "reward": 0.25}
    assert "success" in (folder / "runs/played/report.html").read_text()
    again = run("run", "r.yaml")
    assert again.exit_code == 0
    stage = json.loads((folder / "runs/played/1-grpo/manifest.json").read_text())
    assert [entry["name"] for entry in stage["scoring"]] == ["Game"]
    with pytest.raises(UserError, match="episodes of several turns, and a pair is of single answers"):
        mine.rollouts(folder / "runs/played")


@pytest.mark.slow
def test_another_environment_is_another_run_and_plays_again(folder: Path) -> None:
    assert run("run", "r.yaml").exit_code == 0
    (folder / "game.py").write_text(GAME.replace("== 0", "== 1"))
    changed = run("run", "r.yaml")
    assert changed.exit_code == 2
    assert "holds a run of another recipe" in changed.output
    turns = run("run", "r.yaml", "stages.0.environment.max_turns=1", "stages.0.environment.use=./game.py:Game")
    assert turns.exit_code == 2
    only = run("check", "r.yaml", "stages.0.environment={use: ./game.py:Game, max_turns: 1}")
    assert only.exit_code == 0, only.output


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("return f", "return 3; f"), "gave a int in reset, which must be a text; row 'r0', seed"),
        (
            ('"Round two.", 0.25', '"Round two."'),
            "gave 'Round two.' in step, which must be (observation",
        ),
        (('"Round two.", 0.25', "2, 0.25"), "gave a int as an observation"),
        (('"Round two.", 0.25', '"Round two.", "much"'), "gave a reward 'much'"),
        (("0.25", "2.25"), "gave rewards that sum to"),
        (("self.turns += 1", "1 / 0"), "failed in step, turn 1: ZeroDivisionError: division by zero; row 'r0', seed"),
        (("def step(self, text)", "def act(self, text)"), "has no method step(text)"),
        (("def step(self, text)", "def step(self)"), "step must be called with (text)"),
        (('"Round two."', "str(__import__('random').random())"), "in different ways; take what is random in it from"),
        (("class Game:", "class Other:"), "has no Game"),
    ],
)
def test_wrong_environments_are_found_by_check(folder: Path, change: tuple[str, str], sentence: str) -> None:
    (folder / "game.py").write_text(GAME.replace(*change))
    result = run("check", "r.yaml")
    assert result.exit_code != 0
    assert sentence in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("evaluate.0.samples=4", "samples is for rows that are answered, and these are played"),
        ("stages.0.select={}", "which select measures by their reward"),
        ("stages.0.environment=null", "needs rewards, or an environment"),
        ("stages.0.environment=hausehold", "no environment is called 'hausehold'"),
    ],
)
def test_wrong_recipes(folder: Path, override: str, sentence: str) -> None:
    result = run("check", "r.yaml", override)
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())


def test_an_endless_episode_is_cut_and_counted(folder: Path) -> None:
    (folder / "game.py").write_text(GAME.replace("self.turns == 1", "True").replace("0.25", "0.01"))
    result = run("run", "r.yaml", "evaluate.0.environment={use: ./game.py:Game, max_turns: 3}")
    assert result.exit_code == 0, result.output
    [figures, *_] = json.loads((folder / "runs/played/report.json").read_text())["sets"]["test"].values()
    assert figures["parts"]["Game"]["endless"] == 1
    assert figures["parts"]["Game"]["turns"] == 3


def test_a_call_that_hangs_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.plugins.environments.LIMIT", 0.5)
    (folder / "game.py").write_text(GAME.replace("self.turns += 1", "while True: pass"))
    done = run("check", "r.yaml")
    assert done.exit_code == 2
    assert "step, turn 1 does not end on row 'r0'" in " ".join(done.output.split()), done.output


def test_any_text_is_no_success() -> None:
    for text in ("", "[]", "{}", '{"success": true}', "[" * 100_000):
        assert EpisodeTask("x").counts(None, text) == {"x": {"success": Counts(1, 1, 0)}}
        assert not EpisodeTask("x").is_well_formed(text)


@pytest.mark.slow
def test_a_turn_of_a_test_set_is_as_long_as_one_of_the_stage(folder: Path) -> None:
    for overrides, limit in (
        ([], 1024),
        (["stages.0.max_completion_length=300"], 300),
        (["stages.0.environment={use: ./game.py:Game, max_turn_length: 7}"], 7),
        (["evaluate.0.environment={use: ./game.py:Game, max_turn_length: 9}"], 9),
        (["evaluate.0.max_new_tokens=11"], 11),
    ):
        file = load_recipe("r.yaml", overrides)
        assert make_plan(file, backend(file.recipe)).evaluations[0].max_new_tokens == limit
    other = "stages.0={kind: sft, data: [{path: rows.jsonl}], batch_size: 4, learning_rate: 1e-5}"
    result = run("check", "r.yaml", other)
    assert result.exit_code == 2
    assert "no stage plays, so a turn has no length to take over" in " ".join(result.output.split())


@pytest.mark.slow
def test_publishing_compares_no_episode_and_knows_the_field_success(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("run", "r.yaml").exit_code == 0
    monkeypatch.setattr(finished_run, "read_json", lambda _: {})  # this run trained no model
    opened = finished_run.read(folder / "runs/played")
    told = {sample["prompt"][-1]["content"] for sample in opened.evaluated["plain"].samples}
    found = finished_run.probes(opened, 100)
    assert len(found) == 10
    assert {probe.prompt[-1]["content"] for probe in found} == told
    known = run("check", "r.yaml", "publish={base_model: me/base, minimum: {test/success_f1: 0.1}}")
    assert "is no figure" not in known.output
    unknown = run("check", "r.yaml", "publish={base_model: me/base, minimum: {test/funder_f1: 0.1}}")
    assert "is no figure" in unknown.output
