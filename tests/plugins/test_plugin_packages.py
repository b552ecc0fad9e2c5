"""`--package` of the `new` verbs, and `adapters plugins`, which lists what installed packages offer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.cli.main import app

NEW = {
    "tasks": ["tasks", "new", "box_items"],
    "rewards": ["rewards", "new", "word_overlap", "--task", "funding"],
    "noise": ["noise", "new", "wide_spaces"],
}
CLASSES = {"tasks": "BoxItems", "rewards": "WordOverlap", "noise": "WideSpaces"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


def package(site: Path, name: str, points: str, direct_url: object = None) -> None:
    """What pip leaves of a package in a folder of the search path."""
    folder = site / f"{name.replace('-', '_')}-1.5.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (folder / "entry_points.txt").write_text(points)
    if direct_url:
        (folder / "direct_url.json").write_text(json.dumps(direct_url))


@pytest.mark.parametrize("kind", NEW)
def test_a_package_has_its_entry_point_its_test_and_a_readme(folder: Path, kind: str) -> None:
    name = NEW[kind][2]
    code, stdout, stderr = call(*NEW[kind], "--package")
    assert code == 0, stderr
    root = folder / name.replace("_", "-")
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert files == {"README.md", "pyproject.toml", f"src/{name}/__init__.py", f"tests/test_{name}.py"}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {f"adapters.{kind}": {name: f"{name}:{CLASSES[kind]}"}}
    assert name in (root / "README.md").read_text()
    assert f"python -m pip install -e ./{root.name}" in stdout
    code, _, stderr = call(*NEW[kind], "--package")
    assert (code, f"{root.name} exists already; nothing was written." in stderr) == (2, True)


def test_mistakes_write_nothing(folder: Path) -> None:
    (folder / "mine.py").write_text("")
    for words, said in (
        (["tasks", "new", "funding", "--package"], "exists already, as extraction-adapters:funding"),
        (["noise", "new", "ocr", "--package"], "the noise 'ocr' exists already"),
        (["noise", "new", "json", "--package"], "'json' is taken"),
        (["noise", "new", "mine"], "mine.py exists already"),
    ):
        code, _, stderr = call(*words)
        assert (code, said in " ".join(stderr.split())) == (2, True), stderr
    (folder / "own.py").write_text("from adapters.tasks.funding import FundingTask as Own\n")
    code, _, stderr = call("rewards", "new", "another", "--task", "./own.py:Own", "--package")
    assert (code, "would lack that file" in " ".join(stderr.split())) == (2, True)
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith((".", "_"))) == ["mine.py", "own.py"]


def test_the_list_says_where_each_comes_from_and_what_is_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder / "site"))
    package(folder / "site", "Lost-Ones", "[adapters.rewards]\ngone = not_here.at_all:Gone\n")
    url = {"url": "https://me:hunter2@example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "abc123"}}
    package(folder / "site", "second", "[adapters.tasks]\nfunding = adapters.tasks.ie:IeTask\n", url)
    code, stdout, _ = call("plugins", "--json")
    found = {(p["kind"], p["name"]): p for p in json.loads(stdout)}
    gone = found["rewards", "gone"]
    assert (code, gone["package"], gone["version"], gone["origin"]) == (1, "Lost-Ones", "1.5", str(folder / "site"))
    assert gone["error"] == "importing not_here.at_all:Gone failed: ModuleNotFoundError: No module named 'not_here'"
    two = found["tasks", "second:funding"]
    assert two["origin"].endswith("@abc123")
    assert "hunter2" not in stdout
    assert found["tasks", "extraction-adapters:funding"]["error"] is None
    code, stdout, _ = call("plugins")
    assert (code, "error: rewards gone: importing" in stdout) == (1, True)


@pytest.mark.slow
def test_the_wheel_of_a_package_is_found_by_its_name(folder: Path) -> None:
    """All three, built without a network by the backend that is installed here, and their own tests."""
    site = folder / "site"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}

    def run(*words: str) -> str:
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, f"{words}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    for kind, words in NEW.items():
        assert call(*words, "--package")[0] == 0
        root = words[2].replace("_", "-")
        assert "2 passed" in run("pytest", "-q", "-p", "no:cacheprovider", root)
        run("build", "--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", "wheels", root)
        wheel = next((folder / "wheels").glob(f"{words[2]}-*.whl"))
        offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(site)]
        run("pip", "--disable-pip-version-check", "-q", "install", *offline, str(wheel))
        assert words[2] in run("adapters", kind, "list")
    found = {(p["kind"], p["name"]): p for p in json.loads(run("adapters", "plugins", "--json"))}
    for kind, (_, _, name, *_) in NEW.items():
        plugin = found[kind, name]
        assert (plugin["package"], plugin["version"], plugin["error"]) == (name.replace("_", "-"), "0.1.0", None)
    assert "fit to train on" in run("adapters", "tasks", "test", "box_items")
