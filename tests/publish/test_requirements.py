"""What publishing will need is asked before the training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.backends import backend
from adapters.pipeline.plan import make_plan
from adapters.publish import requirements
from adapters.recipe.load import load_recipe

TASK = """
from adapters.tasks.funding import FundingTask

class Bare(FundingTask):
    example_row = None
"""
RECIPE = """
name: asked
task: {task}
model: {{base: {base}}}
trainer: echo
stages:
  - {{kind: sft, data: [{{path: rows.jsonl}}], batch_size: 2, max_steps: 1, learning_rate: 1e-3}}
evaluate: {evaluate}
"""


def asked(folder: Path, publish: str, task: str = "funding", base: str = "Qwen/Qwen3-0.6B", tests: bool = True, lora: str = "") -> tuple[list[str], list[str]]:  # fmt: skip # noqa: E501
    write_jsonl(folder / "rows.jsonl", funding_rows(6))
    (folder / "bare.py").write_text(TASK)
    evaluate = "[{name: test, data: [{path: rows.jsonl}]}]" if tests else "[]"
    recipe = RECIPE.format(task=task, base=base, evaluate=evaluate) + f"publish: {publish}\n{lora}\n"
    (folder / "asked.yaml").write_text(recipe)
    file = load_recipe(folder / "asked.yaml")
    plan = make_plan(file, backend(file.recipe))
    trained = dataclasses.replace(file, recipe=file.recipe.model_copy(update={"trainer": "local"}))
    faults, notes = requirements.of_plan(dataclasses.replace(plan, file=trained))
    return [file.locate(fault) for fault in faults], notes


COMPLETE = "{repo: me/x, license: mit, description: Finds., contact: a forum}"


def test_a_complete_section_lacks_nothing(tmp_path: Path) -> None:
    assert asked(tmp_path, COMPLETE) == ([], [])
    assert asked(tmp_path, "null") == ([], []), "a recipe without publish: is not asked"


def test_gaps_of_the_card_are_notes(tmp_path: Path) -> None:
    faults, notes = asked(tmp_path, "{title: A}", tests=False)
    assert not faults
    assert [note.partition(":")[0] for note in notes] == [
        "publish.repo is not set",
        "the card names no licence",
        "the card does not say what the adapter does",
        "the card names nobody to ask but the repository's discussions",
        "nothing is evaluated",
    ]


def test_a_benchmark_of_other_rows_is_a_note(tmp_path: Path) -> None:
    asked(tmp_path, COMPLETE)
    benchmark = "evaluate.0.benchmark={dataset_id: me/bench, task_id: funding}"
    recipe = load_recipe(tmp_path / "asked.yaml", [benchmark]).recipe
    [note] = requirements.other_rows(recipe)
    assert note.startswith("the test set test reads no rows of me/bench")
    recipe = load_recipe(tmp_path / "asked.yaml", [benchmark, "evaluate.0.data=[{hub: me/bench}]"]).recipe
    assert requirements.other_rows(recipe) == []


@pytest.mark.slow
def test_what_publish_would_refuse_is_an_error_with_its_key(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"")
    [fault], _ = asked(tmp_path, COMPLETE, base=str(model))
    assert "publish.base_model" in fault
    assert "set publish.base_model: owner/name" in fault
    (model / "hub_id").write_text("owner/base\n")
    assert asked(tmp_path, COMPLETE, base=str(model)) == ([], [])
    (model / "hub_id").unlink()
    named = COMPLETE.replace("{", "{base_model: owner/base, ")
    assert asked(tmp_path, named, base=str(model)) == ([], [])
    [fault], _ = asked(tmp_path, COMPLETE, task="./bare.py:Bare")
    assert "publish.example" in fault
    assert "no example row of its own" in fault
    [fault], _ = asked(tmp_path, COMPLETE.replace("{", "{example: {a: 1}, "))
    assert "cannot read the example row" in fault
    [fault], _ = asked(tmp_path, COMPLETE, lora="lora: {rank: 600}")
    assert "rank 600 is above the largest that vLLM serves" in fault


@pytest.mark.parametrize(
    ("minimum", "tests", "reason"),
    [
        ("{funders_f1: 0.6}", True, "Did you mean funder_f1"),
        ("{tset/funder_f1: 0.6}", True, "with SET one of test"),
        ("{funder_f1: 0.6}", False, "no test set"),
    ],
)
def test_an_unknown_figure_is_found_before_the_training(tmp_path: Path, minimum: str, tests: bool, reason: str) -> None:
    [fault], _ = asked(tmp_path, COMPLETE.replace("{", f"{{minimum: {minimum}, "), tests=tests)
    assert "publish.minimum." in fault
    assert reason in fault
    known = COMPLETE.replace("{", "{minimum: {funder_f1: 0.6, test/valid: 0.5}, ")
    assert asked(tmp_path, known) == ([], [])
