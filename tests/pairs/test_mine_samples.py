"""Preference pairs from the output of `adapters sample`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_extract import echo_adapter
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.files import manifest_path, read_json, read_jsonl, write_json
from adapters.tasks.funding import FundingTask

TASK = FundingTask(target="compact")


def mine(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["pairs", "mine", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Samples of four rows, as `adapters sample` writes them; the greedy answer finds everything, the other nothing."""
    rows = write_jsonl(tmp_path / "rows.jsonl", funding_rows(4))
    out = tmp_path / "samples.jsonl"
    adapter = echo_adapter(tmp_path / "adapter", funding_rows(4))
    done = CliRunner().invoke(app, ["sample", str(adapter), str(rows), "-k", "1", "-o", str(out)])
    assert done.exit_code == 0, done.output
    lines = read_jsonl(out)
    for line in lines[1::2]:
        line |= {"completion": "[]", "reward": 0.25}
    write_jsonl(out, [*lines, {"row": 5, "id": "r0", "completion": None, "error": "too long: 9"}])
    return out


def test_samples_bring_rows_task_and_rewards_along(tmp_path: Path, samples: Path) -> None:
    code, said, error = mine(samples, "-o", tmp_path / "p.jsonl", "--json")
    assert code == 0, error
    pairs = read_jsonl(tmp_path / "p.jsonl")
    assert [p["id"] for p in pairs] == ["r0", "r1", "r2", "r3"]
    assert {(p["meta"]["chosen_score"], p["meta"]["rejected_score"]) for p in pairs} == {(1.0, 0.25)}
    assert pairs[0]["prompt"] == list(TASK.example(funding_rows(1)[0]).prompt)
    assert json.loads(said)["pairs"] == 4
    assert mine(samples, "-o", tmp_path / "none.jsonl", "--margin", 0.8)[0] == 3, "the margin is of the stored rewards"


def test_a_given_reward_scores_them_anew(tmp_path: Path, samples: Path) -> None:
    given = [samples, "-o", tmp_path / "p.jsonl", "--reward", "funding"]
    code, _, error = mine(*given, "--reward-set", "mode=strict")
    assert code == 0, error
    assert {p["meta"]["rejected_score"] for p in read_jsonl(tmp_path / "p.jsonl")} == {0.0}
    code, _, error = mine(*given, "--reward-set", "mod=strict")
    assert (code, "no parameter 'mod'" in error) == (2, True)
    code, _, error = mine(samples, "-o", tmp_path / "p.jsonl", "--reward-set", "mode=strict")
    assert (code, "--reward-set needs a --reward" in error) == (2, True)


def test_rows_that_changed_or_moved(tmp_path: Path, samples: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    moved = rows.rename(tmp_path / "moved.jsonl")
    code, _, error = mine(samples, "-o", tmp_path / "p.jsonl")
    assert (code, "rows.jsonl" in error) == (2, True)
    assert mine(samples, "-o", tmp_path / "p.jsonl", "--rows", moved)[0] == 0
    write_jsonl(rows, funding_rows(5))
    code, _, error = mine(samples, "-o", tmp_path / "p.jsonl")
    assert code == 2
    assert "was not drawn from" in error


def test_samples_of_another_origin_are_graded(tmp_path: Path, samples: Path) -> None:
    manifest_path(samples).unlink()
    assert "add --rows FILE" in mine(samples, "-o", tmp_path / "p.jsonl")[2]
    code, _, error = mine(samples, "--rows", tmp_path / "rows.jsonl", "-o", tmp_path / "p.jsonl")
    assert code == 0, error
    assert {p["meta"]["rejected_score"] for p in read_jsonl(tmp_path / "p.jsonl")} == {0.0}
    write_json(manifest_path(samples), {**read_json(tmp_path / "none"), "settings": {}})
    assert "add --rows FILE" in mine(samples, "-o", tmp_path / "p.jsonl")[2]
