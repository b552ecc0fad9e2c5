"""What `run` and `eval` print at their end: one table, one sentence, the next commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import small_run
from typer.testing import CliRunner

from adapters.cli import tables
from adapters.cli.main import app
from adapters.evaluation.metrics import f1_change_intervals
from adapters.recipe.load import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_run(tmp_path)


def invoke(*arguments: str) -> Any:
    done = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    return done


def f1(result: dict[str, Any], field: str) -> str:
    figures = result["metrics"]["balanced"][field]
    return "{:.3f} ({:.2f}-{:.2f})".format(figures["f1"], *figures["f1_ci"])


@pytest.mark.slow
def test_a_run_ends_with_one_table_one_sentence_and_the_next_commands(folder: Path) -> None:
    shown = invoke("run", "small.yaml").stdout
    lines = shown.splitlines()
    assert len(lines) < 30, shown
    assert max(map(len, lines)) <= 100
    sets = json.loads((folder / "runs/small/report.json").read_text())["sets"]
    for field in ("funder", "award_id"):
        [row] = [line for line in lines if line.startswith("seen") and field in line and "->" not in line]
        assert all(f1(sets["seen"][model], field) in row for model in ("base", "1-sft"))
    assert "permissive" not in shown, "the other matching modes are for --all"
    samples = {
        model: [json.loads(line) for line in (folder / f"runs/small/eval/{model}/seen/samples.jsonl").open()]
        for model in ("base", "1-sft")
    }
    counts = [np.array([[s["counts"]["balanced"]["funder"]] for s in samples[m]]) for m in ("base", "1-sft")]
    [(low, high)] = f1_change_intervals(*counts)
    after = sets["seen"]["1-sft"]["metrics"]["balanced"]["funder"]["f1"]
    assert f"F1 0.00 -> {after:.2f} (95 % interval of the change: {low:+.2f} to {high:+.2f})" in shown
    commands = shown.partition("Next:\n")[2].split("\n  ")
    assert [line.split()[:3] for line in commands] == [
        ["adapters", verb, "runs/small"] for verb in ("report", "extract")
    ]


@pytest.mark.slow
def test_all_prints_the_other_tables_and_json_is_as_before(folder: Path) -> None:
    everything = invoke("run", "small.yaml", "--all").stdout
    for words in ("permissive", "balanced", "strict", "F0.5", "seen, outputs"):
        assert words in everything
    report = json.loads(invoke("run", "small.yaml", "--json").stdout)
    assert report == json.loads((folder / "runs/small/report.json").read_text())


@pytest.mark.slow
def test_eval_ends_in_the_same_way(folder: Path) -> None:
    ran = invoke("run", "small.yaml").stdout
    shown = invoke("eval", "runs/small").stdout
    assert shown.strip().splitlines()[0].startswith("F1, balanced matching")
    for line in shown.splitlines():
        assert line in ran.splitlines()
    assert "strict" in invoke("eval", "runs/small", "--all").stdout
    assert list(json.loads(invoke("eval", "runs/small", "--json").stdout)) == ["name", "sets"]


@pytest.mark.slow
def test_many_models_and_sets_fit_the_screen(folder: Path) -> None:
    invoke("run", "small.yaml")
    result = json.loads((folder / "runs/small/report.json").read_text())["sets"]["seen"]
    models = {"base": result["base"]} | {f"{n}-sft": result["1-sft"] for n in range(1, 6)}
    from rich.console import Console

    screen = Console(width=100, file=(folder / "shown").open("w"))
    screen.print(tables.main_table({"one": models, "two": models}))
    screen.file.close()
    lines = (folder / "shown").read_text().splitlines()
    assert max(map(len, lines)) <= 100
    assert [c for c in lines[1].split() if c in models] == ["base", "4-sft", "5-sft"]
    assert tables.headline({"one": {"base": result["base"]}}, folder) == ""
    nothing = {"base": {"n": 1, "metrics": {"exact": {"success": {"gold": 0, "pred": 0, "f1": None}}}}}
    assert "none: there was nothing to find in its rows" in str(tables.main_table({"none": nothing}).caption)
    assert "interval" not in tables.headline({"gone": models}, folder / "nowhere"), "no samples, no interval"


def test_a_run_folder_with_a_space_is_quoted() -> None:
    recipe = load_recipe(RECIPES / "quickstart.yaml").recipe
    assert "adapters report 'my runs/small' --open" in tables.next_commands(Path("my runs") / "small", recipe)
    proxy = load_recipe(RECIPES / "mine_minilm.yaml").recipe
    assert "adapters mine PROGRAM.yaml x CORPUS.jsonl" in tables.next_commands(Path("x"), proxy)
