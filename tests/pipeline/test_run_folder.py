"""The reader of a run folder: the order of stages, test sets of the recipe and others, old and damaged files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.extraction import adapter_source
from adapters.files import sha256, write_json
from adapters.pairs import mine
from adapters.pipeline import run as running
from adapters.pipeline.run_folder import RunFolder, given_name
from adapters.publish import finished_run
from adapters.report import write_report

# Eleven stages: as texts, 9-sft comes after 11-grpo, and 11-grpo before 2-grpo.
KINDS = ["sft", "grpo", *["sft"] * 8, "grpo"]
NAMES = [f"{n}-{kind}" for n, kind in enumerate(KINDS, 1)]
SFT = "{kind: sft, data: [{path: train.jsonl}], learning_rate: 1e-4, max_steps: 1}"
GRPO = "{kind: grpo, data: [{path: train.jsonl}], batch_size: 4, max_steps: 1, learning_rate: 1e-5, rewards: [funding]}"
RECIPE = f"""name: long
task: funding
model: {{base: none}}
trainer: echo
run_dir: RUNS
stages: [{", ".join(GRPO if kind == "grpo" else SFT for kind in KINDS)}]
evaluate: [{{name: seen, data: [{{path: seen.jsonl}}]}}]
publish: {{repo: me/long, base_model: me/base}}
"""


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long")
    write_jsonl(folder / "train.jsonl", funding_rows(8))
    write_jsonl(folder / "seen.jsonl", funding_rows(6))
    (folder / "long.yaml").write_text(RECIPE.replace("RUNS", str(folder / "runs")))
    invoke("run", folder / "long.yaml")
    return folder / "runs" / "long"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "long"))


def as_lora(stage: Path) -> None:
    """Let an echo adapter pass for one that can be published."""
    (stage / adapter_folder.CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    manifest = json.loads((stage / adapter_folder.MANIFEST).read_text())
    manifest["files"][adapter_folder.CONFIG] = sha256(stage / adapter_folder.CONFIG)
    write_json(stage / adapter_folder.MANIFEST, manifest)


# ------------------------------------------------------------------------------------------------ the order of stages


@pytest.mark.slow
def test_every_verb_takes_the_last_of_eleven_stages(run: Path, tmp_path: Path) -> None:
    opened = RunFolder.open(run)
    assert [stage.name for stage in opened.stages] == NAMES
    assert opened.adapter_stage().name == "11-grpo"
    assert list(json.loads(invoke("eval", run, "--json"))["sets"]["seen"]) == ["base", "11-grpo"]
    assert adapter_source.find(str(run)).adapter.name == "11-grpo"
    as_lora(run / "11-grpo")
    assert [stage.name for stage in finished_run.read(run).stages] == NAMES
    assert finished_run.read(run).adapter.name == "11-grpo"
    assert [model.model for model in opened.sets["seen"]] == ["base", *NAMES]
    assert "Worst of 11-grpo" in write_report(run, tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_every_verb_takes_the_stage_that_is_named(run: Path) -> None:
    assert RunFolder.open(run / "10-sft").adapter_stage().name == "10-sft"
    assert list(json.loads(invoke("eval", run / "10-sft", "--json"))["sets"]["seen"]) == ["base", "10-sft"]
    assert adapter_source.find(str(run / "10-sft")).adapter.name == "10-sft"
    as_lora(run / "10-sft")
    assert [stage.name for stage in finished_run.read(run / "10-sft").stages] == NAMES[:10]


def test_the_later_stage_of_a_completion_graded_twice_counts(run: Path) -> None:
    [row] = funding_rows(1)
    answers = {"good": 0.9, "bad": 0.1}
    for stage, flip in (("2-grpo", True), ("11-grpo", False)):
        scores = dict(zip(answers, reversed(answers.values()), strict=True)) if flip else answers
        entries = [
            {
                "step": 1,
                "id": row["id"],
                "reward": "funding",
                "score": score,
                "completion": f'[{{"funder_name": "{text}"}}]',
            }
            for text, score in scores.items()
        ]
        write_jsonl(run / stage / "rollouts-0.jsonl", entries)
        with (run / stage / "rollouts-0.jsonl").open("a") as file:
            file.write('{"step": 2, "id": "r0", "rew')  # a writer at work
    task, completions = mine.rollouts(run)
    [pair] = mine.pairs(completions, task, margin=0.2, floor=0.5)
    assert "good" in pair["chosen"][0]["content"]
    task, completions = mine.rollouts(run / "2-grpo")
    [pair] = mine.pairs(completions, task, margin=0.2, floor=0.5)
    assert "bad" in pair["chosen"][0]["content"]


# ------------------------------------------------------------------------------------------ test sets that are given


@pytest.mark.slow
def test_given_test_sets_leave_the_recipes_alone(run: Path, tmp_path: Path) -> None:
    files = []
    for place, rows in (("one", funding_rows(3, "x")), ("two", funding_rows(4, "y"))):
        (tmp_path / place).mkdir()
        files.append(write_jsonl(tmp_path / place / "seen.jsonl", rows))  # the name of the recipe's set
    own = {p: p.read_bytes() for p in (run / "eval").glob("*/seen/*")}
    figures = {m.model: m.figures for m in RunFolder.open(run).sets["seen"]}
    as_lora(run / "11-grpo")
    probes = finished_run.probes(finished_run.read(run), 4)
    sets = json.loads(invoke("eval", run, "--json", "--data", files[0], "--data", files[1]))["sets"]
    assert {name: models["11-grpo"]["n"] for name, models in sets.items()} == {
        given_name(files[0]): 3, given_name(files[1]): 4
    }  # fmt: skip
    assert {p: p.read_bytes() for p in own} == own
    opened = RunFolder.open(run)
    assert {m.model: m.figures for m in opened.sets["seen"]} == figures
    assert sorted(opened.other_sets) == sorted(sets)
    assert finished_run.probes(finished_run.read(run), 4) == probes
    assert list(finished_run.read(run).figures) == ["seen"]
    page = write_report(run).read_text()
    assert page.count("examples, given with adapters eval --data") == 2
    assert page.index("seen <small>6 examples<") < page.index("given with adapters eval --data")


@pytest.mark.slow
def test_a_run_is_not_evaluated_while_another_process_works_on_it(run: Path) -> None:
    with running.lock(run):
        done = CliRunner().invoke(app, ["eval", str(run)])
    assert done.exit_code == 2
    assert "another process is working on" in done.stderr
    assert CliRunner().invoke(app, ["eval", str(run)]).exit_code == 0


# ----------------------------------------------------------------------------------------------- old and damaged runs


@pytest.mark.slow
def test_files_of_older_versions_are_read(run: Path) -> None:
    for path in (run / "eval").glob("*/seen/metrics.json"):
        figures = json.loads(path.read_text())
        write_json(path, {"says_nothing" if k == "empty_answers" else k: v for k, v in figures.items()})
    manifest = json.loads((run / "11-grpo" / "manifest.json").read_text())
    manifest["stage"].pop("scale_rewards", None)
    write_json(run / "11-grpo" / "manifest.json", manifest | {"stage": manifest["stage"] | {"advantage": "batch"}})
    older = run / "eval" / "11-grpo" / "new"  # a set given with --data by a version that had no place of its own for it
    shutil.copytree(run / "eval" / "11-grpo" / "seen", older)
    opened = RunFolder.open(run)
    assert all("empty_answers" in m.figures and "says_nothing" not in m.figures for m in opened.sets["seen"])
    assert list(opened.other_sets) == ["new"]
    page = write_report(run).read_text()
    assert "scale rewards</dt><dd>batch" in page
    assert "examples, not in the recipe" in page
    table = json.loads(invoke("eval", run, "--json"))["sets"]["seen"]["11-grpo"]
    assert "empty_answers" in table, "what still holds is read under its new name, not measured again"


def test_what_is_no_run_or_not_finished_is_said(run: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", run / "eval"):
        with pytest.raises(UserError, match="is no run folder"):
            RunFolder.open(path)
    (run / "11-grpo" / "manifest.json").unlink()
    opened = RunFolder.open(run)
    assert opened.adapter_stage().name == "10-sft"
    assert not opened.done
    with pytest.raises(UserError, match="11-grpo is missing or damaged"):
        finished_run.read(run)
    with pytest.raises(UserError, match="11-grpo is not finished yet"):
        RunFolder.open(run / "11-grpo").adapter_stage()
    for stage in run.glob("*-*"):
        shutil.rmtree(stage)
    for verb in (["eval"], ["extract", "-o", tmp_path / "out.jsonl"]):
        given = [str(tmp_path / "in.jsonl")] if verb[0] == "extract" else []
        done = CliRunner().invoke(app, [verb[0], str(run), *given, *map(str, verb[1:])])
        assert (done.exit_code, "holds no finished stage yet" in done.stderr) == (2, True)


def test_an_adapter_without_a_model_is_neither_published_nor_merged(run: Path, tmp_path: Path) -> None:
    for verb in (["publish", run, "--dry-run"], ["merge", run, "-o", tmp_path / "merged"]):
        done = CliRunner().invoke(app, [str(a) for a in verb])
        assert done.exit_code == 2
        assert "trainer: echo" in done.stderr
        assert "model.base" not in done.stderr
