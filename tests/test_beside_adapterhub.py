"""Beside AdapterHub's package of the same name: `import extraction_adapters` gives this project all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAME = """
import json, extraction_adapters, adapters.types, adapters.cli.main
from extraction_adapters import main, types
from extraction_adapters.rewards.funding import Funding
import extraction_adapters.cli.main as command
from adapters.rewards.funding import Funding as Own
print(json.dumps([Funding is Own, types is adapters.types, command is adapters.cli.main, main is adapters.main,
                  adapters.types.__spec__.name, adapters.types.__name__, adapters.__file__]))
"""


def python(code: str, *paths: Path, fine: bool = True, cwd: Path | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, cwd=cwd)
    assert (done.returncode == 0) == fine, done.stderr
    return done.stdout if fine else done.stderr


def adapterhub(site: Path) -> Path:
    """A package `adapters` that stands in for AdapterHub's, with its metadata and modules of its own."""
    (site / "adapters").mkdir(parents=True, exist_ok=True)
    (site / "adapters" / "__init__.py").write_text("__version__ = '1.2.0'\n\n\ndef init(model):\n    return model\n")
    (site / "adapters" / "types.py").write_text("WHOSE = 'AdapterHub'\n")
    (site / "adapters-1.2.0.dist-info").mkdir(exist_ok=True)
    (site / "adapters-1.2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: adapters\nVersion: 1.2.0\n"
    )
    return site


def test_the_second_name_gives_the_same_objects() -> None:
    *same, spec, name, _ = json.loads(python(SAME, ROOT / "src"))
    assert (same, spec, name) == ([True] * 4, "adapters.types", "adapters.types")


def test_it_gives_them_where_another_package_has_the_name(tmp_path: Path) -> None:
    site = adapterhub(tmp_path / "site")
    *same, _, _, file = json.loads(python(SAME, site, ROOT / "src"))
    assert same == [True] * 4
    assert Path(file) == ROOT / "src" / "adapters" / "__init__.py"
    assert python("import adapters; print(adapters.__version__)", site, ROOT / "src") == "1.2.0\n"


def test_after_the_other_package_it_is_one_sentence(tmp_path: Path) -> None:
    said = python("import adapters, extraction_adapters", adapterhub(tmp_path), ROOT / "src", fine=False)
    assert "import extraction_adapters before it and leave it out" in said.splitlines()[-1]


@pytest.mark.slow
def test_the_second_command_and_its_children_refuse_nothing(tmp_path: Path) -> None:
    site = adapterhub(tmp_path / "site")
    run = "import sys; sys.argv[1:] = ['rewards', 'list']; import extraction_adapters; extraction_adapters.command()"
    assert "adapters.rewards.funding:Funding" in python(run, site, ROOT / "src", cwd=tmp_path)
    child = "import extraction_adapters, subprocess, sys; subprocess.run([sys.executable, '-m', 'adapters', 'schema'])"
    assert '"properties"' in python(child, site, ROOT / "src", cwd=tmp_path)


@pytest.mark.slow
def test_the_wheel_has_a_copy_that_is_not_overwritten(tmp_path: Path) -> None:
    """Installed first, and AdapterHub's files over it, as pip does."""
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    subprocess.run([*build, "--outdir", str(tmp_path), str(ROOT)], check=True, capture_output=True, timeout=300)
    [wheel] = tmp_path.glob("extraction_adapters-*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, timeout=300)
    adapterhub(site)
    *same, _, _, file = json.loads(python(SAME, site))
    assert same == [True] * 4
    assert Path(file) == site / "extraction_adapters" / "code" / "adapters" / "__init__.py"
    run = "import sys; sys.argv[1:] = ['new', 'mine']; import extraction_adapters; extraction_adapters.command()"
    python(run, site, cwd=tmp_path)
    assert "\nname: mine\n" in (tmp_path / "mine.yaml").read_text()
    assert (site / "bin" / "extraction-adapters").is_file()
