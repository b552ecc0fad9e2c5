"""`select:` of a stage: which rows are held out, what is refused, and what a run makes of it (echo backend)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pipeline.fingerprint import fingerprinted_settings
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe
from adapters.report.page import write_report

RECIPE = """name: chosen
task: funding
model: {base: none}
trainer: echo
run_dir: RUNS
stages:
  - {kind: sft, data: [{path: train.jsonl}], batch_size: 4, learning_rate: 1e-4, validation: 0.2}
  - {kind: grpo, data: [{path: train.jsonl}], batch_size: 4, learning_rate: 1e-5, rewards: [funding]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(40))
    (tmp_path / "chosen.yaml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    return tmp_path / "chosen.yaml"


def plan(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


def refused(path: Path, *overrides: str) -> str:
    file = load_recipe(path, overrides)
    with pytest.raises(UserError) as raised:
        make_plan(file, EchoBackend(file.recipe))
    return file.locate(raised.value)


@pytest.mark.slow
def test_a_recipe_without_select_has_the_fingerprints_that_it_had(recipe: Path) -> None:
    stages = load_recipe(recipe).recipe.stages
    assert all("select" not in fingerprinted_settings(stage) for stage in stages)
    assert ["validation" in fingerprinted_settings(stage) for stage in stages] == [True, False]
    without, with_it = plan(recipe), plan(recipe, "stages.1.select={}")
    assert without.jobs[0].fingerprint == with_it.jobs[0].fingerprint
    assert without.jobs[1].fingerprint != with_it.jobs[1].fingerprint
    assert not without.jobs[1].validation


def test_where_the_rows_come_from_may_be_said(recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("rewards: [funding]", "rewards: [funding], select: {on: validation}"))
    said, unsaid = plan(recipe), plan(recipe, "stages.1.select={}")
    assert said.jobs[1].select
    assert said.jobs[1].fingerprint == unsaid.jobs[1].fingerprint
    assert "on" not in fingerprinted_settings(said.jobs[1].stage)["select"], "as before there was the key"


@pytest.mark.slow
def test_grpo_holds_out_whole_ids_when_it_selects(recipe: Path) -> None:
    job = plan(recipe, "stages.1.select={}", "stages.1.data=[{path: train.jsonl, repeat: 2}]").jobs[1]
    held_out = {e.id for e in job.validation}
    assert len(held_out) == len(job.validation) == 8, "a fifth, as the stage before"
    assert held_out == {e.id for e in plan(recipe).jobs[0].validation}
    assert not held_out & {e.id for e in job.examples}
    assert len(job.examples) == 64
    assert job.select is not None
    assert {e.id for e in job.select.judge.examples} == held_out
    assert len(plan(recipe, "stages.1.select={rows: 2}").jobs[1].validation) == 2
    assert len(plan(recipe, "stages.1.select={}", "stages.0.validation=0").jobs[1].validation) == 4, "a tenth"
    assert len(plan(recipe, "stages.1.select={}", "stages.1.validation=0.25").jobs[1].validation) == 10


@pytest.mark.parametrize(
    ("answers", "overrides", "limit"),
    [
        (True, [], 64),
        (False, [], 1024),
        (False, ["stages.0.max_completion_length=1000"], 1000),
        (True, ["model.thinking=true", "stages.0.max_completion_length=1000"], 1000),
    ],
)
def test_answers_to_rows_without_gold_may_be_as_long_as_the_stages(
    tmp_path: Path, answers: bool, overrides: list[str], limit: int
) -> None:
    said = [{"role": "assistant", "content": "x " * 40}] if answers else []
    rows = [{"id": f"n{n}", "messages": [{"role": "user", "content": f"Say {n}."}, *said]} for n in range(40)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    (tmp_path / "kept.py").write_text("def kept(completion, example):\n    return float('x' in completion)\n")
    path = tmp_path / "chat.yaml"
    stages = "  - {kind: grpo, data: [{path: train.jsonl}], learning_rate: 1e-5, rewards: [./kept.py:kept]}\n"
    path.write_text(RECIPE.partition("  - {kind")[0].replace("task: funding", "task: chat") + stages)
    found = plan(path, "stages.0.select={metric: reward}", *overrides).jobs[0].select
    assert found is not None
    assert found.max_new_tokens == limit


@pytest.mark.slow
def test_held_out_rows_count_as_training_data_for_test_sets(recipe: Path) -> None:
    held_out = [e.id for e in plan(recipe, "stages.1.select={}").jobs[1].validation]
    rows = [row for row in funding_rows(40) if row["id"] in held_out]
    write_jsonl(recipe.parent / "test.jsonl", rows)
    test = "evaluate=[{name: test, data: [{path: test.jsonl}]}]"
    [found] = plan(recipe, "stages.1.select={}", test, "stages.0.data=[{synthesize: funding, n: 9}]").evaluations
    assert found.leaked == len(rows) == 8


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["stages.0.select={every: 9}"], "stages.0.select.every: the stage has 8 steps, and would be measured every 9"),
        (["stages.0.select={metric: funders}"], "stages.0.select.metric: the task counts no such field. Did you mean"),
        (
            ["stages.0.select={}", "stages.0.validation=0"],
            "stages.0.validation: select measures held-out rows",
        ),
        (["stages.1.select={rows: 1}"], "stages.1.select.rows: this should be greater than or equal to 2"),
        (["stages.1.validation=0.1"], "validation of a grpo stage holds rows out for select, which is not given"),
        (["stages.1.select={on: test}"], "stages.1.select.on: this should be 'validation', not \"test\"."),
        (["stages.1.select={keep: best}"], "stages.1.select.keep: this should be 'better' or 'last'"),
    ],
)
def test_nonsense_is_refused_with_its_key(recipe: Path, overrides: list[str], text: str) -> None:
    try:
        assert text in refused(recipe, *overrides)
    except UserError as error:
        assert text in str(error)


