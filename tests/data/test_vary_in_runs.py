"""`vary:` in a stage: the task asks for its rows in another way, new in every epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import ie_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.data.load import load_examples
from adapters.errors import UserError
from adapters.pipeline.fingerprint import fingerprinted_settings
from adapters.pipeline.plan import Plan, make_plan
from adapters.recipe.fields import PathSource
from adapters.recipe.load import load_recipe
from adapters.tasks.ie import IeTask

RECIPE = """name: varied
task: {use: ie, target: compact, missing_answer: whole, descriptions: {person: people by name}}
model: {base: none}
trainer: echo
stages:
  - kind: sft
    data: [{path: train.jsonl, repeat: 2}]
    vary: 0.5
    epochs: 2
    learning_rate: 1e-4
    validation: 0
  - kind: grpo
    data: [{path: train.jsonl}]
    vary: 1.0
    learning_rate: 1e-5
    rewards: [{use: ie, missing_answer: whole}]
evaluate:
  - {name: test, data: [test.jsonl]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", ie_rows(40))
    write_jsonl(tmp_path / "test.jsonl", ie_rows(10, "t"))
    (tmp_path / "varied.yaml").write_text(RECIPE)
    return tmp_path / "varied.yaml"


def make(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


@pytest.mark.slow
def test_every_epoch_and_repeat_asks_in_its_own_way(path: Path) -> None:
    plan = make(path)
    sft, grpo = plan.jobs
    assert (len(sft.examples), len(grpo.examples)) == (160, 40)
    assert 50 < sft.ledger[0]["varied"] < 110
    assert grpo.ledger[0]["varied"] == 40
    prompts = {e.prompt[-1]["content"] for e in sft.examples}
    assert len(prompts) > 80
    for example in (*sft.examples, *grpo.examples):
        found = plan.task.counts(example.gold, example.completion or "")["labelled"]
        assert all(count.gold == count.pred == count.matched for count in found.values())
    tests = plan.evaluations[0].examples
    assert all(list(example.gold) == ["person", "place", "thing"] for example in tests), "as they are"
    again, other = make(path), make(path, "seed=7")
    assert [job.fingerprint for job in plan.jobs] == [job.fingerprint for job in again.jobs]
    assert sft.examples != other.jobs[0].examples


def test_a_stage_without_it_is_what_it_was(path: Path) -> None:
    (sft, _) = make(path, "stages.0.vary=0").jobs
    assert len(sft.examples) == 80
    assert "varied" not in sft.ledger[0]
    assert "vary" not in fingerprinted_settings(sft.stage)


def test_a_task_that_asks_in_one_way_only_is_refused(path: Path) -> None:
    turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]
    write_jsonl(path.parent / "train.jsonl", [{"id": str(n), "messages": turns} for n in range(20)])
    with pytest.raises(UserError, match="asks for its rows in one way only") as error:
        make(path, "task=chat", "evaluate=[]", "stages.1.rewards=[chat]")
    assert error.value.at == ("stages", 0, "vary")


def test_a_variation_that_fails_is_said_in_a_sentence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.tasks.ie.vary", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match="the task ie: vary fails on the labels of row 'r0': ZeroDivisionError"):
        make(path)
    with pytest.raises(UserError, match="the task IeTask: vary fails on row 'r0': ZeroDivisionError"):
        load_examples([PathSource(path="train.jsonl")], IeTask(), root=path.parent, seed=1, vary=1.0)
