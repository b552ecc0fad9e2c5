"""What the tasks beside funding give to the reward bench, to reports and to cards: rows, wrong answers, alignment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data.load import load_examples
from adapters.data.source_rows import GENERATORS
from adapters.errors import UserError
from adapters.evaluation.alignment import align
from adapters.plugins.reward_bench import try_reward
from adapters.plugins.rewards import NamedReward
from adapters.recipe.fields import SynthesizedSource
from adapters.rewards.agent import Agent
from adapters.rewards.ie import InformationExtraction
from adapters.tasks.agent import AgentTask
from adapters.tasks.ie import IeTask
from adapters.testing import examples
from adapters.types import Aligned

runner = CliRunner()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["funding", "ie", "agent", "records"])
def test_a_shipped_reward_is_tried_without_data(name: str) -> None:
    result = runner.invoke(app, ["rewards", "test", name, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["errors"] == []
    assert found["variants"]["gold"]["mean"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["funding", "ie", "agent", "records"])
def test_a_scaffold_for_any_task_passes_its_own_bench(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["rewards", "new", "mine", "--task", name]).exit_code == 0
    result = runner.invoke(app, ["rewards", "test", "./mine.py:Mine", "--task", name, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["variants"]["gold"]["mean"] == 1


def test_a_task_without_made_up_rows_asks_for_data(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(
        "from adapters.tasks.ie import IeTask\nclass Bare(IeTask):\n  example_rows = ()\n"
    )
    with pytest.raises(UserError, match="--data FILE"):
        examples(f"{tmp_path / 'bare.py'}:Bare")


@pytest.mark.parametrize("target", ["tagged", "bare", "compact"])
def test_wrong_entities_and_relations_earn_less_than_gold(target: str) -> None:
    task = IeTask(target=target, missing_answer="nothing" if target == "tagged" else "whole")  # type: ignore[arg-type]
    reward = InformationExtraction(missing_answer=task.missing_answer)
    tried = set()
    for row in IeTask.example_rows:
        example = task.example(row, id="x")
        best = reward(example.completion or "", example).score
        for name, text in task.adversarial(example).items():
            tried.add(name)
            assert reward(text, example).score < best, (name, text)  # type: ignore[operator]
    assert tried == {"invented item", "one item missing", "wrong label", "ends swapped"}


def test_what_settings_make_equal_is_not_called_wrong() -> None:
    task = IeTask(symmetric=("works for", "located in"))
    example = task.example(IeTask.example_rows[1], id="x")
    assert "ends swapped" not in task.adversarial(example)
    rows = [IeTask().example(row, id=str(n)) for n, row in enumerate(IeTask.example_rows)]
    for reward, name in (
        (InformationExtraction(typed=False), "wrong label"),
        (InformationExtraction(symmetric=("works for", "located in")), "ends swapped"),
    ):
        found = try_reward(NamedReward("ie", reward), rows, IeTask())
        assert found.errors == []
        assert f"it cannot tell from gold, as its `blind_to` says: {name}" in found.warnings


def test_items_are_aligned_as_they_are_counted() -> None:
    task = IeTask()
    gold = IeTask.example_rows[0]["gold"]
    said = task.answer({"person": ["Ada  Bell"], "organization": ["Sample Institutes"], "location": ["Lima", "Turin"]})
    rows = align(task, gold, said)
    assert rows == [
        Aligned("person", "Ada Bell", "Ada Bell", True),
        Aligned("organization", "Sample Institute", "Sample Institutes", False),
        Aligned("location", "Lima", "Lima", True),
        Aligned("location", "Oslo", "Turin", False),
    ]
    counts = task.counts(gold, said)["labelled"]["entity"]
    assert (counts.gold, counts.pred, counts.matched) == (4, 4, sum(r.matched for r in rows))
    relation = IeTask.example_rows[1]["gold"]
    assert align(task, relation, "no answer")[0] == Aligned("works for", "Ada Bell → Sample Institute", None)
    assert align(task, relation, task.answer(relation)) == task.align(relation, task.answer(relation))


@pytest.mark.parametrize("generator", ["agent", "agent_unseen"])
def test_wrong_turns_earn_less_than_the_reference(generator: str) -> None:
    assert generator in GENERATORS
    task = AgentTask()
    rows = load_examples([SynthesizedSource(synthesize=generator, n=30, seed=5)], task, root=Path(), seed=0).examples
    form, listed, action, tried = Agent(), Agent(available=True), Agent(outcome=0.5), set()
    for example in rows:
        assert form(example.completion or "", example).score == 1
        for name, text in task.adversarial(example).items():
            tried.add(name)
            assert action(text, example).score < 1, (name, text)  # type: ignore[operator]
            if name in ("another action", "unavailable action"):
                assert form(text, example).score == 1, "form alone cannot tell"
            assert (listed(text, example).score == 1) == (name == "another action")
    assert tried == {"chatty", "invented observation", "endless thought", "another action", "unavailable action"}


def test_a_turn_beside_the_references() -> None:
    task = AgentTask()
    example = task.example(AgentTask.example_row, id="x")
    good = align(task, example.gold, example.completion or "")
    assert [r.field for r in good] == ["kind", "action"]
    assert all(r.matched for r in good)
    bad = align(task, example.gold, "Certainly! Action: Answer\nFinal Answer: 3")
    assert bad[0] == Aligned("kind", "operate", "answer", False)
    assert Aligned("fails", None, "no filler") in bad
    garbage = align(task, example.gold, "]]}")
    assert [(r.field, r.gold) for r in garbage if r.gold] == [(r.field, r.gold) for r in good], "one order of gold"
