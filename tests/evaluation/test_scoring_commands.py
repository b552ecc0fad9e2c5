"""`adapters score` and `adapters rewards score`: files in, figures out, no model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app

runner = CliRunner()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rows = funding_rows(10)
    answers = [{"id": row["id"], "completion": json.dumps(row["funders"])} for row in rows[:8]]
    answers[0]["completion"] = "sorry, no"
    return write_jsonl(tmp_path / "pred.jsonl", answers), write_jsonl(tmp_path / "gold.jsonl", rows)


def score(*arguments: object) -> dict:
    result = runner.invoke(app, ["score", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_published_scorer_leaves_out_what_the_corrected_one_counts_as_missed(files: tuple[Path, Path]) -> None:
    published, corrected = score(*files), score(*files, "--scorer", "corrected")
    assert score(*files, "--reading", "fixed") == score(*files, "--set", "scorer=corrected") == corrected
    assert score(*files, "--scorer", "published") == score(*files, "--reading=compatible") == published
    assert set(published) == {"permissive", "balanced", "strict"}
    assert set(published["strict"]) == {"funder", "award_id", "scheme", "title"}
    assert published["strict"]["funder"] == {
        "gold": 7, "pred": 6, "matched": 6, "precision": 1.0, "recall": 6 / 7,
        "f1": pytest.approx(12 / 13), "f0.5": pytest.approx(1.25 * 6 / 7 / (0.25 + 6 / 7)),
        "f1.5": pytest.approx(3.25 * 6 / 7 / (2.25 + 6 / 7)),
    }  # fmt: skip
    assert corrected["strict"]["funder"]["gold"] == 8, "of the two rows without a prediction one has a funder"
    assert list(score(*files, "--mode", "balanced")) == ["balanced"]


def test_warnings_name_what_does_not_join(files: tuple[Path, Path]) -> None:
    with files[0].open("a") as file:
        file.write(json.dumps({"id": "stranger", "completion": '[{"funder_name": "X"}]'}) + "\n")
    result = runner.invoke(app, ["score", *map(str, files)])
    assert "1 predictions have no gold row (such as 'stranger')" in " ".join(result.stderr.split())
    assert "2 gold rows have no prediction" in " ".join(result.stderr.split())
    assert score(*files)["strict"]["funder"]["pred"] == 7


def test_many_rows_are_scored_from_the_disk(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with files[0].open("a") as file:
        file.write(
            json.dumps({"id": "r3", "completion": "[]"}) + "\n" + json.dumps({"id": "x", "completion": ""}) + "\n"
        )
    in_memory = runner.invoke(app, ["score", *map(str, files)])
    rows = [gold | {"completion": "[]"} for gold in map(json.loads, files[1].read_text().splitlines())]
    graded = runner.invoke(
        app, ["rewards", "score", "funding", str(write_jsonl(files[0].with_name("all.jsonl"), rows))]
    )
    monkeypatch.setattr("adapters.data.on_disk.HELD", 3)
    monkeypatch.setattr("adapters.evaluation.score_files.HELD", 3)
    assert runner.invoke(app, ["score", *map(str, files)]).output == in_memory.output
    assert "1 rows have an id that was there before, such as" in " ".join(in_memory.stderr.split())
    assert (
        runner.invoke(app, ["rewards", "score", "funding", str(files[0].with_name("all.jsonl"))]).output
        == graded.output
    )
    assert graded.stdout.count("\n") == 10


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mode", "corrected"], "use --set scorer=corrected"),
        (["--mode", "balancd"], "Did you mean balanced?"),
        (["--task", "fundin"], "Did you mean funding?"),
        (["--scorer", "loose"], "published or corrected, not 'loose'"),
        (["--set", "scorer=loose"], "'published' or 'corrected'"),
    ],
)
def test_wrong_options(files: tuple[Path, Path], arguments: list[str], text: str) -> None:
    result = runner.invoke(app, ["score", *map(str, files), *arguments])
    assert result.exit_code == 2
    assert text in result.stderr


def test_wrong_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"id": "r0", "completion": ["a"]}])
    for arguments, text in (
        ([tmp_path / "nope.jsonl", files[1]], "no file"),
        ([bad, files[1]], "line 1: completion must be the model's raw text"),
        ([files[1], files[0]], "line 1"),
    ):
        result = runner.invoke(app, ["score", *map(str, arguments)])
        assert result.exit_code == 2
        assert text in result.stderr
        assert "Traceback" not in result.stderr
        assert "data_root" not in result.stderr, "this command has no such key"


def test_rewards_score(tmp_path: Path) -> None:
    rows = funding_rows(6)
    rows = [{**row, "completion": json.dumps(row["funders"])} for row in rows]
    rows[1]["completion"] = "[]"
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = runner.invoke(app, ["rewards", "score", "funding", str(path), "-o", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 0, result.output
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in out] == [1, 0, 1, 1, 1, 1]
    assert {"funder", "hierarchical", "flat"} <= set(out[0]["parts"])
    assert "mean 0.8333 over 6 rows" in result.stderr


def test_gold_without_its_text_scores_all_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "funding_statement"} for row in funding_rows(10)]
    bare = write_jsonl(tmp_path / "bare.jsonl", rows)
    assert score(files[0], bare) == score(*files)
    completed = write_jsonl(tmp_path / "completed.jsonl", [{**row, "completion": "[]"} for row in rows])
    result = runner.invoke(app, ["rewards", "score", "funding", str(completed)])
    assert [json.loads(line)["reward"] for line in result.stdout.splitlines()].count(1) == 2


def test_rewards_list_and_synthesize(tmp_path: Path) -> None:
    assert "funding" in runner.invoke(app, ["rewards", "list"]).stdout
    lines = runner.invoke(app, ["synthesize", "funding", "-n", "3", "--seed", "5"]).stdout.splitlines()
    assert len(lines) == 3
    assert json.loads(lines[0])["funding_statement"]
    assert runner.invoke(app, ["synthesize", "fundin"]).exit_code == 2


def test_new_copies_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runner.invoke(app, ["new", "mine", "--from", "quickstart"]).exit_code == 0
    assert "\nname: mine\n" in (tmp_path / "mine.yaml").read_text()
    again = runner.invoke(app, ["new", "mine"])
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert "Did you mean quickstart" in runner.invoke(app, ["new", "x", "--from", "quickstat"]).stderr


def test_a_test_set_with_nothing_to_find_has_no_figures(tmp_path: Path) -> None:
    gold = write_jsonl(tmp_path / "gold.jsonl", [{"id": n, "funders": []} for n in range(4)])
    texts = ["[]", "dunno", '[{"funder_name": "A"}]', "[]"]
    answers = write_jsonl(tmp_path / "pred.jsonl", [{"id": n, "completion": text} for n, text in enumerate(texts)])
    result = runner.invoke(app, ["score", str(answers), str(gold)])
    said = "nothing to find in 4 rows; 2 answers say so, 1 claim something, 1 are unreadable"
    assert said in " ".join(result.output.split())
    figures = score(answers, gold)["strict"]
    assert {k: figures["funder"][k] for k in ("gold", "pred", "precision", "recall", "f1")} == {
        "gold": 0, "pred": 1, "precision": 0.0, "recall": None, "f1": 0.0,
    }  # fmt: skip
    assert [figures["award_id"][k] for k in ("precision", "recall", "f1", "f0.5", "f1.5")] == [None] * 5


def test_unreadable_answers_are_counted(files: tuple[Path, Path]) -> None:
    assert "1 of 8 answers are unreadable" in " ".join(runner.invoke(app, ["score", *map(str, files)]).stderr.split())


def test_a_parameter_of_another_type_is_named(files: tuple[Path, Path]) -> None:
    done = runner.invoke(app, ["score", *map(str, files), "--set", "user={statement}"])
    assert (done.exit_code, done.stderr) == (2, "user: input should be a valid string, not {'statement': None}.\n")


def test_answers_in_a_table_score_as_in_json_lines(tmp_path: Path) -> None:
    gold = write_jsonl(
        tmp_path / "gold.jsonl",
        [
            {"id": 1, "funders": [{"funder_name": "A", "awards": [{"award_ids": ["ST-77"]}]}]},
            {"id": 2.0, "funders": []},
        ],
    )
    found = '[{"funder_name": "A", "awards": [{"award_ids": ["ST-77"]}]}]'
    for second in ("no funder is named here", "[]"):
        rows = [{"id": "1", "completion": found}, {"id": "2", "completion": second}]
        write_jsonl(tmp_path / "a.jsonl", rows)
        quoted = found.replace('"', '""')
        (tmp_path / "a.csv").write_text(f'id,completion\n1,"{quoted}"\n2,{second}\n')
        assert score(tmp_path / "a.csv", gold) == score(tmp_path / "a.jsonl", gold)
    assert score(tmp_path / "a.csv", gold)["strict"]["award_id"]["f1"] == 1


@pytest.mark.parametrize("row", [{"id": True, "funders": []}, {"id": [1], "funders": []}, {"id": None, "funders": []}])
def test_an_id_is_text_or_a_whole_number(files: tuple[Path, Path], tmp_path: Path, row: dict) -> None:
    result = runner.invoke(
        app, ["score", str(files[0]), str(write_jsonl(tmp_path / "g.jsonl", [row])), "--task=funding"]
    )
    assert result.exit_code == 2
    assert "line 1: " in result.stderr
