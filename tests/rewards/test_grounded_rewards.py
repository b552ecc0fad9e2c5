"""`grounded: true`: a value that is not in the text never counts as found, in rewards and in metrics."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli import main
from adapters.errors import UserError
from adapters.evaluation.best_of import TaskF1
from adapters.evaluation.score_files import score_files, score_rewards
from adapters.plugins.rewards import NamedReward
from adapters.plugins.task_bench import try_task
from adapters.rewards.funding import Funding
from adapters.rewards.ie import InformationExtraction
from adapters.rewards.records import Records
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask
from adapters.types import counts_of

# The text has the Elm Fund and A-1; the labels say more.
FUNDING = {
    "funding_statement": "Paid by the Elm Fund (A-1).",
    "funders": [
        {"funder_name": "Elm Fund", "awards": [{"award_ids": ["A-1", "A-2"], "funding_scheme": ["Probes"]}]},
        {"funder_name": "Oak Council", "awards": [{"award_ids": ["B-1"], "award_title": ["Acorns"]}]},
    ],
}
IE = {
    "text": "Ada Bell flew .",
    "task": "NER",
    "schema": ["person", "place"],
    "gold": {"person": ["Ada Bell"], "place": ["Oslo"]},
}
RE = {"text": "Ada Bell flew .", "task": "RE", "schema": ["to"], "gold": {"to": [{"head": "Ada Bell", "tail": "Oslo"}]}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "town": {"type": "string"},
        "about": {"type": "string", "x-grounded": False},
        "day": {"type": "string", "format": "date"},
        "kind": {"enum": ["a", "b"]},
        "price": {"type": "number"},
    },
}
OBJECT = {"name": "Ada", "town": "Oslo", "about": "a flight", "day": "2024-05-03", "kind": "b", "price": 3.5}
RECORD = {"text": "Ada, 3 May", "object": OBJECT}


@pytest.mark.parametrize("scorer", ["published", "corrected"])
def test_funding(scorer: Any) -> None:
    plain = FundingTask(scorer=scorer)
    task = replace(plain, grounded=True)
    example = task.example(FUNDING)
    answer = example.completion or ""
    for mode, fields in counts_of(task, example, answer).items():
        assert fields == {"funder": (2, 2, 1), "award_id": (3, 3, 1), "scheme": (1, 1, 0), "title": (1, 1, 0)}, mode
        assert all(c.gold == c.pred == c.matched for c in counts_of(plain, example, answer)[mode].values())
    scored = Funding(scorer=scorer, grounded=True)(answer, example)
    assert scored.parts["funder"] == pytest.approx(0.5)
    assert scored.parts["hierarchical"] == scored.parts["flat"] == pytest.approx(1 / 3)
    assert scored.parts["id_ratio"] == 1
    assert Funding(scorer=scorer)(answer, example).score == 1
    right = json.dumps([{"funder_name": "ELM\nFund", "awards": [{"award_ids": ["A\u20111"]}]}])
    assert counts_of(task, example, right)["permissive"] == counts_of(plain, example, right)["permissive"]
    assert "in the text only" in Funding(grounded=True).formula()


def test_funding_shows_what_was_said() -> None:
    task = FundingTask(grounded=True)
    example = task.example(FUNDING)
    rows = task.align(example.gold, example.completion or "", example.meta["text"])
    assert [(row.field, row.gold, row.pred) for row in rows if row.matched] == [
        ("funder", "Elm Fund", "Elm Fund"), ("award_id", "A-1", "A-1")
    ]  # fmt: skip
    assert {row.pred for row in rows if row.gold is None} == {"A-2", "Probes", "Oak Council", "B-1", "Acorns"}
    unsure = task.example({**FUNDING, "uncertain": ["funders.1.funder_name", "funders.0.awards.0.award_ids.1"]})
    found = counts_of(task, unsure, unsure.completion or "")["balanced"]
    assert (found["funder"], found["award_id"]) == ((1, 1, 1), (1, 1, 1)), "uncertain values are left out first"
    assert Funding(grounded=True)(unsure.completion or "", unsure).score == 1


@pytest.mark.parametrize(("row", "kind", "found"), [(IE, "entity", (2, 2, 1)), (RE, "relation", (1, 1, 0))])
def test_ie(row: dict[str, Any], kind: str, found: tuple[int, ...]) -> None:
    task = IeTask(grounded=True)
    example = task.example(row)
    answer = example.completion or ""
    counts = counts_of(task, example, answer)
    assert counts["labelled"][kind] == counts["unlabelled"][kind] == found
    rows = task.align(example.gold, answer, example.meta["text"])
    assert sum(row.matched for row in rows) == found[2]
    for typed in (True, False):
        assert InformationExtraction(grounded=True, typed=typed)(answer, example).parts["f1"] == found[2] / found[0]
    assert InformationExtraction()(answer, example).parts["f1"] == 1


def test_records() -> None:
    task = RecordsTask(schema=SCHEMA, grounded=True)
    example = task.example(RECORD)
    answer = example.completion or ""
    counts = counts_of(task, example, answer)
    assert counts["values"]["(all)"] == (6, 6, 5)
    assert counts["values"]["town"] == (1, 1, 0), "the others are in the text, or no quotation"
    assert counts["objects"]["object"] == (1, 1, 0)
    assert [row.field for row in task.align(example.gold, answer, example.meta["text"]) if not row.matched] == ["town"]
    assert Records(grounded=True)(answer, example).score == pytest.approx(5 / 6)
    assert Records()(answer, example).score == 1


CASES = [
    (Funding, FundingTask, FUNDING),
    (InformationExtraction, IeTask, IE),
    (Records, lambda **given: RecordsTask(schema=SCHEMA, **given), RECORD),
]


@pytest.mark.parametrize(("reward", "task", "row"), CASES)
def test_a_row_without_text_is_said(reward: Any, task: Any, row: dict[str, Any]) -> None:
    example = task().example(row)
    bare = replace(example, meta={k: v for k, v in example.meta.items() if k != "text"})
    with pytest.raises(ValueError, match="grounded: true looks values up in the text of the row"):
        reward(grounded=True)(example.completion, bare)
    with pytest.raises(ValueError, match="this row has none"):
        counts_of(task(grounded=True), bare, example.completion)
    with pytest.raises(ValueError, match="grounded must be true or false"):
        reward(grounded="yes")


@pytest.mark.parametrize(("reward", "task", "row"), CASES)
def test_plain_methods_and_the_bench_take_it(reward: Any, task: Any, row: dict[str, Any]) -> None:
    grounded = task(grounded=True)
    example = grounded.example(row)
    assert TaskF1(grounded)(example.completion, example).score < TaskF1(task())(example.completion, example).score == 1
    assert try_task(grounded, "grounded", [(row, example)]).errors == []


def test_files(tmp_path: Path) -> None:
    answer = FundingTask().example(FUNDING).completion
    write_jsonl(tmp_path / "gold.jsonl", [{"id": "a", **FUNDING}, {"id": "b", **FUNDING}])
    write_jsonl(tmp_path / "answers.jsonl", [{"id": name, "completion": answer} for name in "abz"])
    files = tmp_path / "answers.jsonl", tmp_path / "gold.jsonl"
    figures, _ = score_files(*files, params={"grounded": True})
    assert (figures["strict"]["funder"]["matched"], figures["strict"]["funder"]["pred"]) == (2, 6)
    write_jsonl(tmp_path / "gold.jsonl", [{"id": "a", "funders": FUNDING["funders"]}])
    with pytest.raises(UserError, match=r"gold.jsonl, line 1: grounded=true looks values up in funding_statement"):
        score_files(*files, params={"grounded": True})
    write_jsonl(tmp_path / "rows.jsonl", [{"id": "a", "completion": answer, "funders": FUNDING["funders"]}])
    with pytest.raises(UserError, match="this row has none"):
        list(score_rewards(NamedReward("funding", Funding(grounded=True)), tmp_path / "rows.jsonl", task="funding"))
    said = CliRunner().invoke(main.app, ["score", *map(str, files), "--set", "grounded=true"])
    assert said.exit_code == 2
    assert "the row has none" in " ".join(said.output.split())
