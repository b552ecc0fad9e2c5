"""Entities through whole runs: label orders, baselines, the table of base and tuned, with a model and without."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from tiny import VOWELS, ie_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import backend as make_backend
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.evaluation import comparison
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe

COMPACT = '{use: ie, target: compact, missing_answer: whole, system: Extract., ner_user: "{labels} {text}"}'
RECIPE = """name: entities
task: TASK
model: {base: BASE}
lora: {rank: 4, alpha: 8}
trainer: TRAINER
run_dir: RUNS
stages:
  - kind: sft
    data: [{path: train.jsonl}]
    batch_size: 8
    max_steps: 2
    learning_rate: 1e-2
    validation: 0.1
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 2
    group_size: 4
    max_steps: 2
    learning_rate: 1e-3
    beta: 0.05
    rewards: [REWARD]
    max_completion_length: 160
evaluate:
  - {name: seen, data: [{path: train.jsonl}]}
  - {name: new, data: [{path: new.jsonl}], prompt_variants: 3}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", ie_rows(20))
    write_jsonl(tmp_path / "new.jsonl", ie_rows(10, "n"))
    path = tmp_path / "mine.yaml"
    text = RECIPE.replace("RUNS", str(tmp_path / "runs")).replace("TRAINER", "echo").replace("BASE", "none")
    path.write_text(text.replace("TASK", "ie").replace("[REWARD]", "[ie]"))
    return path


def run(path: Path, *overrides: str) -> tuple[Plan, dict[str, Any]]:
    file = load_recipe(path, overrides)
    backend = make_backend(file.recipe)
    made = make_plan(file, backend)
    return made, run_plan(made, backend)


def test_figures_of_a_run(mine: Path) -> None:
    made, report = run(mine)
    seen, new = report["sets"]["seen"], report["sets"]["new"]
    tuned = seen["2-grpo"]
    assert tuned["metrics"]["labelled"]["entity"]["f1"] == 1.0
    assert (tuned["n"], tuned["parse_errors"], tuned["empty_gold"], tuned["empty_answers"]) == (20, 0, 0.2, 0.2)
    assert tuned["rewards"]["ie"]["mean"] == tuned["rewards"]["ie"]["on_empty_gold"] == pytest.approx(1.0)
    assert seen["base"]["parse_errors"] == 20, "an answer without tags is a parse error"
    # Always {}: 0.3 for the form on every row, and the F1 part where there is nothing to find.
    assert tuned["always_empty"] == {"ie": pytest.approx(0.3 + 0.7 * 0.2)}
    assert (new["base"]["n"], new["base"]["parse_errors"]) == (10, 30)
    samples = [json.loads(line) for line in (made.folder / "eval/base/new/samples.jsonl").read_text().splitlines()]
    assert [sample["variant"] for sample in samples] == [0] * 10 + [1] * 10 + [2] * 10
    entry = json.loads((made.folder / "ledger.json").read_text())["stages"]["1-sft"]["sources"][0]
    assert entry["empty_gold"] == 4, "labels without a list of their own are empty"
    lines = report["deltas"]
    assert [(line["set"], line["n"], line["delta"]) for line in lines] == [
        ("seen", 20, 1.0), ("new", 10, 0.0), ("average", 30, 0.5)
    ]  # fmt: skip
    assert lines[0]["parse_errors"] == [20, 0]


def test_label_orders_are_reported_as_mean_and_spread(mine: Path) -> None:
    # What echo has learnt are the training prompts, and with them one label order; it knows the answer in no other.
    made, report = run(mine, "evaluate.0.variants=4")
    seen = report["sets"]["seen"]["2-grpo"]
    spread = seen["variants"]["labelled"]["entity"]
    assert spread["n"] == 4
    assert (spread["min"], spread["max"]) == (0.0, 1.0)
    samples = (made.folder / "eval/2-grpo/seen/samples.jsonl").read_text().splitlines()
    matched = [0] * 4
    for sample in map(json.loads, samples):
        matched[sample["variant"]] += sample["counts"]["labelled"]["entity"][2]
    # A completion is right or empty, so an order's F1 is 1 or 0.
    by_order = [n / 24 for n in matched]
    assert set(by_order) == {0.0, 1.0}
    assert spread["mean"] == pytest.approx(statistics.mean(by_order))
    assert spread["sd"] == pytest.approx(statistics.stdev(by_order))
    assert seen["metrics"]["labelled"]["entity"]["recall"] == pytest.approx(sum(matched) / 96), "never the best"
    assert seen["metrics"]["labelled"]["entity"]["gold"] == 24
    with_orders = made.evaluations[0]
    assert (len(with_orders.examples), with_orders.variants) == (80, 4)
    low, high = seen["metrics"]["labelled"]["entity"]["recall_ci"]
    assert low <= spread["mean"] <= high


