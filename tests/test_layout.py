"""The packages of the project: what may import what, and how many modules stand at the root."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "adapters"


@pytest.mark.slow
def test_packages_import_downwards_only() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


@pytest.mark.slow
def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("adapters", exclude_type_checking_imports=True, cache_dir=None)
    assert len(graph.modules) > 150
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


def test_few_modules_stand_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 14


@pytest.mark.parametrize("name", ["rewards", "data_aug"])
def test_the_plug_in_folders_are_linked_into_the_package(name: str) -> None:
    assert (PACKAGE / name).resolve() == ROOT / name, f"src/adapters/{name} is no symlink to {name}/: see CONTRIBUTING"


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("rewards.funding", "adapters.rewards.funding", "Funding"),
        ("data_aug.noise", "adapters.data_aug.noise", "Label"),
        ("data_aug.noise.policy", "adapters.data_aug.noise.policy", "harmless"),
        ("adapters.outside", "adapters.integrations", "trl_reward"),
    ],
)
def test_an_old_import_gives_the_same_objects_and_says_so_once(tmp_path: Path, old: str, new: str, name: str) -> None:
    code = f"import adapters, {old}\nfrom {old} import {name}\nimport {new} as new\nassert new.{name} is {name}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("please import it from there") == 1


@pytest.mark.slow
@pytest.mark.parametrize("package", [True, False])
def test_a_folder_of_the_users_with_the_name_of_ours(tmp_path: Path, package: bool) -> None:
    """It is theirs, whether it is a package or a folder of files; a module that is missing in it stays missing."""
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "mine.py").write_text("HERE = 1")
    if package:
        (tmp_path / "rewards" / "__init__.py").write_text("")
    code = (
        "import adapters.integrations as outside, rewards.mine\nassert rewards.mine.HERE\n"
        "assert outside.trl_reward('funding')(completions=['[]'], funders=[[]]) == [1.0]\n"
        "try:\n    import rewards.funding\n"
        "except ModuleNotFoundError:\n    pass\nelse:\n    raise SystemExit('shadowed')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
