"""The loop around the training, on the instant echo backend: skip, continue, refuse, report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.backends import adapter_folder
from adapters.backends.echo import EchoBackend
from adapters.errors import UserError
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan, set_aside
from adapters.recipe.load import load_recipe

RECIPE = """name: mine
task: funding
model: {base: none}
trainer: echo
run_dir: RUNS
stages:
  - kind: sft
    data: [{path: train.jsonl, name: real}, {synthesize: funding, n: 5, name: synthetic}]
    learning_rate: 1e-4
    validation: 0.1
  - kind: grpo
    data: [{path: train.jsonl}]
    batch_size: 4
    learning_rate: 1e-5
    beta: 0.1
    rewards: [funding]
evaluate:
  - {name: seen, data: [{path: train.jsonl, name: real}, {path: new.jsonl, name: new}]}
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "train.jsonl", funding_rows(30))
    write_jsonl(tmp_path / "new.jsonl", funding_rows(10, "n"))
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.replace("RUNS", str(tmp_path / "runs")))
    return path


def start(path: Path, *overrides: str) -> tuple[Plan, dict]:
    file = load_recipe(path, overrides)
    backend = EchoBackend(file.recipe)
    made = make_plan(file, backend)
    return made, run_plan(made, backend)


@pytest.mark.slow
def test_report_has_every_model_set_and_source(mine: Path) -> None:
    made, report = start(mine)
    seen = report["sets"]["seen"]
    assert list(seen) == ["base", "1-sft", "2-grpo"]
    assert seen["base"]["metrics"]["balanced"]["funder"]["recall"] == 0
    assert seen["2-grpo"]["metrics"]["balanced"]["funder"]["f1"] > 0.7
    low, high = seen["2-grpo"]["metrics"]["balanced"]["funder"]["f1_ci"]
    assert low <= seen["2-grpo"]["metrics"]["balanced"]["funder"]["f1"] <= high
    assert seen["2-grpo"]["by_source"]["real"]["metrics"]["strict"]["funder"]["f1"] == 1
    assert seen["2-grpo"]["by_source"]["new"]["metrics"]["strict"]["funder"]["f1"] == 0
    assert seen["2-grpo"]["rewards"]["funding"]["mean"] > seen["base"]["rewards"]["funding"]["mean"]
    nothing = seen["base"]["rewards"]["funding"]["mean"]
    assert seen["2-grpo"]["always_empty"] == {"funding": pytest.approx(nothing)}, "what the base says is []"
    samples = (made.folder / "eval/2-grpo/seen/samples.jsonl").read_text().splitlines()
    assert len(samples) == 40
    ledger = json.loads((made.folder / "ledger.json").read_text())
    assert [s["source"] for s in ledger["stages"]["1-sft"]["sources"]] == ["real", "synthetic"]
    assert ledger["tests"]["seen"]["also_in_training"] == 30
    assert any("30 of 40 texts also stand in the training data" in note for note in made.notes)


def kept(made: Plan) -> list[bool]:
    starts = [None, *(job.folder for job in made.jobs)]
    return [job.is_complete(start) for job, start in zip(made.jobs, starts, strict=False)]


def replan(path: Path, *overrides: str) -> Plan:
    file = load_recipe(path, overrides)
    return make_plan(file, EchoBackend(file.recipe))


@pytest.mark.slow
def test_the_same_command_skips_what_is_done(mine: Path) -> None:
    made, report = start(mine)
    before = {p: p.stat().st_mtime_ns for p in made.folder.rglob("*.safetensors")}
    again, second = start(mine)
    assert kept(again) == [True, True]
    assert second["sets"] == report["sets"]
    assert before == {p: p.stat().st_mtime_ns for p in made.folder.rglob("*.safetensors")}


