"""Mistakes on the command line: one message, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.errors import CONTINUES, errors
from adapters.cli.main import app
from adapters.recipe.load import load_recipe

RECIPE = """name: small
task: funding
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4, validation: 0}
evaluate:
  - {name: rows, data: [{path: rows.jsonl}]}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", funding_rows(12))
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "needs.py").write_text("class Needs:\n    def __init__(self, a):\n        self.a = a\n")
    assert CliRunner().invoke(app, ["run", "small.yaml"]).exit_code == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("run small.yaml --fresh --fork", "give one of them"),
        ("run nowhere/small.yaml", "adapters new --list"),
        ("eval runs/small --data none.jsonl", "--data: there is no file none.jsonl."),
        ("pairs mine none -o pairs.jsonl", "there is no run folder and no file none."),
        ("data noise rows.jsonl -o rows.jsonl", "another file"),
        ("data noise rows.jsonl -o noisy.csv", "ends in .jsonl"),
        ("extract runs/small rows.jsonl -o out.jsonl --set foo=1", "no parameter 'foo'"),
        ("run small.yaml task=./needs.py:Needs", "./needs.py:Needs cannot be made without arguments: "),
        ("publish-data rows.jsonl --repo rows --dry-run", "--repo: "),
        ("publish-data rows.jsonl --repo me/x --license rows=mmit --dry-run", "Did you mean mit?\n"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(command: str, message: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file() and path.name[0] != "."}
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    after = {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file() and path.name[0] != "."}
    assert after == before


def test_an_interrupted_command_says_whether_it_continues(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(log: Path | None, resumes: bool) -> None:
        with errors() as state:
            state.log, state.resumes = log, resumes
            raise KeyboardInterrupt

    for log, resumes in ((None, True), (Path("x.log"), True), (Path("x.log"), False)):
        with pytest.raises(typer.Exit) as ended:
            interrupted(log, resumes)
        told = f"Stopped. {CONTINUES}\n" if log and resumes else "Stopped.\n"
        assert (ended.value.exit_code, capsys.readouterr().err) == (130, told)


def test_a_base_in_a_folder_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["model.base=full"], ["model.base=./full"], [f"model.base={tmp_path / 'full'}"]
    assert {load_recipe("small.yaml", words).recipe.model.base for words in given} == {str(tmp_path / "full")}
    assert load_recipe("small.yaml", ["model.base=Qwen/Qwen3-4B"]).recipe.model.base == "Qwen/Qwen3-4B"


def test_an_older_versions_stage_is_named_as_such() -> None:
    manifest = Path("runs/small/1-sft/manifest.json")
    figures = json.loads(manifest.read_text())
    del figures["fingerprint_version"]
    manifest.write_text(json.dumps({**figures, "fingerprint": "0"}))
    done = CliRunner().invoke(app, ["run", "small.yaml"])
    assert done.exit_code == 2
    assert "an older version of this project made it" in done.stderr
