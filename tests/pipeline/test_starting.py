"""A recipe that starts from another run's adapter, and evaluations that a new stage does not throw away."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import chain_recipe, echo_recipe, funding_rows, save_lively_model, save_tiny_model, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder, backend
from adapters.backends.echo import EchoBackend
from adapters.cli.main import app
from adapters.errors import UserError
from adapters.pipeline import starting
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.pipeline.run_folder import RunFolder
from adapters.recipe.load import load_recipe
from adapters.report.page import render


def plan(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, backend(file.recipe))


def start(path: Path, *overrides: str) -> tuple[Plan, dict]:
    made = plan(path, *overrides)
    return made, run_plan(made, EchoBackend(made.recipe))


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The adapters that were asked for answers."""
    asked: list[str] = []
    real = EchoBackend.sampler

    def sampler(adapter: Path | None) -> object:
        asked.append(adapter.name if adapter else "base")
        return real(adapter)

    monkeypatch.setattr(EchoBackend, "sampler", staticmethod(sampler))
    return asked


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SFT, then GRPO, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(12))
    write_jsonl(tmp_path / "more.jsonl", funding_rows(4, "more"))
    (tmp_path / "r.yaml").write_text(echo_recipe("base"))
    return tmp_path / "r.yaml"


SFT = "stages=[{kind: sft, data: [{path: funding.jsonl, license: cc-by-4.0}], learning_rate: 1e-4, validation: 0}]"
GRPO = (
    "stages=[{kind: grpo, data: [{path: funding.jsonl}], batch_size: 4, learning_rate: 1e-5, beta: 0.1, "
    "rewards: [funding]}]"
)
DPO = "stages=[{kind: dpo, data: [{path: pairs.jsonl}], batch_size: 1, learning_rate: 1e-6}]"
FROM_SFT = ["name=next", "start=runs/base/1-sft"]
MORE = "data=[{path: more.jsonl}]"
"""Rows by which the weights of a stage become others than those of its start."""


# ----------------------------------------------------------------------------------------------------------- starting


@pytest.mark.slow
@pytest.mark.parametrize("given", ["runs/base/1-sft", "runs/base", "adapter"])
def test_the_first_stage_goes_on_from_an_adapter(recipe: Path, given: str) -> None:
    first, _ = start(recipe, SFT)
    shutil.copytree("runs/base/1-sft", "adapter")
    made, report = start(recipe, GRPO, "name=next", f"start={given}")
    manifest = adapter_folder.manifest(made.jobs[0].folder) or {}
    assert manifest["start"] == given
    assert manifest["start_hash"] == adapter_folder.weights_hash(first.jobs[0].folder)
    assert any(f"stage 1 starts from {given}" in note for note in made.notes)
    assert list(report["sets"]["test"]) == ["base", "start", "1-grpo"]
    page = render(RunFolder.open(made.folder))
    assert f"starts from {given}" in page
    assert "the start (the base)" not in page
    stages = [(stage["run"], stage["stage"], stage["kind"]) for stage in manifest["history"]]
    assert stages == [(None, "adapter", "sft") if given == "adapter" else ("base", "1-sft", "sft")]
    assert plan(recipe, GRPO, "name=next", f"start={given}").jobs[0].is_complete(made.start)


@pytest.mark.slow
def test_a_run_must_be_finished_or_its_stage_named(recipe: Path) -> None:
    start(recipe, SFT)
    made = plan(recipe, GRPO, "name=next", "start=runs/base")
    assert any(note.startswith("stage 1 starts from runs/base/1-sft; ") for note in made.notes)
    start(recipe)
    assert plan(recipe, GRPO, "name=next", "start=runs/base").start == Path("runs/base/2-grpo")
    shutil.rmtree("runs/base/2-grpo")
    with pytest.raises(UserError) as error:
        plan(recipe, GRPO, "name=next", "start=runs/base")
    fault = "runs/base is a run without 2-grpo yet: name the stage (runs/base/1-sft), or finish the run."
    assert (str(error.value), error.value.at) == (fault, starting.AT)
    assert plan(recipe, GRPO, *FROM_SFT).start == Path("runs/base/1-sft")


@pytest.mark.slow
def test_the_history_goes_back_to_the_first_run(recipe: Path) -> None:
    start(recipe, SFT)
    start(recipe, GRPO, *FROM_SFT)
    made, _ = start(recipe, SFT, "name=third", "start=runs/next")
    history = (adapter_folder.manifest(made.jobs[0].folder) or {})["history"]
    assert [(s["run"], s["stage"]) for s in history] == [("base", "1-sft"), ("next", "1-grpo")]
    assert history[0]["data"][0]["license"] == "cc-by-4.0"