@pytest.mark.slow
def test_a_changed_recipe_is_refused_by_the_key(mine: Path) -> None:
    made, _ = start(mine)
    with pytest.raises(UserError, match=r"recipe: 1-sft differs.*rate was 0.0001, is 0.0002.\n.*--fresh"):
        start(mine, "stages.0.learning_rate=2e-4")
    with pytest.raises(UserError, match=r"another recipe: 2-grpo differs. Changed: stages.1.beta was 0.1, is 0.2"):
        start(mine, "stages.1.beta=0.2")
    write_jsonl(mine.parent / "train.jsonl", funding_rows(29))
    with pytest.raises(UserError, match="the training data"):
        start(mine)
    assert set_aside(made.folder) == made.folder.with_name("mine.1")
    start(mine, "stages.0.learning_rate=2e-4")


@pytest.mark.slow
def test_what_changes_no_weight_may_change(mine: Path) -> None:
    start(mine)
    made, report = start(mine, "evaluate.0.name=other", "stages.0.micro_batch_size=4", "stages.1.save_every=7")
    assert list(report["sets"]) == ["other"]
    assert kept(made) == [True, True]


@pytest.mark.slow
def test_a_later_stage_can_be_trained_again_alone(mine: Path) -> None:
    import shutil

    made, _ = start(mine)
    first = (made.jobs[0].folder / "manifest.json").read_text()
    shutil.rmtree(made.jobs[1].folder)
    start(mine, "stages.1.beta=0.2")
    assert (made.jobs[0].folder / "manifest.json").read_text() == first


@pytest.mark.slow
def test_what_follows_a_retrained_stage_is_retrained(mine: Path) -> None:
    import shutil

    made, _ = start(mine)
    manifest = made.jobs[1].folder / "manifest.json"
    changed = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**changed, "start_hash": "another adapter"}))
    assert kept(replan(mine)) == [True, False]
    shutil.rmtree(made.jobs[0].folder)
    assert kept(replan(mine)) == [False, False]
    start(mine)
    assert kept(replan(mine)) == [True, True]


@pytest.mark.slow
def test_an_edited_plugin_file_is_another_recipe(mine: Path) -> None:
    plugin = mine.parent / "mine.py"
    plugin.write_text("def same(completion, example):\n    return float(completion == example.completion)\n")
    start(mine, "stages.1.rewards=[./mine.py:same]")
    plugin.write_text(plugin.read_text() + "# edited\n")
    with pytest.raises(UserError, match="the training data or a plug-in file"):
        start(mine, "stages.1.rewards=[./mine.py:same]")


@pytest.mark.slow
def test_a_damaged_adapter_is_named(mine: Path) -> None:
    made, _ = start(mine)
    weights = made.jobs[1].folder / "adapter_model.safetensors"
    weights.write_bytes(b"{}")
    assert adapter_folder.problems(made.jobs[1].folder) == [f"{weights} was changed after training"]
    with pytest.raises(UserError, match=r"was changed after training. Delete .*2-grpo to train that stage again"):
        start(mine)


@pytest.mark.slow
def test_unfinished_work_of_another_recipe_is_refused_not_deleted(mine: Path) -> None:
    work = adapter_folder.work_folder(replan(mine).jobs[0].folder)
    work.mkdir(parents=True)
    (work / adapter_folder.OWNER_FILE).write_text("another")
    (work / "checkpoint").write_text("hours of work")
    with pytest.raises(UserError, match="another recipe: 1-sft differs"):
        start(mine)
    assert (work / "checkpoint").is_file()


@pytest.mark.slow
def test_death_while_sealing_loses_nothing(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adapter_folder, "remove_work_files", die)
    with pytest.raises(KeyboardInterrupt):
        start(mine)
    monkeypatch.undo()
    assert kept(replan(mine))[0]
    made, _ = start(mine)
    assert not (made.jobs[0].folder / adapter_folder.OWNER_FILE).exists()


