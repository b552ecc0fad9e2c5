"""The code of a recipe in its bundle: what is taken, what stays behind, and a run of the recipe from there."""

from __future__ import annotations

import dataclasses
from importlib.metadata import version
from pathlib import Path

import pytest
from test_bundle import FACTS, as_trained
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.publish import bundle, card, gate, plots, plugin_code, release, stages
from adapters.publish.finished_run import Finished, read
from adapters.recipe.load import load_recipe

JUDGE = '''"""The module's own words."""
import hypothesis
import rapidfuzz
from materials import share


class Judge:
    """Pays vowels.

    They are counted in Latin letters.
    """

    def __call__(self, completion, example):
        """Called for each completion."""
        return 1.0 if completion == example.completion else share(completion)
'''
OTHER = """
class Judge:
    def __call__(self, completion, example):
        return float(completion == example.completion)
"""
RECIPE = """
name: mine
task: {{use: ./tasks/statements.py:Statements, target: compact}}
model: {{base: Qwen/Qwen3-0.6B}}
trainer: echo
run_dir: {folder}/runs
stages:
  - {{kind: sft, data: [{{synthesize: funding, n: 20, name: made}}], batch_size: 4, max_steps: 2, learning_rate: 1e-2}}
  - {{kind: grpo, data: [{{synthesize: funding, n: 8, name: made}}], batch_size: 2, max_steps: 2, learning_rate: 1e-3, rewards: [funding, {{use: ./judge.py:Judge, weight: 0.5}}, {{use: {folder}/other/judge.py:Judge}}]}}
evaluate:
  - {{name: test, data: [{{synthesize: funding, n: 6, seed: 3}}]}}
publish: {{repo: me/mine, base_model: Qwen/Qwen3-0.6B, license: mit, minimum: {{}}}}
"""  # noqa: E501


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    recipe = folder / "recipe"
    for name, text in {
        "recipe/judge.py": JUDGE,
        "recipe/materials.py": "def share(text):\n    return sum(c in 'aeiou' for c in text) / (len(text) + 1)\n",
        "recipe/unused.py": "1 / 0\n",
        "recipe/tasks/statements.py": "from adapters.tasks.funding import FundingTask as Statements\n",
        "other/judge.py": OTHER,
        "recipe/mine.yaml": RECIPE.format(folder=folder),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    result = CliRunner().invoke(app, ["run", str(recipe / "mine.yaml")])
    assert result.exit_code == 0, result.output
    as_trained(folder / "runs" / "mine")
    return folder / "runs" / "mine"


@pytest.fixture(scope="module")
def finished(run: Path) -> Finished:
    return read(run)


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "draw", lambda *_: [])


