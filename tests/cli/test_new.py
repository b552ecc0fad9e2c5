"""`adapters new`: the list of the shipped recipes, and copies that name nothing the person has not got."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.cli.new import shipped
from adapters.recipe.fields import PathSource
from adapters.recipe.load import load_recipe

RECIPES = shipped()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def new(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["new", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_list_says_what_each_recipe_does_and_needs() -> None:
    code, stdout, _ = new("--list")
    assert code == 0
    lines = stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[::2]] == ["quickstart", *sorted(RECIPES.keys() - {"quickstart"})]
    assert all(line.startswith("    Needs ") for line in lines[1::2])
    assert "a Tinker API key, data (statements.jsonl)" in lines[2 * list(RECIPES).index("funding_tinker") + 1]
    assert set(json.loads(new("--list", "--json")[1])) == set(RECIPES)
    code, _, stderr = new("mine", "--from", "quickstat")
    assert (code, "Did you mean quickstart?" in stderr) == (2, True)
    assert stdout in stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_copy_is_the_recipe_and_names_no_file_of_the_repository(folder: Path, name: str) -> None:
    code, stdout, stderr = new("mine", "--from", name)
    assert code == 0, stderr
    text = (folder / "mine.yaml").read_text()
    assert not re.search(r"yaml-language-server|recipes/|(?<!the project's )docs/|\bmake \w|(?<!mine)\.yaml", text)
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 120
    assert "\n#   adapters run mine.yaml" in text
    original, copy = (load_recipe(path).recipe for path in (RECIPES[name].path, folder / "mine.yaml"))
    assert copy == original.model_copy(update={"name": "mine"})
    sources = [s for part in (*copy.stages, *copy.evaluate) for s in part.data if isinstance(s, PathSource)]
    assert RECIPES[name].files == sorted({source.path for source in sources})
    assert ("data files that are not here" in stdout) == ("data_root=FOLDER" in text) == bool(sources)


def test_data_files_that_are_there_are_not_missed(folder: Path) -> None:
    (folder / "statements.jsonl").write_text("")
    assert "not here" not in new("mine", "--from", "funding_grpo")[1]


@pytest.mark.parametrize(
    ("arguments", "text"), [([], "adapters new mine --from quickstart"), (["no/such/folder"], "cannot be written")]
)
def test_mistakes(arguments: list[str], text: str) -> None:
    code, _, stderr = new(*arguments)
    assert (code, text in stderr) == (2, True)