@pytest.mark.slow
def test_bad_rows_of_a_test_set_are_on_record(mine: Path) -> None:
    with (mine.parent / "new.jsonl").open("a") as file:
        file.write("{broken\n")
    made, report = start(mine, "max_bad_rows=0.2")
    assert report["sets"]["seen"]["base"]["n"] == 40
    [rejected] = [json.loads(line) for line in (made.folder / "rejected.jsonl").read_text().splitlines()]
    assert (rejected["for"], rejected["row"]) == ("seen", 11)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "adapters", *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=env
    )


@pytest.mark.slow
def test_the_command_line_shows_plan_and_results(mine: Path) -> None:
    done = command("run", str(mine), "stages.0.max_steps=2", "--all", cwd=mine.parent)
    assert done.returncode == 0, done.stderr
    for text in (
        "1-sft",
        "2 steps of 16",
        "KL 0.1 to the adapter of stage 1",
        "30 real + 5 synthetic",
        "award_id",
        "2 steps in",
        "valid",
    ):
        assert text in done.stdout, done.stdout
    dry = command("run", str(mine), "--dry-run", "stages.0.max_steps=2", cwd=mine.parent)
    assert "done, skipped" in dry.stdout
    machine = command("run", str(mine), "--json", "stages.0.max_steps=2", cwd=mine.parent)
    assert json.loads(machine.stdout)["sets"]["seen"]["base"]["n"] == 40
    refused = command("run", str(mine), "stages.0.max_steps=3", cwd=mine.parent)
    assert refused.returncode == 2
    fresh = command("run", str(mine), "--fresh", "stages.0.max_steps=3", cwd=mine.parent)
    assert fresh.returncode == 0
    assert (mine.parent / "runs" / "mine.1").is_dir()


@pytest.mark.slow
def test_the_eval_command(mine: Path) -> None:
    assert command("run", str(mine), cwd=mine.parent).returncode == 0
    run = mine.parent / "runs" / "mine"
    done = command("eval", str(run), "--json", cwd=mine.parent.parent)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["sets"]["seen"]) == ["base", "2-grpo"]
    stage = command("eval", str(run / "1-sft"), "--data", str(mine.parent / "new.jsonl"), "--json", cwd=mine.parent)
    [(name, models)] = json.loads(stage.stdout)["sets"].items()
    assert (name.partition("@")[0], models["1-sft"]["n"]) == ("new", 10)
    nothing = command("eval", str(mine.parent), cwd=mine.parent)
    assert nothing.returncode == 2
    assert "no run folder" in nothing.stderr


