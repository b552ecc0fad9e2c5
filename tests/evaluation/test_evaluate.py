"""Evaluations: when they are made again, how many tokens an answer may take, and how two models are compared."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.backends.echo import EchoBackend, EchoSampler
from adapters.evaluation import comparison, metrics
from adapters.evaluation.evaluate import read_figures, stored_answers
from adapters.files import read_jsonl
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import evaluate_all, run_plan
from adapters.plugins.rewards import NamedReward
from adapters.recipe.load import load_recipe
from adapters.types import Counts, Sample

RECIPE = """name: graded
task: funding
model: {base: none}
trainer: echo
run_dir: RUNS
stages:
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    max_steps: 1
    learning_rate: 1e-5
    rewards: [./grade.py:grade]
evaluate: [{name: test, data: [{path: test.jsonl}]}]
"""
GRADE = "def grade(completion, example):\n    return float(completion == example.completion)\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(8))
    write_jsonl(tmp_path / "test.jsonl", funding_rows(6, "t"))
    (tmp_path / "grade.py").write_text(GRADE)
    (tmp_path / "graded.yaml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    return tmp_path / "graded.yaml"


def test_an_evaluation_is_made_again_when_the_rewards_differ_and_only_then(recipe: Path) -> None:
    file = load_recipe(recipe)
    backend = EchoBackend(file.recipe)
    plan = make_plan(file, backend)
    run_plan(plan, backend)
    stored = plan.folder / "eval" / "1-grpo" / "test" / "metrics.json"

    def rewards_of(reward: NamedReward) -> dict:
        models = [("1-grpo", plan.folder / "1-grpo")]
        sets = evaluate_all(models, plan.evaluations, plan.task, [reward], plan.folder, backend)
        assert json.loads(stored.read_text()) == sets["test"]["1-grpo"]
        return {name: figures["mean"] for name, figures in sets["test"]["1-grpo"]["rewards"].items()}

    written = stored.stat().st_mtime_ns
    [same] = plan.jobs[0].rewards
    before = rewards_of(same)["grade"]
    assert stored.stat().st_mtime_ns == written, "what still holds is not measured again"
    edited = dataclasses.replace(same, reward=lambda completion, example: 0.5, score_hash=f"{same.score_hash[:-1]}x")
    assert before != 0.5
    assert rewards_of(edited) == {"grade": 0.5}
    assert stored.stat().st_mtime_ns > written


def test_what_has_looped_is_counted_as_the_decoder_says(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens tell: 128 digits of a token each are a loop, whatever their text looks like."""
    file = load_recipe(recipe)
    backend = EchoBackend(file.recipe)
    plan = make_plan(file, backend)
    answer = EchoSampler.__call__

    def looping(self: EchoSampler, *args: object, **options: object) -> list[Sample]:
        first, *others = answer(self, *args, **options)
        return [first._replace(text="0" * 128, truncated=True, looped=True), *others]

    monkeypatch.setattr(EchoSampler, "__call__", looping)
    run_plan(plan, backend)
    folder = plan.folder / "eval" / "1-grpo" / "test"
    figures = read_figures(folder)
    assert (figures["truncated"], figures["looped"]) == (1, 1)
    [test] = plan.evaluations
    stored = stored_answers(folder, test, figures["key"])
    assert stored is not None
    assert [s.looped for s in stored.samples] == [True, *[False] * 5]
    path = folder / "samples.jsonl"
    old = [{k: v for k, v in line.items() if k != "looped"} for line in read_jsonl(path)]
    write_jsonl(path, [{**old[0], "completion": "0" * 300}, *old[1:]])
    stored = stored_answers(folder, test, figures["key"])
    assert stored is not None
    assert [s.looped for s in stored.samples] == [True, *[False] * 5], "an older version's answers are looked at"


def test_an_answer_may_be_half_as_long_again_as_the_longest_gold_answer(recipe: Path) -> None:
    rows = funding_rows(6, "t")
    rows[0]["funders"] = [{"funder_name": " ".join(["Fund"] * 200), "awards": []}]
    write_jsonl(recipe.parent / "test.jsonl", rows)
    file = load_recipe(recipe)
    backend = EchoBackend(file.recipe)
    [test] = make_plan(file, backend).evaluations
    longest = max(length.completion for length in backend.lengths(test.examples))
    assert longest > 200
    assert 1.5 * longest <= test.max_new_tokens < 1.5 * longest + 16, "in steps of 16"
    assert test.beyond == 0
    [short] = make_plan(load_recipe(recipe, ["evaluate.0.max_new_tokens=100"]), backend).evaluations
    assert (short.max_new_tokens, short.beyond) == (100, 1)


def model(counts: list[tuple[int, int, int]], variants: int = 1) -> tuple[dict, list[dict]]:
    """Figures and samples of a model; the counts of each variant stand one after the other."""
    n = len(counts) // variants
    rows = [tuple(sum(c[k] for c in counts[i::n]) / variants for k in range(3)) for i in range(n)]
    figures = {
        "n": n,
        "metrics": metrics.corpus([{"exact": {"a": Counts(*row), "b": Counts(0, 0, 0)}} for row in rows]),
    }
    samples = [
        {"id": str(i % n), "gold": i % n, "variant": i // n, "counts": {"exact": {"a": list(c), "b": [0, 0, 0]}}}
        for i, c in enumerate(counts)
    ]
    return figures, samples


def test_every_table_of_two_models_has_the_figures_of_the_evaluation() -> None:
    (before, left), (after, right) = (model([(1, 1, n % k == 0) for n in range(40)]) for k in (4, 2))
    [change] = comparison.changes(before, after, "exact", (left, right))
    assert (change.field, change.before, change.after) == ("a", 0.25, 0.5), "no row for what is nowhere to find"
    assert 0 < change.interval[0] < change.delta < change.interval[1] < 1
    assert change.clear
    [line] = comparison.deltas({"test": {"base": before, "1-sft": after}})
    assert (line["base"], line["tuned"], line["delta"]) == (change.before, change.after, change.delta)
    assert comparison.changes(before, after, "loose", (left, right)) == []


def test_models_that_answered_other_rows_have_no_interval() -> None:
    (before, left), (after, right) = (model([(1, 1, k)] * 8) for k in (0, 1))
    for other in (right[:-1], [{**s, "id": f"{s['id']}x"} for s in right], [{**s, "gold": "other"} for s in right], []):
        [change] = comparison.changes(before, after, "exact", (left, other))
        assert (change.delta, change.interval, change.clear) == (1.0, None, False)


def test_the_variants_of_a_row_count_as_one_row() -> None:
    single = [(1, 1, n % 2) for n in range(20)], [(1, 1, n % 4 > 0) for n in range(20)]
    once, thrice = (
        comparison.changes(*(m[0] for m in sides), "exact", tuple(m[1] for m in sides))
        for sides in ([model(c) for c in single], [model(c * 3, variants=3) for c in single])
    )
    assert once == thrice, "asking three times makes no interval narrower"
