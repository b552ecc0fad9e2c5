"""The student beside its teachers: figures, what it was trained on, and prompts that are left out."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from student import COMPARED, ECHO, run_all
from tiny import ie_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend, EchoSampler
from adapters.cli.main import app
from adapters.files import read_json, read_jsonl
from adapters.pipeline import starting
from adapters.pipeline.run_folder import RunFolder, pairs
from adapters.publish import provenance
from adapters.publish.finished_run import Finished
from adapters.report.pipeline import steps
from adapters.tasks.ie import IeTask


@pytest.mark.slow
def test_the_student_stands_beside_all_teachers(recipe: Path) -> None:
    run = run_all(recipe)
    report = read_json(run / "report.json")
    assert list(report["sets"]["bio"]) == ["base", "teacher-bio", "teacher-news", "1-distill"]
    modes = {model: figures["metrics"] for model, figures in report["sets"]["bio"].items()}
    f1 = {model: next(iter(next(iter(fields.values())).values()))["f1"] for model, fields in modes.items()}
    assert f1["teacher-bio"] == f1["1-distill"] == 1
    assert f1["teacher-news"] < 1
    taught = read_json(run / "1-distill" / "manifest.json")["teachers"]
    assert {d: (t["name"], t["rows"]) for d, t in taught.items()} == {
        "bio": ("bio/1-sft", 20),
        "news": ("news/1-sft", 12),
    }
    assert taught["bio"]["data"] == [{"source": "bio", "license": "cc-by-nc-4.0", "generated": False}]
    opened = RunFolder.open(run)
    sources = provenance.training_sources(Finished(opened, opened.recipe_file(), IeTask(), opened.stages, {}))
    used = [(s["license"], s["origin"], s["stages"]) for s in sources if s["source"] == "bio"]
    taught_by = ("cc-by-nc-4.0", "of `bio/1-sft`", ["1-distill (teacher bio)"])
    assert used == [(None, "file `bio.jsonl`", ["1-distill"]), taught_by], "one name may be of two files"
    assert any("allows no commercial use" in note for note in provenance.license_notes(sources))
    page = (run / "report.html").read_text()
    assert "teacher-bio" in page
    write_jsonl(recipe.parent / "new.jsonl", ie_rows(5, "x"))
    asked = ["eval", str(run), "--data", "new.jsonl", "--compare", "runs/news", "--json"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    [models] = json.loads(done.stdout)["sets"].values()
    assert list(models) == ["base", "teacher-bio", "teacher-news", "news.1-sft", "1-distill"]
    [models] = RunFolder.open(run).other_sets.values()
    assert [(one.model, other.model) for one, other in pairs(models)] == [*COMPARED, ("news.1-sft", "1-distill")]


def measured(run: Path, test: str, model: str) -> str:
    return str(read_json(run / "eval" / model / test / "metrics.json")["key"])


@pytest.mark.slow
def test_a_compared_adapter_takes_no_other_models_place(recipe: Path) -> None:
    run = run_all(recipe)
    others = [recipe.parent / "cmp" / name for name in ("base", "teacher-bio", "1-distill")]
    for other in others:
        shutil.copytree(recipe.parent / "runs" / "news" / "1-sft", other)
    names = ("base", "teacher-bio", "1-distill")
    before = [measured(run, "bio", model) for model in names]
    compare = [word for other in others for word in ("--compare", str(other))]
    done = CliRunner().invoke(app, ["eval", str(run), *compare, "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["sets"]["bio"])[-4:] == [f"compared-{name}" for name in names] + ["1-distill"]
    assert [measured(run, "bio", model) for model in names] == before
    shown = CliRunner().invoke(app, ["eval", str(run), *compare], env={"COLUMNS": "200"}).output
    assert "best teacher" in shown
    assert "each teacher, and the student: F1" in shown
    assert re.search(r"test set +field +bio +news +1-distill", shown)
    assert all(f"compared-{name}" in shown for name in names), "what was asked for is shown"


@pytest.mark.slow
def test_teachers_are_measured_where_and_as_they_were(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_all(recipe)
    write_jsonl(recipe.parent / "new.jsonl", ie_rows(5, "x"))
    (recipe.parent / "elsewhere").mkdir()
    monkeypatch.chdir(recipe.parent / "elsewhere")
    asked = ["eval", str(run), "--data", "../new.jsonl", "--json"]
    [models] = json.loads(CliRunner().invoke(app, asked).stdout)["sets"].values()
    assert list(models) == ["base", "teacher-bio", "teacher-news", "1-distill"]
    before = measured(run, "bio", "teacher-bio")
    again = ["stages=[{kind: sft, data: [news.jsonl], learning_rate: 1e-3, validation: 0}]", "name=bio", "--fresh"]
    monkeypatch.chdir(recipe.parent)
    assert CliRunner().invoke(app, ["run", str(recipe), *ECHO[:2], *again]).exit_code == 0
    shutil.rmtree(recipe.parent / "runs" / "news")
    done = CliRunner().invoke(app, ["eval", str(run)])
    assert done.exit_code == 0, done.output
    assert "the teacher 'bio' is not measured" in done.output
    assert "holds other weights now" in done.output
    assert "1-sft is gone" in done.output.replace("\n", "")
    assert measured(run, "bio", "teacher-bio") == before


@pytest.mark.slow
def test_what_a_finished_student_is_shown_with_is_the_recipes(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = EchoBackend.train
    ends = {"coverage_last": 0.4, "coverage/bio_last": 0.45, "coverage/news_last": 0.35}
    monkeypatch.setattr(EchoBackend, "train", lambda *args: {**real(*args), **ends})
    run = run_all(recipe)
    seen = "the loss does not see the student's other tokens; raise top_k"
    beside = ["teacher-bio", "teacher-news"]
    for override, low, teachers in (
        ("stages.0.top_k=64", f"bio 45%, news 35%: {seen}", beside),
        ("stages.0.min_coverage=0.4", f"news 35%: {seen}", beside),
        ("stages.0.evaluate_teachers=false", f"bio 45%, news 35%: {seen}", []),
        ("stages.0.min_coverage=0.3", None, beside),
    ):
        done = CliRunner().invoke(app, ["run", str(recipe), *ECHO, override])
        assert done.exit_code == 0, done.output
        assert dict(steps(RunFolder.open(run))[0].figures).get("low coverage") == low
        asked = CliRunner().invoke(app, ["eval", str(run), "--json"])
        assert list(json.loads(asked.stdout)["sets"]["bio"]) == ["base", *teachers, "1-distill"]


@pytest.mark.slow
def test_a_student_of_a_student_names_all_data(recipe: Path) -> None:
    run_all(recipe)
    sft = "stages=[{kind: sft, data: [{path: news.jsonl, license: mit}], learning_rate: 1e-4, validation: 0}]"
    done = CliRunner().invoke(app, ["run", str(recipe), "name=more", "start=runs/student", sft, *ECHO[:2]])
    assert done.exit_code == 0, done.output
    opened = RunFolder.open(recipe.parent / "runs" / "more")
    sources = provenance.training_sources(Finished(opened, opened.recipe_file(), IeTask(), opened.stages, {}))
    assert {(s["source"], s["license"]) for s in sources} >= {("bio", "cc-by-nc-4.0"), ("news", "mit")}
    assert starting.history(recipe.parent / "runs" / "more" / "1-sft")[-1]["stage"] == "1-sft"


@pytest.mark.slow
def test_what_an_adapter_without_its_run_was_trained_on_is_said_to_be_unknown(recipe: Path) -> None:
    run_all(recipe)
    student = shutil.copytree(recipe.parent / "runs" / "student" / "1-distill", recipe.parent / "copied")
    [told] = starting.history(student)
    assert (told["run"], told["kind"]) == (None, "distill")
    assert {entry["source"] for entry in told["data"]} == {"bio", "news"}, "its own rows and its teachers'"
    manifest = read_json(student / "manifest.json")
    (student / "manifest.json").write_text(json.dumps({**manifest, "start": "1-sft"}))
    assert [entry["source"] for entry in starting.history(student)[0]["data"]] == ["unknown data"]
    (student / "manifest.json").unlink()
    assert [stage["data"] for stage in starting.history(student)] == [[{"source": "unknown data"}]]
    sft = "stages=[{kind: sft, data: [{path: news.jsonl, license: mit}], learning_rate: 1e-4, validation: 0}]"
    done = CliRunner().invoke(app, ["run", str(recipe), "name=more", "start=copied", sft, *ECHO[:2]])
    assert done.exit_code == 0, done.output
    opened = RunFolder.open(recipe.parent / "runs" / "more")
    sources = provenance.training_sources(Finished(opened, opened.recipe_file(), IeTask(), opened.stages, {}))
    assert provenance.license_notes(sources) == [
        "The licence of `unknown data` is not stated: find out before you publish the adapter."
    ]


@pytest.mark.slow
def test_over_seeds_the_student_is_compared_with_each_teacher(recipe: Path) -> None:
    run_all(recipe, "--seeds", "1", "2")
    changes = read_json(recipe.parent / "runs" / "student-seed2" / "seeds.json")["changes"]
    assert list(dict.fromkeys((c["before_model"], c["model"]) for c in changes)) == COMPARED


@pytest.mark.slow
def test_prompts_that_their_teacher_cannot_answer_are_left_out(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = EchoSampler.__call__

    def broken(self: Any, prompts: Any, **options: Any) -> Any:
        return [
            s._replace(text="no JSON") if "Town 3 " in str(p) else s
            for p, s in zip(prompts, real(self, prompts, **options), strict=True)
        ]

    monkeypatch.setattr(EchoSampler, "__call__", broken)
    run = run_all(recipe, "stages.0.skip_unreadable=true", "stages.0.max_steps=10")
    figures = read_json(run / "1-distill" / "manifest.json")["figures"]["unreadable"]
    assert (figures["bio"], figures["news"]) == (1, 1)
    told = "prompts that their teacher cannot answer, left out: bio 1 of 20, news 1 of 12"
    assert dict(steps(RunFolder.open(run))[0].figures)["prompts"] == figures["text"] == told
    answers = list(read_jsonl(run / "1-distill" / "teacher_answers.jsonl"))
    assert len(answers) == 32
    assert sum(not line["readable"] for line in answers) == 2
    shutil.rmtree(run)
    run_all(recipe, "stages.0.skip_unreadable=true", "stages.0.max_steps=2")
    answers = read_jsonl(run / "1-distill" / "teacher_answers.jsonl")
    assert Counter(line["domain"] for line in answers) == {"bio": 4, "news": 4}, "no more than two steps draw"
    assert read_json(run / "1-distill" / "manifest.json")["steps"] == 2


@pytest.mark.slow
def test_a_stopped_run_asks_no_teacher_again(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real, asked = run_all(recipe).parent / "stopped", EchoBackend.sampler, list[str]()

    def sampler(adapter: Path) -> Any:
        asked.append(adapter.parent.name)
        return real(adapter)

    monkeypatch.setattr(EchoBackend, "sampler", staticmethod(sampler))
    command = ["run", str(recipe), *ECHO, "name=stopped", "evaluate=[]", "stages.0.skip_unreadable=true"]
    with monkeypatch.context() as stopping:
        stopping.setattr(EchoBackend, "train", lambda *args: 1 / 0)
        for now in (["bio", "news"], []):
            asked.clear()
            assert CliRunner().invoke(app, command).exit_code == 1
            assert asked == now
    answers = folder / "1-distill.partial" / "teacher_answers.jsonl"
    *kept, last = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join([*kept, last[:20]]))
    assert CliRunner().invoke(app, command).exit_code == 0
    assert asked == ["news"], "the one whose answers are not whole"
    assert (folder / "1-distill" / answers.name).read_text() == "".join([*kept, last])