@pytest.mark.slow
def test_a_run_can_be_started_from_its_own_copy(mine: Path) -> None:
    start(mine)
    copy = mine.parent / "runs" / "mine" / "recipe.yaml"
    done = command("run", str(copy), f"data_root={mine.parent}", cwd=mine.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done, skipped") == 2


@pytest.mark.slow
def test_a_dry_run_writes_nothing(mine: Path) -> None:
    before = sorted(mine.parent.rglob("*"))
    assert command("run", str(mine), "--dry-run", cwd=mine.parent).returncode == 0
    config = str(Path(__file__).parents[2] / "recipes/accelerate/ddp.yaml")
    assert command("run", str(mine), "--dry-run", "--launch", config, cwd=mine.parent).returncode == 0
    assert sorted(mine.parent.rglob("*")) == before


@pytest.mark.slow
def test_failed_work_exits_with_1_and_keeps_the_details(mine: Path) -> None:
    (mine.parent / "late.py").write_text(
        "class Late:\n"
        "    calls = 0\n"
        "    def __call__(self, completion, example):\n"
        "        Late.calls += 1\n"
        "        if Late.calls > 60: raise OSError('grader gone')\n"
        "        return 1.0 if completion == example.completion else 0.0\n"
    )
    done = command("run", str(mine), "stages.1.rewards=[./late.py:Late]", cwd=mine.parent)
    assert done.returncode == 1
    assert "grader gone" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in (mine.parent / "runs/mine/run.log").read_text()


@pytest.mark.slow
def test_two_processes_never_share_a_run_folder(mine: Path) -> None:
    holder = "import sys, pathlib\nfrom adapters.pipeline.run import lock\n"
    holder += "with lock(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()"
    runs = mine.parent / "runs"
    other = subprocess.Popen(
        [sys.executable, "-c", holder, str(runs / "mine")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    refused = command("run", str(mine), cwd=mine.parent)
    assert refused.returncode == 2
    assert "another process is working on" in refused.stderr
    assert not (runs / "mine").exists()
    other.kill()
    other.wait()
    assert command("run", str(mine), cwd=mine.parent).returncode == 0, "the lock ends with its process"


def launched(mine: Path, said: str) -> tuple[str, list[int]]:
    """Two processes as a launcher starts them: when one fails, it ends the other. Returns their stderr and codes."""
    plugin = (
        f"import os\nif {said}:\n    raise ImportError('only here')\ndef one(completion, example):\n    return 1.0\n"
    )
    (mine.parent / "one.py").write_text(plugin)
    arguments = [sys.executable, "-m", "adapters", "run", str(mine), "stages.1.rewards=[./one.py:one]"]
    with (mine.parent / "stderr").open("wb") as err:
        ranks = [subprocess.Popen(arguments, env={**os.environ, "RANK": rank}, stdout=err, stderr=err) for rank in "01"]
        deadline = time.monotonic() + 60
        while all(process.poll() in (None, 0) for process in ranks) and time.monotonic() < deadline:
            time.sleep(0.05)
        for process in ranks:
            process.terminate()
    return (mine.parent / "stderr").read_text(), [process.wait() for process in ranks]


@pytest.mark.slow
def test_what_every_process_finds_is_said_once(mine: Path) -> None:
    said, codes = launched(mine, "True")
    assert said.count("only here") == 1
    assert "process 1" not in said
    assert codes[0] == 2


@pytest.mark.slow
def test_what_only_another_process_finds_is_said_by_it(mine: Path) -> None:
    said, codes = launched(mine, "os.environ['RANK'] == '1'")
    assert said.count("only here") == 1
    assert "process 1: " in said
    assert "stages.1.rewards.0.use" in said
    assert codes[1] == 2


@pytest.mark.slow
def test_a_place_that_cannot_be_written_is_named(mine: Path) -> None:
    (mine.parent / "file").write_text("")
    done = command("run", str(mine), f"run_dir={mine.parent / 'file' / 'runs'}", cwd=mine.parent)
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_fork_keeps_what_the_recipe_still_describes(mine: Path) -> None:
    assert command("run", str(mine), cwd=mine.parent).returncode == 0
    first = (mine.parent / "runs/mine/1-sft/manifest.json").read_text()
    refused = command("run", str(mine), "stages.1.beta=0.2", cwd=mine.parent)
    assert refused.returncode == 2
    assert "stages.1.beta was 0.1, is 0.2" in refused.stderr
    done = command("run", str(mine), "--fork", "stages.1.beta=0.2", cwd=mine.parent)
    assert done.returncode == 0, done.stderr
    assert "Taken over from it: 1-sft" in done.stdout
    assert (mine.parent / "runs/mine/1-sft/manifest.json").read_text() == first
    kept, new = (
        json.loads((mine.parent / f"runs/{name}/2-grpo/manifest.json").read_text()) for name in ("mine.1", "mine")
    )
    assert (kept["stage"]["beta"], new["stage"]["beta"]) == (0.1, 0.2)


@pytest.mark.slow
def test_checkpoints_from_other_starting_weights_are_not_continued(mine: Path) -> None:
    made, _ = start(mine)
    work = adapter_folder.work_folder(made.jobs[1].folder)
    made.jobs[1].folder.rename(work)
    (work / "trainer").mkdir()
    (work / "trainer" / "old").touch()
    (work / adapter_folder.OWNER_FILE).write_text(f"{made.jobs[1].fingerprint} from other weights")
    start(mine)
    assert made.jobs[1].is_complete(made.jobs[0].folder)
    assert not work.exists()
