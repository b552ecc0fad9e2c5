"""The command answers without loading what it does not need; the benchmarks compare equal results."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "bench"
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate", "pyarrow", "scipy", "vllm"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], {"rich", "pydantic", "numpy", "ruamel", "rapidfuzz", "ftfy", "huggingface_hub", "urllib3"}),
        (["extract", "--help"], {"numpy", "ruamel", "rapidfuzz", "ftfy", "huggingface_hub", "urllib3"}),
        (["rewards", "list"], {"numpy", "rapidfuzz", "huggingface_hub"}),
    ],
)
def test_a_question_about_the_command_loads_no_library_it_does_not_need(arguments: list[str], more: set[str]) -> None:
    code = (
        "import sys\nfrom adapters.cli.main import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.rpartition("MODULES")[2].split()}
    assert not (HEAVY | more) & loaded


def test_the_plain_corpus_metrics_give_our_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    bench = importlib.import_module("bench_metrics")
    pairs = bench.make_pairs(16, 5, group=1)
    plain = bench.plain_corpus(pairs, bench.draws(len(pairs), 1000))
    assert bench.difference(bench.our_corpus(pairs), plain, intervals=True) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("name", [p.stem for p in sorted(SCRIPTS.glob("*.py")) if p.stem != "benchmarks"])
def test_every_benchmark_tells_how_it_is_run(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert f"scripts/bench/{name}.py" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_a_stage_beside_a_bare_script(tmp_path: Path, recipe_text: str, kind: str) -> None:
    """Both contenders train for real, on the tiny model."""
    (tmp_path / "recipe.yaml").write_text(recipe_text)
    command = [sys.executable, str(SCRIPTS / "bench_training.py"), kind, str(tmp_path / "recipe.yaml"), "--steps", "1"]
    left_out = "loss on the targets only" if kind == "sft" else "reading prefixes once"
    command += ["--only", left_out, "--adapter", "", "lora.alpha=16"]  # an override may come last
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith(("| bare", "| ours"))]
    assert len(rows) == 3
    assert all(float(row[1]) > 0 and float(row[2].replace(",", "")) > 0 for row in rows), "seconds, and tokens/s"
    assert "The wrapper:" in done.stdout
    assert "Operators of two steps, by their own time: products of matrices " in done.stdout
