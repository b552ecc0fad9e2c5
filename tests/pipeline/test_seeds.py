"""`adapters run --seeds`: one run a seed, and figures over all of them on screen, page and card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import small_run
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.errors import UserError
from adapters.evaluation import comparison, metrics
from adapters.pipeline import seeds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_run(tmp_path)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100"})


@pytest.mark.slow
def test_each_seed_has_a_run_and_all_have_the_figures(folder: Path) -> None:
    done = invoke("run", "small.yaml", "--seeds", "1", "2", "stages.0.batch_size=4")
    assert done.exit_code == 0, done.output
    for seed in (1, 2):
        run = folder / f"runs/small-seed{seed}"
        recipe = json.loads((run / "recipe.json").read_text())
        assert (recipe["seed"], recipe["stages"][0]["batch_size"]) == (seed, 4)
        summary = json.loads((run / "seeds.json").read_text())
        assert summary["runs"] == ["small-seed1", "small-seed2"]
        report = json.loads((run / "report.json").read_text())["sets"]["seen"]["1-sft"]
        [line] = [x for x in summary["lines"] if (x["field"], x["model"]) == ("funder", "1-sft")]
        assert report["metrics"]["balanced"]["funder"]["f1"] in line["values"]
        page = (run / "report.html").read_text()
        assert 'id="seeds"' in page
        assert f"{line['mean']:.3f}" in page
    assert "mean of 2 seeds" in done.stdout
    assert "What each stage changed" in done.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--seeds", "1"], "at least two different"),
        (["--seeds", "1", "1"], "at least two different"),
        (["--seeds", "1", "two"], "whole numbers"),
        (["--seeds", "1,2", "seed=3"], "exclude each other"),
    ],
)
def test_wrong_seeds_are_one_sentence(folder: Path, words: list[str], text: str) -> None:
    done = invoke("run", "small.yaml", *words)
    assert done.exit_code == 2, done.output
    assert text in " ".join(done.output.split())
    assert not (folder / "runs").exists()


def test_seeds_are_numbers_apart_or_with_commas() -> None:
    assert seeds.parse(["1", "2,3"]) == [1, 2, 3]
    with pytest.raises(UserError, match="whole numbers"):
        seeds.parse(["1", "-2"])


def samples(matched: list[int], rewards: list[float]) -> list[dict[str, Any]]:
    counts = [{"strict": {"name": [2, 2, m]}} for m in matched]
    return [
        {"id": n, "gold": n, "counts": c, "rewards": {"r": w}}
        for n, (c, w) in enumerate(zip(counts, rewards, strict=True))
    ]


def test_a_change_is_the_mean_over_seeds_and_its_interval_knows_rows_and_seeds() -> None:
    rng = np.random.default_rng(0)
    before = [samples([0, 1] * 20, [0.25] * 40) for _ in range(3)]
    after = [samples(list(rng.integers(1, 3, 40)), [0.25 + 0.1 * seed] * 40) for seed in range(3)]
    by_field = {c.field: c for c in comparison.changes_over_seeds(before, after, "strict")}
    assert by_field["name"].before == pytest.approx(0.25)
    f1 = [sum(s["counts"]["strict"]["name"][2] for s in model) / 80 for model in after]
    assert by_field["name"].after == pytest.approx(np.mean(f1))
    reward = by_field["reward r"]
    assert (reward.before, reward.after) == (pytest.approx(0.25), pytest.approx(0.35))
    wide = 0.1 * 1.5**0.5  # of the seeds -0.1, 0 and 0.1 around the mean, widened by sqrt(3 / 2)
    assert reward.interval == [pytest.approx(0.1 - wide), pytest.approx(0.1 + wide)], "the seeds alone differ"
    assert comparison.changes_over_seeds(before, [*after[:2], samples([1], [1.0])], "strict") == []
    before[0][1]["counts"] = {}
    damaged = comparison.changes_over_seeds(before, after, "strict")
    assert [c.field for c in damaged] == ["reward r"], "what one row does not say is left out"


def test_a_reward_is_compared_on_the_rows_that_have_it_and_variants_are_one_row() -> None:
    before, after = samples([0] * 20, [0.5] * 20), samples([0] * 20, [0.5 + n % 3 / 10 for n in range(20)])
    [plain] = comparison.reward_changes(before, after)
    asked = [[{**s, "variant": v} for v in range(5) for s in model] for model in (before, after)]
    [varied] = comparison.reward_changes(*asked)
    assert (varied.before, varied.after) == (pytest.approx(plain.before), pytest.approx(plain.after))
    assert varied.interval == pytest.approx(plain.interval), "five forms of a prompt are no five rows"
    before[3]["rewards"] = {}
    [change] = comparison.reward_changes(before, after)
    assert change.after == pytest.approx(np.mean([s["rewards"]["r"] for n, s in enumerate(after) if n != 3]))
    assert comparison.reward_changes(before, samples([1], [1.0])) == []


def test_one_seed_is_the_plain_paired_bootstrap() -> None:
    rng = np.random.default_rng(1)
    old, new = (
        np.stack([np.full((30, 2), 3), np.full((30, 2), 3), rng.integers(0, 4, (30, 2))], axis=-1) for _ in "ab"
    )
    same = metrics.change_intervals(old[:, None], new[:, None], metrics.f1_of_sums)
    assert metrics.f1_change_intervals(old, new) == same


@pytest.mark.slow
def test_a_damaged_summary_counts_as_none(folder: Path) -> None:
    assert invoke("run", "small.yaml").exit_code == 0
    (folder / "runs/small/seeds.json").write_text('{"lines": [{"set": 3}]}')
    assert invoke("report", "runs/small").exit_code == 0
    assert 'id="seeds"' not in (folder / "runs/small/report.html").read_text()