@pytest.mark.slow
def test_the_adapter_is_part_of_the_fingerprint_by_its_content(recipe: Path) -> None:
    start(recipe, SFT)
    shutil.copytree("runs/base/1-sft", "copy")
    new, one = (plan(recipe, GRPO, *given).jobs[0].fingerprint for given in (["name=a"], FROM_SFT))
    assert new != one
    assert plan(recipe, GRPO, "name=b", "start=copy").jobs[0].fingerprint == one, "where it lies does not count"
    Path("copy/adapter_model.safetensors").write_text("{}")
    Path("copy/manifest.json").unlink()
    assert plan(recipe, GRPO, "name=b", "start=copy").jobs[0].fingerprint not in (new, one)


@pytest.mark.slow
def test_an_adapter_that_changed_is_another_recipe(recipe: Path) -> None:
    start(recipe, SFT)
    shutil.copytree("runs/base/1-sft", "copy")
    start(recipe, GRPO, "name=next", "start=copy")
    Path("copy/adapter_model.safetensors").write_text("{}")
    with pytest.raises(UserError, match="was changed after training"):
        plan(recipe, GRPO, "name=next", "start=copy")
    Path("copy/manifest.json").unlink()
    with pytest.raises(UserError, match="another recipe: 1-grpo differs"):
        start(recipe, GRPO, "name=next", "start=copy")
    with pytest.raises(UserError, match='start was "copy", is null'):
        start(recipe, GRPO, "name=next")