def test_reward_in_sft_is_that_of_the_grpo_stage(recipe: Path) -> None:
    job = plan(recipe, "stages.0.select={metric: reward}").jobs[0]
    answers = [e.completion or "" for e in job.validation]
    assert job.select is not None
    assert job.select.judge.figure(job.select.judge.rows(answers)).value > 0.9
    assert job.select.judge.figure(job.select.judge.rows([""] * len(answers))).value < 0.5
    alone = "stages=[{kind: sft, data: [{path: train.jsonl}], learning_rate: 1e-4, select: {metric: reward}}]"
    assert "needs rewards, and no stage" in refused(recipe, alone)


def test_pairs_without_gold_cannot_be_counted(recipe: Path) -> None:
    pairs = [{"id": f"p{n}", "prompt": f"q {n}", "chosen": "[]", "rejected": "[1]"} for n in range(20)]
    write_jsonl(recipe.parent / "pairs.jsonl", pairs)
    dpo = "stages=[{kind: dpo, data: [{path: pairs.jsonl}], learning_rate: 1e-5, select: {}, validation: 0.2}]"
    assert "4 of 4 held-out rows have no gold answer to count" in refused(recipe, dpo)


def test_the_plan_says_what_is_measured(recipe: Path) -> None:
    notes = plan(recipe, "stages.0.select={every: 3}").notes
    [note] = [n for n in notes if "measured" in n]
    assert note.startswith(
        "1-sft: its states are measured 4 times, 8 held-out rows each, by f1: 32 answers of 32 tokens"
    )
    assert "mostly chance" in note


def test_a_run_says_what_was_chosen_in_manifest_log_and_report(recipe: Path) -> None:
    file = load_recipe(recipe, ["stages.0.select={every: 3, patience: 1}"])
    backend = EchoBackend(file.recipe)
    made = make_plan(file, backend)
    report = run_plan(made, backend)
    chosen = report["stages"]["1-sft"]["figures"]["select"]
    assert chosen["end_step"] == 6, "the first measurement is the best so far, and the second is no better"
    assert (chosen["step"], chosen["value"], chosen["stopped_early"]) == (3, 0.0, True)
    log = [json.loads(line) for line in (made.folder / "1-sft/log.jsonl").read_text().splitlines()]
    assert [(r["step"], r["held_out/f1"]) for r in log] == [(0, 0.0), (3, 0.0), (6, 0.0)]
    assert "held_out.jsonl" in json.loads((made.folder / "1-sft/manifest.json").read_text())["files"]
    page = write_report(made.folder).read_text()
    assert "the state of step 3 is kept: f1 0.000" in page
    assert "Held-out f1" in page


def test_a_stage_that_is_worse_than_its_start_keeps_the_start(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.backends import echo

    test = "evaluate=[{name: test, data: [{path: train.jsonl, max_rows: 3}]}]"
    file = load_recipe(recipe, ["stages.0.validation=0", "stages.1.select={every: 2}", test])
    backend = EchoBackend(file.recipe)
    made = make_plan(file, backend)
    sampler, evaluated = EchoBackend.sampler, list[Path | None]()
    monkeypatch.setattr(EchoBackend, "sampler", lambda _, adapter: evaluated.append(adapter) or sampler(adapter))
    answering = echo.EchoSampler
    asked: list[object] = []

    def knows_the_start_only(known: dict) -> object:
        asked.append(known)
        return answering(known if len(asked) == 1 else {})

    monkeypatch.setattr(echo, "EchoSampler", knows_the_start_only)
    run_plan(made, backend)
    manifest = json.loads((made.folder / "2-grpo/manifest.json").read_text())
    assert manifest["figures"]["select"]["kept"] == "start"
    assert (made.folder / "2-grpo/adapter_model.safetensors").read_bytes() == (
        made.folder / "1-sft/adapter_model.safetensors"
    ).read_bytes()
    assert "no trained state is kept" in write_report(made.folder).read_text()
    assert [adapter and adapter.name for adapter in evaluated] == [None, "1-sft"], "weights are asked once"
    figures = json.loads((made.folder / "report.json").read_text())["sets"]["test"]
    assert figures["2-grpo"]["metrics"] == figures["1-sft"]["metrics"]