def test_a_task_with_one_form_has_no_variants(mine: Path) -> None:
    file = load_recipe(mine, ["task=funding", "evaluate.0.data.0.columns={funding_statement: text, funders: schema}"])
    with pytest.raises(UserError, match="cannot be used"):
        make_plan(file, make_backend(file.recipe))
    synthetic = [{"name": "s", "data": [{"synthesize": "funding", "n": 20}], "prompt_variants": 2}]
    overrides = [
        "task=funding",
        f"evaluate={json.dumps(synthetic)}",
        'stages.0.data=[{"synthesize": "funding", "n": 20}]',
    ]
    overrides += ['stages.1.data=[{"synthesize": "funding", "n": 20}]', "stages.1.rewards=[funding]"]
    file = load_recipe(mine, overrides)
    with pytest.raises(UserError, match="asks in one form only") as error:
        make_plan(file, make_backend(file.recipe))
    assert error.value.at == ("evaluate", 0, "prompt_variants")


def test_a_text_counts_as_seen_whatever_was_asked_about_it(mine: Path, tmp_path: Path) -> None:
    other = [{**row, "schema": ["place", "thing"], "gold": {}} for row in ie_rows(3)]
    write_jsonl(tmp_path / "new.jsonl", [*ie_rows(10, "n"), *other])
    made, _ = run(mine)
    assert "test set new: 3 of 13 texts also stand in the training data" in made.notes


@pytest.mark.slow
def test_the_tables(mine: Path) -> None:
    shown = CliRunner().invoke(app, ["run", str(mine), "--all"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0, shown.output
    for part in (
        "10 rows x 3 variants",
        "F1, base -> 2-grpo, labelled",
        "+1.0000",
        "20 -> 0",
        "always empty",
        "average",
    ):
        assert part in shown.stdout, shown.stdout
    assert "relation" not in shown.stdout, "a field that nobody has or claims is not shown"
    assert comparison.deltas({"s": {"1-sft": {}}}) == []


def test_completions_are_scored_from_files(tmp_path: Path) -> None:
    gold = write_jsonl(tmp_path / "gold.jsonl", ie_rows(5))
    answers = [{"id": row["id"], "completion": json.dumps(row["gold"])} for row in ie_rows(5)[:4]]
    predictions = write_jsonl(tmp_path / "pred.jsonl", answers)

    def scored(*arguments: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, ["score", str(predictions), str(gold), "--task", "ie", "--json", *arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["labelled"]["entity"]

    assert scored("--set", "missing_answer=whole")["f1"] == 1.0
    assert (scored()["gold"], scored()["pred"]) == (6, 0), "without tags nothing is read, and nothing is left out"


@pytest.mark.slow
@pytest.mark.parametrize("first", ["sft", "grpo"])
def test_on_a_real_trainer(mine: Path, tiny_model: Path, first: str) -> None:
    """SFT then GRPO, and GRPO straight from the base."""
    (mine.parent / "vowels.py").write_text(VOWELS)
    reward = "{use: ie, missing_answer: whole, think: 0.0, answer: 0.0, json: 0.1, f1: 0.9}, ./vowels.py:Vowels"
    text = RECIPE.replace("TASK", COMPACT).replace("REWARD", reward).replace("TRAINER", "local")
    text = text.replace("BASE", str(tiny_model)).replace("RUNS", str(mine.parent / "runs"))
    text = text.replace(
        "data: [{path: new.jsonl}], prompt_variants: 3", "data: [{path: new.jsonl, max_rows: 2}], prompt_variants: 2"
    )
    mine.write_text(
        text.replace("data: [{path: train.jsonl}]}", "data: [{path: train.jsonl, max_rows: 2}], max_new_tokens: 8}")
    )
    overrides = ["stages.1.trl={generation_kwargs: {max_new_tokens: 8}}"]
    if first == "grpo":
        tree = load_recipe(mine, overrides).tree
        overrides = [f"stages={json.dumps(tree['stages'][1:])}"]
    made, report = run(mine, *overrides)
    assert [job.stage.kind for job in made.jobs] == (["sft", "grpo"] if first == "sft" else ["grpo"])
    last = made.jobs[-1].name
    assert report["stages"][last]["figures"]["first_kl"] == pytest.approx(0, abs=1e-6)
    assert report["sets"]["new"][last]["variants"]["labelled"]["entity"]["n"] == 2
    log = (made.jobs[-1].folder / "log.jsonl").read_text()
    assert "parts/ie/f1" in log