@pytest.mark.slow
def test_a_stage_at_work_is_continued_if_its_start_is_the_same(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(recipe, SFT)
    shutil.copytree("runs/base/1-sft", "copy")
    Path("copy/manifest.json").unlink()
    seen: list[bool] = []

    def train(self: object, job: object, begin: Path, folder: Path, progress: object) -> None:
        seen.append((folder / "checkpoint").is_file())
        (folder / "checkpoint").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(EchoBackend, "train", train)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            start(recipe, GRPO, "name=next", "start=copy")
    assert seen == [False, True]
    Path("copy/adapter_model.safetensors").write_text("{}")
    with pytest.raises(UserError, match="another recipe: 1-grpo differs"):
        start(recipe, GRPO, "name=next", "start=copy")


def test_dpo_can_start_from_an_adapter(recipe: Path) -> None:
    start(recipe, SFT)
    pair = {"id": "p", "prompt": [{"role": "user", "content": "x"}], "gold": []}
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", "[]"), ("rejected", "no"))}
    write_jsonl(Path("pairs.jsonl"), [pair | sides])
    made, _ = start(recipe, DPO, *FROM_SFT)
    known = json.loads((made.jobs[0].folder / "adapter_model.safetensors").read_text())
    assert len(known) == 13, "the twelve of the SFT stage and one of its own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "overrides", "message"),
    [
        ({}, ["start=runs/none"], "runs/none is neither a run folder nor an adapter"),
        ({}, ["name=base"], "in this run's own folder"),
        ({"peft_type": "LORA"}, [], "is of the type LORA; trainer: echo needs ECHO"),
        ({"use_dora": True}, [], "has use_dora, which recipes do not: vLLM cannot serve DoRA"),
        ({"bias": "all"}, [], "trained biases"),
        ({"r": 4}, [], r"r 4 \(here 32\)"),
        ({"lora_dropout": 0.1}, [], r"lora_dropout 0.1 \(here 0.0\)"),
        ({"base_model_name_or_path": "me/other"}, [], "was trained on me/other, and this recipe's base is none"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_training(
    recipe: Path, change: dict, overrides: list[str], message: str
) -> None:
    start(recipe, SFT)
    config, manifest = Path("runs/base/1-sft/adapter_config.json"), Path("runs/base/1-sft/manifest.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "files"}))
    file = load_recipe(recipe, [GRPO, *FROM_SFT, *overrides])
    with pytest.raises(UserError, match=message) as error:
        make_plan(file, EchoBackend(file.recipe))
    assert "start: " in file.locate(error.value)
    assert not Path("runs/next").exists()


def test_another_revision_of_the_base_is_refused(recipe: Path) -> None:
    start(recipe, SFT)
    manifest = Path("runs/base/1-sft/manifest.json")
    told = json.loads(manifest.read_text()) | {"model": {"base": "none", "revision": "a" * 40}}
    manifest.write_text(json.dumps(told))
    plan(recipe, GRPO, *FROM_SFT)
    with pytest.raises(UserError, match=r"revision a{40} of the base, and model\.revision is b"):
        plan(recipe, GRPO, *FROM_SFT, f"model.revision={'b' * 40}")


@pytest.mark.slow
def test_check_names_the_start_and_its_faults(recipe: Path) -> None:
    start(recipe, SFT)
    done = CliRunner().invoke(app, ["check", str(recipe), GRPO, *FROM_SFT])
    assert done.exit_code == 0, done.output
    assert "starts from runs/base/1-sft" in " ".join(done.output.split())
    done = CliRunner().invoke(app, ["check", str(recipe), GRPO, "name=next", "start=runs/bas"])
    assert done.exit_code == 2
    assert "runs/bas is neither" in " ".join(done.output.split())


# ------------------------------------------------------------------------------------- what the start was trained on


def checked(recipe: Path, *overrides: str) -> tuple[str, str]:
    """The warnings and the notes of a check."""
    done = CliRunner().invoke(app, ["check", str(recipe), *overrides, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    return "\n".join(found["warnings"]), "\n".join(found["notes"])


@pytest.mark.slow
def test_check_finds_the_starts_training_rows_in_the_stages_and_the_test_sets(recipe: Path) -> None:
    rows = funding_rows(24)
    write_jsonl(Path("funding.jsonl"), rows[:12])
    start(recipe, SFT)
    write_jsonl(Path("rl.jsonl"), rows[6:])
    write_jsonl(Path("test.jsonl"), [*rows[3:5], *funding_rows(9, "t")])
    fresh = "stages.0.data=[{path: rl.jsonl}]", "evaluate.0.data=[{path: test.jsonl}]"
    warnings, notes = checked(recipe, GRPO, *FROM_SFT, *fresh)
    assert "stages.0.data: 33% of the stage's texts are also those of base/1-sft, which teaches" in warnings
    assert "texts also stand in the training data (2 word for word" in warnings
    told = "looked for in the test sets and the stages' rows: 12 of base/1-sft"
    assert f"rows that runs/base/1-sft was trained on are {told}" in notes
    warnings, notes = checked(recipe, GRPO, "name=next", *fresh)
    assert "base/1-sft" not in warnings + notes
    assert "2 word for word" not in warnings


@pytest.mark.slow
@pytest.mark.parametrize(("share", "learned"), [(0.25, 0), (0.4, 3)])
def test_check_finds_held_out_rows_that_the_start_has_learned(recipe: Path, share: float, learned: int) -> None:
    too_long = [row | {"funding_statement": "long " * 3000} for row in funding_rows(4, "l")]
    write_jsonl(Path("funding.jsonl"), [*funding_rows(20), *too_long])
    start(recipe, SFT, "stages.0.validation=0.25")
    select = ["stages.0.select={metric: reward}", f"stages.0.validation={share}"]
    warnings, _ = checked(recipe, GRPO, *FROM_SFT, *select)
    said = f"stages.0.select: {learned} of {int(share * 20)} held-out texts are among those that base/1-sft trains on"
    assert (said in warnings) is bool(learned)
    assert ("held-out texts" in warnings) is bool(learned)


@pytest.mark.slow
def test_check_goes_back_to_the_first_run(recipe: Path) -> None:
    start(recipe, SFT)
    write_jsonl(Path("other.jsonl"), funding_rows(8, "o"))
    start(recipe, GRPO, *FROM_SFT, "stages.0.data=[{path: other.jsonl}]")
    third = [GRPO, "name=third", "start=runs/next"]
    warnings, notes = checked(recipe, *third)
    assert "100% of the stage's texts are also those of base/1-sft" in warnings
    assert "the stages' rows: 12 of base/1-sft, 8 of next/1-grpo" in notes
    shutil.rmtree("runs/base")
    start(recipe, SFT, "stages.0.data.0.max_rows=8")
    warnings, notes = checked(recipe, *third)
    assert "base/1-sft" not in warnings
    assert "nor in the stages' rows: runs/base/1-sft holds other weights than next started from" in notes


@pytest.mark.slow
@pytest.mark.parametrize("change", ["gone", "other rows", "no run", "foreign code"])
def test_check_says_why_the_starts_rows_cannot_be_read(recipe: Path, change: str) -> None:
    (recipe.parent / "own").mkdir()
    (recipe.parent / "own/task.py").write_text(
        "from pathlib import Path\nfrom adapters.tasks.funding import FundingTask\n"
        "Path(__file__).with_name('imported').touch()\n\n\nclass Own(FundingTask):\n    pass\n"
    )
    write_jsonl(Path("sft.jsonl"), funding_rows(12))
    start(recipe, SFT, "stages.0.data.0.path=sft.jsonl", "task=./own/task.py:Own")
    given = [GRPO, "name=next", "start=runs/base/1-sft"]
    if change == "gone":
        Path("sft.jsonl").unlink()
    elif change == "other rows":
        write_jsonl(Path("sft.jsonl"), funding_rows(13))
    elif change == "no run":
        shutil.copytree("runs/base/1-sft", "adapter")
        given[-1] = "start=adapter"
    else:
        Path("runs/base/origin.json").unlink()
        Path("own/imported").unlink()
        shutil.copytree("own", "runs/base/own")
    warnings, notes = checked(recipe, *given)
    why = {
        "gone": "sft.jsonl",
        "other rows": "the data of base/1-sft are not those that it was trained on",
        "no run": "adapter lies in no run folder",
        "foreign code": "reading them would import code of runs/base that was not run on this machine",
    }
    assert "base/1-sft" not in warnings
    text = f"{given[-1][6:]} was trained on are looked for neither in the test sets nor in the stages' rows: "
    assert f"the rows that {text}" in notes
    assert why[change] in notes.partition(text)[2].partition("\n")[0]
    if change == "foreign code":
        assert not [*Path().rglob("imported")]


# -------------------------------------------------------------------------------------------------------- evaluations


@pytest.mark.slow
def test_a_new_stage_keeps_the_evaluations_of_the_others(recipe: Path, sampled: list[str]) -> None:
    _, before = start(recipe, SFT)
    assert sampled == ["base", "1-sft"]
    _, after = start(recipe, f"stages.1.{MORE}")
    assert sampled == ["base", "1-sft", "2-grpo"], "only the new stage is asked"
    figures = after["sets"]["test"]
    assert figures["1-sft"]["metrics"] == before["sets"]["test"]["1-sft"]["metrics"]
    assert figures["1-sft"]["rewards"]["funding"]["mean"] == 1.0, "the new reward grades the stored answers"
    assert figures["base"]["always_empty"]["funding"] == figures["base"]["rewards"]["funding"]["mean"]
    assert len(RunFolder.open(Path("runs/base")).sets["test"]) == 3


@pytest.mark.slow
def test_scores_of_unchanged_rewards_are_kept(recipe: Path, sampled: list[str], tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\n\n\ndef dear(completion, example):\n"
        f"    with Path({str(calls)!r}).open('a') as file:\n        file.write('x')\n"
        "    return float(completion == example.completion)\n"
    )
    start(recipe, "stages.1.rewards=[./own.py:dear]")
    calls.unlink()
    samples = Path("runs/base/eval/1-sft/test/samples.jsonl")
    rows = [json.loads(line) | {"rewards": {"dear": 0.5}} for line in samples.read_text().splitlines()]
    write_jsonl(samples, rows)
    shutil.rmtree("runs/base/2-grpo")
    _, report = start(recipe, "stages.1.rewards=[./own.py:dear, funding]")
    assert report["sets"]["test"]["1-sft"]["rewards"]["dear"]["mean"] == 0.5, "not graded again"
    assert report["sets"]["test"]["1-sft"]["rewards"]["funding"]["mean"] == 1.0
    assert sampled.count("1-sft") == 1


@pytest.mark.slow
def test_answers_of_other_rows_or_incomplete_ones_are_asked_for_again(recipe: Path, sampled: list[str]) -> None:
    start(recipe, SFT)
    samples = Path("runs/base/eval/1-sft/test/samples.jsonl")
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:-1]))
    start(recipe, f"stages.1.{MORE}")
    assert sampled == ["base", "1-sft", "1-sft", "2-grpo"]
    write_jsonl(Path("funding2.jsonl"), funding_rows(5, "n"))
    start(recipe, f"stages.1.{MORE}", "evaluate.0.data=[funding2.jsonl]")
    assert sampled[4:] == ["base", "1-sft", "2-grpo"]


@pytest.mark.slow
def test_a_run_takes_over_the_evaluations_of_its_start(recipe: Path, sampled: list[str]) -> None:
    start(recipe, SFT)
    made, report = start(recipe, GRPO, f"stages.0.{MORE}", *FROM_SFT)
    assert sampled == ["base", "1-sft", "1-grpo"]
    assert report["sets"]["test"]["start"]["rewards"]["funding"]["mean"] == 1.0
    assert (made.folder / "eval/start/test/samples.jsonl").is_file()
    assert [m.model for m in RunFolder.open(made.folder).sets["test"]] == ["base", "start", "1-grpo"]
    assert not any(m.stale for m in RunFolder.open(made.folder).sets["test"])


# --------------------------------------------------------------------------------------------------- the real backend


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe SFT -> GRPO over the tiny model, of which the SFT stage alone was run as runs/chain."""
    folder = tmp_path_factory.mktemp("starting")
    model = save_lively_model(save_tiny_model(folder / "tiny-llama"), folder / "lively")
    (folder / "chain.yaml").write_text(chain_recipe(folder, model))
    local(folder / "chain.yaml", ONLY_SFT)
    return folder / "chain.yaml"


ONLY_SFT = "stages=[{kind: sft, data: [{path: train.jsonl}], batch_size: 8, max_steps: 3, learning_rate: 1e-2}]"
ONLY_GRPO = (
    "stages=[{kind: grpo, data: [{path: train.jsonl}], batch_size: 2, group_size: 4, max_steps: 2, "
    "learning_rate: 1e-3, beta: 0.05, rewards: [./vowels.py:Vowels], max_completion_length: 160, "
    "trl: {generation_kwargs: {max_new_tokens: 8}}}]"
)


def local(path: Path, *overrides: str) -> tuple[Plan, dict]:
    file = load_recipe(path, overrides)
    trainer = backend(file.recipe)
    made = make_plan(file, trainer)
    return made, run_plan(made, trainer)


@pytest.mark.slow
def test_training_starts_from_the_weights(trained: Path) -> None:
    given = ["name=next", f"start={trained.parent / 'runs' / 'chain'}"]
    made, report = local(trained, ONLY_GRPO, *given)
    assert abs(report["stages"]["1-grpo"]["figures"]["first_kl"]) < 1e-3, "the reference is the start"
    from safetensors.torch import load_file

    [before, after] = [
        load_file(trained.parent / "runs" / name / "adapter_model.safetensors")
        for name in ("chain/1-sft", "next/1-grpo")
    ]
    far = max(float((after[k] - before[k]).abs().max()) for k in before)
    assert 0 < far < 0.02, "two steps of 1e-3 from the start; a new adapter's B is zero"
    assert max(float(t.abs().max()) for k, t in before.items() if "lora_B" in k) > 0.02
    again, second = local(trained, ONLY_GRPO, *given)
    assert again.jobs[0].is_complete(again.start)
    assert second["sets"] == report["sets"]
    done = CliRunner().invoke(app, ["merge", str(made.folder), "-o", str(trained.parent / "merged")])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.rank=8"], r"r 4 \(here 8\)"),
        (["lora.target_modules=[q_proj]"], "of its tensors are not those that this recipe's base and `lora`"),
        (["lora.exclude_modules=[layers.0]"], "of its tensors are not those"),
        (["model.base=BASE/tiny-llama"], "was trained on .*lively.* and this recipe's base is .*tiny-llama"),
        (["trainer=echo"], "trainer: echo needs ECHO"),
    ],
)
def test_the_adapter_must_be_that_of_the_recipe(trained: Path, overrides: list[str], message: str) -> None:
    overrides = [o.replace("BASE", str(trained.parent)) for o in overrides]
    file = load_recipe(trained, [ONLY_SFT, "name=next2", f"start={trained.parent / 'runs/chain/1-sft'}", *overrides])
    with pytest.raises(UserError, match=message) as error:
        make_plan(file, backend(file.recipe))
    assert error.value.at == starting.AT


@pytest.mark.slow
def test_the_service_cannot_start_from_an_adapter_of_elsewhere(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent / "runs/chain/1-sft", tmp_path / "adapter")
    (tmp_path / "adapter/manifest.json").unlink()
    config = tmp_path / "adapter/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 32}))
    file = load_recipe(trained, [ONLY_SFT, f"start={tmp_path / 'adapter'}", "trainer=tinker", "lora.alpha=32"])
    with pytest.raises(UserError, match="was not trained on the service, which cannot load adapters from elsewhere"):
        make_plan(file, backend(file.recipe))
