"""Plans of a distillation: what must hold of teachers, domains and prompts, and what decides the student's weights."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny import ie_rows, save_adapter, write_jsonl
from typer.testing import CliRunner

from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.data.examples import clean_prompt, domain_of
from adapters.errors import UserError
from adapters.files import read_json, read_jsonl
from adapters.pipeline import starting
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run_folder import RunFolder, pairs
from adapters.publish import provenance
from adapters.publish.finished_run import Finished
from adapters.recipe.load import load_recipe
from adapters.tasks.ie import IeTask

RECIPE = """name: student
task: {use: ie, target: compact, missing_answer: whole}
model: {base: SOME/base}
lora: {rank: 4, alpha: 8}
run_dir: RUNS
stages:
  - kind: distill
    data:
      - {path: bio.jsonl, domain: bio}
      - {path: news.jsonl, domain: news}
    teachers: {bio: teachers/bio, news: teachers/news}
    batch_size: 4
    max_steps: 3
    learning_rate: 1e-3
"""


def teacher(folder: Path, **config: Any) -> Path:
    return save_adapter(folder, **{"base": "SOME/base", **config})


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "bio.jsonl", ie_rows(20, "b"))
    write_jsonl(tmp_path / "news.jsonl", ie_rows(12, "n"))
    for value, name in enumerate(("bio", "news"), 1):
        teacher(tmp_path / "teachers" / name, value=float(value))
    (tmp_path / "student.yaml").write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    return tmp_path / "student.yaml"


def plan(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


def test_a_number_names_a_domain_too(recipe: Path) -> None:
    rows = [{**row, "domain": 7} for row in ie_rows(12, "n")]
    write_jsonl(recipe.parent / "news.jsonl", rows)
    job = plan(recipe, "stages.0.data.1={path: news.jsonl}", "stages.0.teachers={bio: teachers/bio, 7: teachers/news}")
    assert Counter(domain_of(e) for e in job.jobs[0].examples) == {"bio": 20, "7": 12}
    assert plan(recipe, "stages.0.data.0.domain=7", "stages.0.data.1.domain=7", "stages.0.teachers={7: teachers/bio}")
    write_jsonl(recipe.parent / "news.jsonl", [{**row, "domain": ["news"]} for row in rows])
    with pytest.raises(UserError, match="domain must be text or a whole number, not list"):
        plan(recipe, "stages.0.data.1={path: news.jsonl}")


def test_a_domain_has_one_teacher_in_all_stages(recipe: Path) -> None:
    text = recipe.read_text()
    stage = text[text.index("  - kind: distill") :].replace("bio: teachers/bio", "bio: teachers/news")
    recipe.write_text(text + stage)
    with pytest.raises(UserError, match=r"stages\.0 has another teacher for the domain 'bio'") as raised:
        plan(recipe)
    assert raised.value.at == ("stages", 1, "teachers")
    assert plan(recipe, f"stages.1.teachers.bio={recipe.parent}/teachers/bio").jobs, "one adapter by two paths"


def test_rows_get_the_domain_of_their_source_or_column(recipe: Path) -> None:
    job = plan(recipe).jobs[0]
    assert {e.source: domain_of(e) for e in job.examples} == {"bio": "bio", "news": "news"}
    assert (job.name, job.steps) == ("1-distill", 3)
    rows = [{**row, "domain": "bio" if n % 2 else "news"} for n, row in enumerate(ie_rows(12, "n"))]
    write_jsonl(recipe.parent / "bio.jsonl", rows)
    mixed = plan(recipe, "stages.0.data=[bio.jsonl]").jobs[0]
    assert {domain_of(e) for e in mixed.examples} == {"bio", "news"}
    assert "domain" not in str(mixed.ledger[0]["unread"])


@pytest.mark.parametrize(
    ("overrides", "text", "at"),
    [
        (["stages.0.data.1.domain=law"], r"no teacher for the domain 'law' \(12 rows of news\)", "teachers"),
        (
            ["stages.0.teachers.chem=teachers/bio", "stages.0.batch_size=6"],
            "the teacher 'chem' has no rows",
            "teachers",
        ),
        (
            ["stages.0.data.1={path: news.jsonl}"],
            "'n0' of news .and 11 more rows. has no domain; give the source",
            "data",
        ),
        (["stages.0.batch_size=15"], "15 cannot be shared equally by 2 domains", "batch_size"),
        (["stages.0.data.1.path=same.jsonl"], "row 'b1' of bio and row 'c1' of same have one prompt and two", "data"),
        (
            ["stages.0.teachers.bio=other"],
            "'bio' was trained on Qwen/Qwen3-4B, the recipe's base is SOME/base",
            "teachers",
        ),
        (["stages.0.teachers.bio=whole"], r"'bio' is no plain LoRA adapter \(modules_to_save\)", "teachers"),
        (["stages.0.teachers.bio=nowhere"], "is neither a run folder nor an adapter", "teachers"),
        (["stages.0.teachers.bio=tagger"], r"'bio' is no plain LoRA adapter \(TOKEN_CLS\)", "teachers"),
        (
            ["stages.0.teachers.bio=older", "model.revision=b"],
            "'bio' was trained on revision a of the base, and model.revision is b",
            "teachers",
        ),
        (["stages.0.max_prompt_length=1"], "every row is longer", ""),
    ],
)
def test_what_cannot_be_distilled_is_said_first(recipe: Path, overrides: list[str], text: str, at: str) -> None:
    teacher(recipe.parent / "other", base="Qwen/Qwen3-4B")
    teacher(recipe.parent / "whole", modules_to_save=["lm_head"])
    teacher(recipe.parent / "tagger", task_type="TOKEN_CLS")
    (teacher(recipe.parent / "older") / "manifest.json").write_text('{"model": {"base": "SOME/base", "revision": "a"}}')
    same = ie_rows(20, "b")[1]
    write_jsonl(
        recipe.parent / "same.jsonl", [{**row, "id": f"c{n}"} for n, row in enumerate([*ie_rows(1, "z"), same])]
    )
    with pytest.raises(UserError, match=text) as raised:
        plan(recipe, *overrides)
    assert raised.value.at[:2] == ("stages", 0)
    assert at in raised.value.at or not at


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("stages.0.top_k=1", r"stages.0.top_k: 1 teaches nothing \(both sides are 1\); use 2 or more"),
        ("stages.0.teachers={}", "stages.0.teachers: "),
        ("stages.0.teachers={a/b: x}", "stages.0.teachers"),
        (
            "stages.0.kind=opd",
            "best_of, distill or token_classification, not 'opd'. Did you mean distill?",
        ),
        (
            "stages.0={kind: sft, data: [bio.jsonl], learning_rate: 1e-3, noise: {use: ocr, teacher: clean}}",
            "distill stage",
        ),
        ("stages.0.validation=0.2", "validation of a distill stage holds rows out for select"),
    ],
)
def test_what_a_recipe_cannot_say(recipe: Path, override: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_recipe(recipe, [override])


def test_prompts_need_no_labels(recipe: Path) -> None:
    labelled = {e.id: e.prompt for e in plan(recipe).jobs[0].examples}
    rows = [{key: value for key, value in row.items() if key != "gold"} for row in ie_rows(20, "b")]
    write_jsonl(recipe.parent / "bio.jsonl", rows)
    bare = plan(recipe).jobs[0]
    assert not bare.rejected
    assert {e.id: e.prompt for e in bare.examples} == labelled
    assert {e.gold is None for e in bare.examples if e.source == "bio"} == {True}
    write_jsonl(recipe.parent / "bio.jsonl", [{"id": "x", "schema": ["person"]}])
    with pytest.raises(UserError, match="cannot be used"):
        plan(recipe)


def test_one_teacher_alone_is_noted(recipe: Path) -> None:
    alone = ["stages.0.data=[{path: bio.jsonl, domain: bio}]", "stages.0.teachers={bio: teachers/bio}"]
    assert any("one teacher alone" in note for note in plan(recipe, *alone).notes)


def test_a_retrained_teacher_trains_the_student_again(recipe: Path) -> None:
    first = plan(recipe).jobs[0].fingerprint
    teacher(recipe.parent / "elsewhere")
    assert plan(recipe, "stages.0.teachers.bio=elsewhere").jobs[0].fingerprint == first, "the weights are the same"
    for other in ("stages.0.min_coverage=0.1", "name=other"):
        assert plan(recipe, other).jobs[0].fingerprint == first
    assert plan(recipe, "stages.0.top_k=8").jobs[0].fingerprint != first
    swapped = ["stages.0.data.0.domain=news", "stages.0.data.1.domain=bio"]
    assert plan(recipe, *swapped).jobs[0].fingerprint != first
    teacher(recipe.parent / "teachers" / "bio", value=2.0)
    assert plan(recipe).jobs[0].fingerprint != first


def test_teachers_may_read_the_clean_text(recipe: Path) -> None:
    noise = "stages.0.noise={use: ocr, level: heavy, share: 1.0, teacher: TEACHER}"
    clean, same = (plan(recipe, noise.replace("TEACHER", who)).jobs[0] for who in ("clean", "same"))
    plain = {e.id: e.prompt for e in plan(recipe).jobs[0].examples}
    assert [e.prompt for e in clean.examples] == [e.prompt for e in same.examples], "the student reads the same"
    assert all(clean_prompt(e) == plain[e.id] and domain_of(e) in ("bio", "news") for e in clean.examples)
    assert any(clean_prompt(e) != e.prompt for e in clean.examples)
    assert all(clean_prompt(e) == e.prompt for e in same.examples)
    assert clean.fingerprint != same.fingerprint


ECHO = [
    "trainer=echo",
    "evaluate=[{name: bio, data: [bio.jsonl]}, {name: news, data: [news.jsonl]}]",
    "stages.0.teachers={bio: runs/bio, news: runs/news}",
]

COMPARED = [("base", "1-distill"), ("teacher-bio", "1-distill"), ("teacher-news", "1-distill")]


def run_all(recipe: Path, *more: str) -> Path:
    """Two teachers by SFT, each on its own rows, then the student of both; no model."""
    for name in ("bio", "news"):
        data = f"[{{path: {name}.jsonl, license: cc-by-nc-4.0}}]"
        sft = f"stages=[{{kind: sft, data: {data}, learning_rate: 1e-4, validation: 0}}]"
        done = CliRunner().invoke(app, ["run", str(recipe), f"name={name}", sft, *ECHO[:2]])
        assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["run", str(recipe), *ECHO, *more])
    assert done.exit_code == 0, done.output
    return recipe.parent / "runs" / "student"


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
    assert all(f"compared-{name}" in shown for name in names), "what was asked for is shown"


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


def test_a_student_of_a_student_names_all_data(recipe: Path) -> None:
    run_all(recipe)
    sft = "stages=[{kind: sft, data: [{path: news.jsonl, license: mit}], learning_rate: 1e-4, validation: 0}]"
    done = CliRunner().invoke(app, ["run", str(recipe), "name=more", "start=runs/student", sft, *ECHO[:2]])
    assert done.exit_code == 0, done.output
    opened = RunFolder.open(recipe.parent / "runs" / "more")
    sources = provenance.training_sources(Finished(opened, opened.recipe_file(), IeTask(), opened.stages, {}))
    assert {(s["source"], s["license"]) for s in sources} >= {("bio", "cc-by-nc-4.0"), ("news", "mit")}
    assert starting.history(recipe.parent / "runs" / "more" / "1-sft")[-1]["stage"] == "1-sft"


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


def test_over_seeds_the_student_is_compared_with_each_teacher(recipe: Path) -> None:
    run_all(recipe, "--seeds", "1", "2")
    changes = read_json(recipe.parent / "runs" / "student-seed2" / "seeds.json")["changes"]
    assert list(dict.fromkeys((c["before_model"], c["model"]) for c in changes)) == COMPARED


def test_prompts_that_their_teacher_cannot_answer_are_left_out(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.backends.echo import EchoSampler

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
    assert "bio 1 of 20, news 1 of 12" in figures["text"]
    answers = list(read_jsonl(run / "1-distill" / "teacher_answers.jsonl"))
    assert len(answers) == 32
    assert sum(not line["readable"] for line in answers) == 2
    shutil.rmtree(run)
    run_all(recipe, "stages.0.skip_unreadable=true", "stages.0.max_steps=2")
    answers = read_jsonl(run / "1-distill" / "teacher_answers.jsonl")
    assert Counter(line["domain"] for line in answers) == {"bio": 4, "news": 4}, "no more than two steps draw"
    assert read_json(run / "1-distill" / "manifest.json")["steps"] == 2