@pytest.fixture
def made(finished: Finished, tmp_path: Path) -> Path:
    bundle.assemble(finished, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_local_files_come_along_with_their_neighbours_and_keep_their_places(finished: Finished, made: Path) -> None:
    names = {p.as_posix() for p in bundle.files(made) if p.parts[0] == "code"}
    assert names == {"code/judge.py", "code/materials.py", "code/tasks/statements.py", "code/other/judge.py"}
    assert (made / "code" / "judge.py").read_text() == JUDGE
    recipe = load_recipe(made / "recipe.yaml").recipe
    assert recipe.task.use == "./code/tasks/statements.py:Statements"
    uses = [reward.use for reward in recipe.stages[1].rewards]
    assert uses == ["funding", "./code/judge.py:Judge", "./code/other/judge.py:Judge"]
    assert plugin_code.of_run(finished).requirements == (f"hypothesis=={version('hypothesis')}",)
    assert not plugin_code.of_run(finished).missing


@pytest.mark.slow
def test_the_bundles_recipe_runs_from_there(finished: Finished, made: Path) -> None:
    assert gate.rerun(finished, made) is None
    (made / "code" / "materials.py").unlink()
    assert "No module named 'materials'" in str(gate.rerun(finished, made))
    assert "/tmp" not in str(gate.rerun(finished, made))


def rendered(finished: Finished, made: Path, rerun: str | None = None) -> str:
    return card.render(finished, made, "me/mine", FACTS | {"rerun": rerun}, [], tag="v1")


@pytest.mark.slow
def test_the_card_says_what_a_reward_is_and_where_its_code_is(finished: Finished, made: Path) -> None:
    text = rendered(finished, made)
    assert (
        "**Judge**: Pays vowels.\n\n  They are counted in Latin letters. (code: [`code/judge.py`](code/judge.py))"
        in text
    )
    assert "The module's own words" not in text
    assert "**Judge#2**: its code does not say what it grades (code: [`code/other/judge.py`]" in text
    assert f'pip install "hypothesis=={version("hypothesis")}"' in text
    assert "`adapters run recipe.yaml --dry-run` was tried on these files and ends without an error." in text
    assert "which are not here" not in text, "synthesized rows need no file"
    assert "has changed since" not in text
    assert "cannot be run from this repository alone:** the module is away." in rendered(
        finished, made, "the module is away"
    )


@pytest.mark.slow
def test_code_that_changed_after_the_training_is_said(run: Path, tmp_path: Path) -> None:
    judge = run.parents[1] / "recipe" / "materials.py"
    text = judge.read_text()
    try:
        judge.write_text(text + "# more\n")
        finished = read(run)
        assert stages.changed_rewards(finished, finished.stages[1]) == ["Judge"]
        assert (
            "2-grpo: the code of the reward Judge has changed since the training; the card says so"
            in release._notes(finished, {"passed": False})
        )
        bundle.assemble(finished, tmp_path / "bundle")
        assert rendered(finished, tmp_path / "bundle").count("has changed since.") == 1
    finally:
        judge.write_text(text)


def test_code_can_stay_at_home(run: Path, tmp_path: Path) -> None:
    finished = read(run, ["publish.code=false"])
    bundle.assemble(finished, tmp_path / "bundle")
    assert not (tmp_path / "bundle" / "code").exists()
    missing = plugin_code.of_run(finished).missing
    assert "the publisher left out the code of `Judge` (`publish.code: false`)" in missing


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("KEY = 'hf_" + "aB3" * 12 + "'", "an access token"),
        ("# jane.doe@example.org", "an e-mail address"),
        ("open('/home/jane/words.txt')", "a path of this machine"),
    ],
)
def test_secrets_and_places_in_code_are_refused_with_the_line(made: Path, line: str, what: str) -> None:
    with (made / "code" / "judge.py").open("a") as file:
        file.write(f"{line}\n")
    assert bundle.leaks(made) == [f"code/judge.py:16 holds {what}"]


@pytest.mark.slow
def test_an_address_that_the_publisher_gave_is_no_leak(run: Path, tmp_path: Path) -> None:
    finished = read(run, ["publish.contact=jane.doe@example.org"])
    bundle.assemble(finished, tmp_path / "bundle")
    (tmp_path / "bundle" / "README.md").write_text(rendered(finished, tmp_path / "bundle"))
    assert "Contact: jane.doe@example.org" in (tmp_path / "bundle" / "README.md").read_text()
    files, *_ = gate.static(finished, tmp_path / "bundle")
    assert files.passed, files.detail
    with (tmp_path / "bundle" / "README.md").open("a") as file:
        file.write("john.doe@example.org\n")
    assert "an e-mail address" in gate.static(finished, tmp_path / "bundle")[0].detail


def test_what_is_neither_here_nor_in_a_package_is_said(finished: Finished) -> None:
    task = finished.recipe.task.model_copy(update={"use": "nowhere.tasks:Mine"})
    recipe = finished.recipe.model_copy(update={"task": task})
    moved = dataclasses.replace(finished, file=dataclasses.replace(finished.file, recipe=recipe))
    sentence = "`nowhere.tasks:Mine` is a module that is neither in this repository nor in a package"
    assert plugin_code.of_run(moved).missing == (sentence,)
