"""Constrained answers of a test set beside the free ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import chain_recipe, echo_recipe, funding_rows, save_lively_model, save_tiny_model, write_jsonl

from adapters.backends import backend
from adapters.cli import tables
from adapters.errors import UserError
from adapters.evaluation import comparison, constraining
from adapters.pipeline.plan import make_plan
from adapters.pipeline.run import run_plan
from adapters.pipeline.run_folder import RunFolder
from adapters.recipe.load import load_recipe
from adapters.report.page import render
from adapters.tasks.funding import FundingTask

pytest.importorskip("llguidance")


def sample(name: str, text: str = "Paid by NSF and DFG.", id: str = "a") -> dict[str, Any]:
    return {"id": id, "completion": json.dumps([{"funder_name": name, "award_ids": ["DFG"]}]), "text": text}


def test_what_a_constraint_changed_is_counted() -> None:
    task = FundingTask(target="compact")
    free = [sample("NSF"), sample("Nonesuch", id="b"), {**sample("NSF", id="c"), "completion": "not JSON"}]
    held = [sample("NSF"), sample("DFG", id="b"), {**sample("NSF", id="c"), "completion": "[]"}]
    told = constraining.compared(task, free, held)
    assert told == {
        "answers": 3,
        "changed": 2,
        "free": {"strings": 4, "ungrounded": 1},
        "constrained": {"strings": 4, "ungrounded": 0},
    }
    assert constraining.sentence(told) == (
        "the constraint changed 2 of 3 answers; strings that are not in the text: 1 of 4 (25.0%) free, 0 of 4 (0.0%) "
        "constrained"
    )
    assert constraining.compared(task, free[:2], held) is None
    for broken in (None, {}, {"changed": "x"}, {**told, "free": 3}):
        assert constraining.sentence(broken) == ""


def plan_error(folder: Path, recipe: str, *overrides: str) -> UserError:
    (folder / "r.yaml").write_text(recipe)
    file = load_recipe(folder / "r.yaml", overrides)
    with pytest.raises(UserError) as error:
        make_plan(file, backend(file.recipe))
    return error.value


def test_a_constraint_that_cannot_be_is_refused_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(6))
    fault = plan_error(tmp_path, echo_recipe("run"), "evaluate.0.constrain=source")
    assert fault.at == ("evaluate", 0, "constrain")
    assert "only the local trainer" in str(fault)


@pytest.mark.slow
def test_a_real_model_is_evaluated_with_a_constraint_beside_its_free_answers(tmp_path: Path) -> None:
    model = save_lively_model(save_tiny_model(tmp_path / "tiny-llama"), tmp_path / "lively")
    (tmp_path / "chain.yaml").write_text(chain_recipe(tmp_path, model))
    sft = "stages=[{kind: sft, data: [train.jsonl], batch_size: 8, max_steps: 2, learning_rate: 1e-2}]"
    file = load_recipe(tmp_path / "chain.yaml", [sft, "evaluate.0.constrain=source", "evaluate.0.max_new_tokens=40"])
    made = backend(file.recipe)
    report = run_plan(make_plan(file, made), made)
    assert list(report["sets"]) == ["test", "test+source"]
    assert list(report["sets"]["test+source"]) == ["base", "1-sft"], "the base is answered too"
    free, held = (
        [json.loads(line) for line in (tmp_path / f"runs/chain/eval/1-sft/{name}/samples.jsonl").open()]
        for name in ("test", "test+source")
    )
    figures = report["sets"]["test+source"]["1-sft"]["constraint"]
    assert figures["changed"] == sum(a["completion"] != b["completion"] for a, b in zip(free, held, strict=True)) > 0
    assert figures["constrained"]["ungrounded"] == 0
    assert "constraint" not in report["sets"]["test"]["1-sft"], "never mixed"
    assert all(s["completion"].startswith(("[]", "[{")) for s in held)
    told = constraining.sentence(figures)
    assert f"test+source (1-sft): {told}" in list(tables._costs(report["sets"]))
    assert {line["set"] for line in comparison.deltas(report["sets"])} == {"test"}
    page = render(RunFolder.open(tmp_path / "runs/chain"))
    assert "answers constrained to strings of the text" in page
    assert told in page
    assert run_plan(make_plan(file, made), made)["sets"] == report["sets"], "stored"
