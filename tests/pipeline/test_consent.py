"""Whose code runs: what looks at a run folder imports nothing of it, and what needs its code asks first."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.cli import options
from adapters.cli.main import app
from adapters.errors import Refused
from adapters.extraction import adapter_source
from adapters.files import sha256
from adapters.pairs import mine
from adapters.pipeline.run_folder import RunFolder
from adapters.plugins import trust
from adapters.plugins.source_files import files_of_plugin
from adapters.plugins.trust import Consent
from adapters.publish import finished_run
from adapters.recipe.fields import PluginSpec

TASK = """from dataclasses import dataclass
from pathlib import Path

from adapters.tasks.funding import FundingTask

Path(__file__).with_name("imported").touch()


@dataclass(frozen=True)
class Own(FundingTask):
    pass
"""
REWARD = "def short(completion, example):\n    return float(completion == example.completion)\n"
RECIPE = """name: mine
task: ./task.py:Own
model: {base: none}
trainer: echo
run_dir: runs
stages:
  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4, validation: 0}
  - {kind: grpo, data: [{path: rows.jsonl}], batch_size: 4, learning_rate: 1e-5, rewards: [./reward.py:short]}
  - {kind: dpo, data: [{path: pairs.jsonl}], batch_size: 1, learning_rate: 1e-6}
evaluate:
  - {name: test, data: [{path: rows.jsonl}]}
"""
PAIR = {
    "id": "p",
    "prompt": [{"role": "user", "content": "x"}],
    "chosen": [{"role": "assistant", "content": "[]"}],
    "rejected": [{"role": "assistant", "content": "no"}],
    "gold": [],
}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def project(folder: Path) -> Path:
    """A recipe with a task and a reward of its own, and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.py").write_text(TASK)
    (folder / "reward.py").write_text(REWARD)
    (folder / "mine.yaml").write_text(RECIPE.replace("run_dir: runs", f"run_dir: {folder / 'runs'}"))
    write_jsonl(folder / "rows.jsonl", funding_rows(12))
    write_jsonl(folder / "pairs.jsonl", [PAIR])
    return folder / "mine.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that `run` made on this machine."""
    folder = tmp_path_factory.mktemp("here")
    done = call("run", project(folder))
    assert done.exit_code == 0, done.output
    return folder / "runs" / "mine"


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run of this machine, whose recipe and code stay where they are."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def received(finished: Path, tmp_path: Path) -> Path:
    """A run folder as somebody sends it: without records on this machine, its code and data inside."""
    folder = Path(shutil.copytree(finished, tmp_path / "received"))
    for name in ("task.py", "reward.py", "rows.jsonl", "pairs.jsonl"):
        shutil.copy(finished.parents[1] / name, folder)
    (folder / "origin.json").unlink()
    config = folder / "3-dpo" / adapter_folder.CONFIG  # what `publish` and `merge` refuse comes after the question
    config.write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    manifest = json.loads((folder / "3-dpo/manifest.json").read_text())
    manifest["files"][adapter_folder.CONFIG] = sha256(config)
    (folder / "3-dpo/manifest.json").write_text(json.dumps(manifest))
    rollout = {"step": 0, "id": "r1", "reward": "short", "score": 1.0, "parts": {}, "completion": "[]"}
    write_jsonl(folder / "2-grpo/rollouts-0.jsonl", [rollout])
    return folder


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder: another user's, or that of another machine."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "extraction-adapters"


def imported(folder: Path) -> bool:
    return (folder / "imported").exists()


# Verb -> its arguments for a run folder, and its exit codes: unasked, and with --trust. What takes neither a run folder
# nor a recipe imports what its arguments name.
RUN = "RUN"
LOOKING: dict[str, list[str]] = {
    "report": [RUN],
    "eval": [RUN],
    "check": [f"{RUN}/outside.yaml", "--no-import"],
}
ASKING: dict[str, list[str]] = {
    "eval": [RUN, "--data", f"{RUN}/rows.jsonl"],
    "extract": [f"{RUN}/1-sft", f"{RUN}/rows.jsonl", "-o", f"{RUN}/out.jsonl"],
    "calibrate": [RUN, f"{RUN}/rows.jsonl"],
    "sample": [RUN, f"{RUN}/rows.jsonl", "-k", "1", "-o", f"{RUN}/s.jsonl"],
    "mine": ["x.yaml", f"{RUN}/1-sft", f"{RUN}/rows.jsonl", "-o", f"{RUN}/out.jsonl"],
    "annotate": [f"{RUN}/rows.jsonl", "-o", f"{RUN}/a.jsonl", "--label", "x", "--balance", f"{RUN}/1-sft"],
    "plan": ["x", "-o", f"{RUN}/p.yaml", "--corpus", f"{RUN}/rows.jsonl", "--proxy", f"{RUN}/1-sft"],
    "merge": [RUN, "-o", f"{RUN}/merged"],
    "publish": [RUN, "--dry-run", "--repo", "me/x"],
    "pairs mine": [RUN, "-o", f"{RUN}/p.jsonl"],
    "pairs corrupt": ["--recipe", f"{RUN}/outside.yaml", "-o", f"{RUN}/p.jsonl", "-n", "2"],
    "pairs teach": [f"{RUN}/rows.jsonl", "--recipe", f"{RUN}/outside.yaml", "--endpoint", "http://127.0.0.1:9/v1"],
    "check": [f"{RUN}/outside.yaml"],
}
CONSENTING = {"run"}
NO_RUN_FOLDER = {
    *("new", "env", "schema", "score", "view", "graph", "export", "base text-only"),
    *(
        f"data {verb}"
        for verb in ("synthesize", "noise", "merge-shards", "convert", "build-ie", "build-nte", "score-spans")
    ),
    *(f"rewards {verb}" for verb in ("list", "show", "test", "score", "new")),
    *(f"tasks {verb}" for verb in ("list", "show", "test", "new")),
    *("plugins", "publish-data", "noise list", "noise new"),
}


def verbs(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in group.commands.items():
        whole = f"{name} {key}".strip()
        yield from verbs(inner, whole) if hasattr(inner, "commands") else [(whole, inner)]


def arguments(words: list[str], folder: Path) -> list[str]:
    outside = folder.parent / "elsewhere" / "outside.yaml"
    outside.parent.mkdir(exist_ok=True)
    outside.write_text(RECIPE.replace("./", f"{folder}/").replace("path: ", f"path: {folder}/"))
    return [w.replace(f"{RUN}/outside.yaml", str(outside)).replace(RUN, str(folder)) for w in words]


def test_every_verb_is_in_one_of_the_tables() -> None:
    """A new verb says here whether it takes a run folder or a recipe; then it is tried below."""
    found = dict(verbs(typer.main.get_command(app)))
    assert set(found) == {*LOOKING, *ASKING, *CONSENTING, *NO_RUN_FOLDER}
    with_flag = {name for name, verb in found.items() if any("--trust" in p.opts for p in verb.params)}
    assert with_flag == set(ASKING)


@pytest.mark.parametrize("verb", LOOKING)
def test_looking_runs_nothing(received: Path, verb: str) -> None:
    done = call(*verb.split(), *arguments(LOOKING[verb], received))
    assert done.exit_code == 0, done.output
    assert not imported(received)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ASKING)
def test_what_needs_the_code_asks_first(received: Path, verb: str) -> None:
    before = {p for p in received.rglob("*") if not p.name.startswith(".")}
    words = [*verb.split(), *arguments(ASKING[verb], received)]
    done = call(*words)
    assert done.exit_code == 3, done.output
    assert not imported(received)
    assert f"{received}/task.py  sha256 {sha256(received / 'task.py')[:16]}" in done.stderr
    assert "--trust imports it" in done.stderr
    assert {p for p in received.rglob("*") if not p.name.startswith(".")} == before, "nothing was written"
    trusted = call(*words, "--trust")
    assert imported(received), trusted.output
    assert "was not run on this machine" not in trusted.stderr


@pytest.mark.parametrize("verb", ASKING)
def test_a_run_of_this_machine_is_not_asked_about(own: Path, finished: Path, verb: str) -> None:
    if "outside.yaml" in " ".join(ASKING[verb]):
        words = [w.replace(f"{RUN}/outside.yaml", str(finished.parents[1] / "mine.yaml")) for w in ASKING[verb]]
    else:
        words = ASKING[verb]
    words = [w.replace(f"{RUN}/rows.jsonl", str(finished.parents[1] / "rows.jsonl")) for w in words]
    done = call(*verb.split(), *(w.replace(RUN, str(own)) for w in words))
    assert "was not run on this machine" not in done.output


@pytest.mark.slow
def test_running_a_recipe_lists_its_code_and_asks_nothing(tmp_path: Path) -> None:
    recipe = project(tmp_path / "mine")
    done = call("run", recipe, "--dry-run")
    assert done.exit_code == 0, done.output
    listed = f"{tmp_path}/mine/task.py  sha256 {sha256(tmp_path / 'mine/task.py')[:16]}"
    assert done.stdout.index(listed) < done.stdout.index("1-sft")
    assert "reward.py" in done.stdout
    (tmp_path / "mine/task.py").write_text(f"raise RuntimeError('stop')\n{TASK}")
    assert listed[:-16] in call("run", project(tmp_path / "other"), "task=../mine/task.py:Own", "--dry-run").output


@pytest.mark.slow
def test_a_recipe_of_registered_plugins_lists_and_asks_nothing(tmp_path: Path) -> None:
    recipe = project(tmp_path)
    plain = ["task=funding", "stages.1.rewards=[adapters.rewards.funding:Funding]"]
    done = call("run", recipe, *plain)
    assert done.exit_code == 0, done.output
    assert "own code" not in done.output
    folder = tmp_path / "runs" / "mine"
    (folder / "origin.json").unlink()
    assert call("eval", folder, "--data", tmp_path / "rows.jsonl").exit_code == 0


# What is asked about


def test_a_token_of_another_machine_is_unknown(own: Path, state: Path) -> None:
    assert RunFolder.open(own).names_unknown_code()


@pytest.mark.parametrize("token", ["0" * 32, "../../evil", "", None, ["x"], "A" * 32])
def test_an_invented_token_helps_nobody(own: Path, token: object) -> None:
    origin = json.loads((own / "origin.json").read_text())
    (own / "origin.json").write_text(json.dumps(origin | {"token": token}))
    (trust.state_folder() / "evil.json").write_text(json.dumps({"plugins": {}}))
    assert RunFolder.open(own).names_unknown_code()


def test_a_recipe_that_names_other_code_since_the_run_is_asked_about(own: Path, finished: Path) -> None:
    tree = json.loads((own / "recipe.json").read_text())
    for use in ("./other.py:Own", "./task.py:FundingTask", "shutil:rmtree", "builtins:exec"):
        (finished.parents[1] / "other.py").write_text(TASK)
        (own / "recipe.json").write_text(json.dumps(tree | {"task": {"use": use}}))
        with pytest.raises(Refused, match=use.rpartition("/")[2]):
            RunFolder.open(own).recipe_file()


def test_an_origin_that_names_a_folder_of_this_machine_is_asked_about(received: Path, finished: Path) -> None:
    (received / "origin.json").write_text(json.dumps({"folder": str(finished.parents[1])}))
    with pytest.raises(Refused, match=str(finished.parents[1] / "task.py")):
        RunFolder.open(received).recipe_file()


@pytest.mark.slow
def test_code_of_the_users_own_may_be_edited_and_code_inside_the_run_folder_may_not(tmp_path: Path) -> None:
    recipe = project(tmp_path)
    assert call("run", recipe).exit_code == 0
    folder = tmp_path / "runs" / "mine"
    (tmp_path / "task.py").write_text(TASK + "# edited\n")
    assert not RunFolder.open(folder).names_unknown_code()
    folder = tmp_path / "there" / "mine"  # a recipe that lies in its own run folder
    done = call("run", project(folder), f"run_dir={tmp_path / 'there'}")
    assert done.exit_code == 0, done.output
    assert not RunFolder.open(folder).names_unknown_code()
    (folder / "task.py").write_text(TASK + "# edited by somebody else\n")
    assert RunFolder.open(folder).names_unknown_code()


def test_a_bundle_from_elsewhere_is_asked_about(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / adapter_folder.CONFIG).write_text('{"peft_type": "LORA", "base_model_name_or_path": "a/b"}')
    (bundle / adapter_folder.WEIGHTS).write_bytes(b"weights")
    (bundle / "task.py").write_text(TASK)
    (bundle / "recipe.yaml").write_text("task: ./task.py:Own\nmodel: {base: a/b}\n")
    with pytest.raises(Refused, match=r"task\.py"):
        adapter_source.find(str(bundle))
    assert not imported(bundle)
    assert adapter_source.find(str(bundle), consent=Consent(given=True)).task
    (bundle / "recipe.yaml").write_text("task: funding\nmodel: {base: a/b}\n")
    assert adapter_source.find(str(bundle)).plug.use == "funding"


def test_the_python_functions_that_open_a_run_folder_refuse_too(received: Path) -> None:
    for function in (finished_run.read, mine.rollouts, lambda path: adapter_source.find(str(path))):
        with pytest.raises(Refused, match="was not run on this machine"):
            function(received)
    assert not imported(received)
    with pytest.raises(Refused, match="was not run on this machine"):  # the earlier run of a comparison
        finished_run.read(received / "3-dpo", consent=Consent(ask=None))


def test_stored_figures_are_shown_only_when_all_are_there(received: Path) -> None:
    done = call("eval", received, "--json")
    assert set(json.loads(done.stdout)["sets"]["test"]) == {"base", "3-dpo"}
    assert "stored figures" in done.stderr
    shutil.rmtree(received / "eval/3-dpo")
    assert call("eval", received).exit_code == 3
    assert not imported(received)


# Answers and what is remembered


def test_a_yes_is_remembered_until_a_file_changes(received: Path, state: Path) -> None:
    questions: list[str] = []

    def yes(question: str) -> bool:
        questions.append(question)
        return True

    run = RunFolder.open(received)
    run.recipe_file(consent=Consent(ask=yes))
    assert "task.py" in questions[0]
    assert "reward.py" in questions[0]
    run.recipe_file()
    assert len(list((state / "allowed").iterdir())) == 2
    (received / "reward.py").write_text(REWARD + "# other\n")
    run.recipe_file(consent=Consent(ask=yes))
    assert "task.py" not in questions[1], "only what changed is asked about"
    elsewhere = Path(shutil.copytree(received, received.with_name("again")))
    assert RunFolder.open(elsewhere).names_unknown_code(), "other files of the same content may have other neighbours"


def test_a_no_and_the_flag_are_not_remembered(received: Path, state: Path) -> None:
    run = RunFolder.open(received)
    with pytest.raises(Refused, match="Nothing was imported"):
        run.recipe_file(consent=Consent(ask=lambda _: False))
    run.recipe_file(consent=Consent(given=True))
    assert run.names_unknown_code()
    assert not state.exists()


@pytest.mark.parametrize(("size", "terminal", "asks"), [("1", True, True), ("2", True, False), ("1", False, False)])
def test_only_one_process_at_a_terminal_asks(
    monkeypatch: pytest.MonkeyPatch, size: str, terminal: bool, asks: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert (options.plugin_consent(given=False).ask is not None) is asks


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["damaged", "a file", "read-only"])
def test_a_state_folder_that_cannot_be_used_makes_a_run_foreign_and_fails_no_run(
    tmp_path: Path, state: Path, fault: str
) -> None:
    if fault == "a file":
        state.parent.mkdir()
        state.write_text("")
    elif fault == "read-only":
        if os.geteuid() == 0:
            state.parent.symlink_to("/proc/self/nowhere")  # no user may write there
        else:
            state.parent.mkdir(mode=0o500)
    done = call("run", project(tmp_path / "p"))
    assert done.exit_code == 0, done.output
    if fault == "damaged":
        for record in (state / "runs").iterdir():
            record.write_text("{")
    else:
        assert f"{state} cannot be written" in done.stderr
    assert RunFolder.open(tmp_path / "p/runs/mine").names_unknown_code()


def test_many_processes_may_write_records_at_once(tmp_path: Path, state: Path) -> None:
    recipe = project(tmp_path)
    plugin = files_of_plugin("tasks", PluginSpec(use="./task.py:Own"), recipe.parent)
    folders = [tmp_path / f"run{n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda folder: trust.sign(folder, tmp_path, [plugin]), folders))
    assert not [folder for folder in folders if trust.unknown_here([plugin], folder)]
    assert len(list((state / "runs").iterdir())) == 40
    assert oct((state / "runs").stat().st_mode)[-3:] == "700"


def test_running_again_keeps_the_token_and_a_strange_one_is_replaced(own: Path, tmp_path: Path) -> None:
    token = json.loads((own / "origin.json").read_text())["token"]
    trust.sign(own, tmp_path, [])
    assert json.loads((own / "origin.json").read_text())["token"] == token
    (own / "origin.json").write_text(json.dumps({"folder": "/", "token": "0" * 32}))
    trust.sign(own, tmp_path, [])
    assert json.loads((own / "origin.json").read_text())["token"] not in (token, "0" * 32)


# Hidden ways


def test_a_compiled_copy_that_came_along_is_not_run(received: Path) -> None:
    """Python would run __pycache__/task.*.pyc, whatever task.py says, when its header says not to compare them."""
    evil = received / "evil.py"
    evil.write_text(TASK.replace('"imported"', '"evil ran"'))
    compiled = importlib.util.cache_from_source(str(received / "task.py"))
    py_compile.compile(str(evil), compiled, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    evil.unlink()
    assert call("eval", received, "--data", received / "rows.jsonl", "--trust").exit_code == 0
    assert imported(received)
    assert not (received / "evil ran").exists()


def test_names_in_the_list_cannot_move_the_cursor_or_hide_letters(tmp_path: Path) -> None:
    name = "a\x1b[2J\u202e\nb.py"
    (tmp_path / name).write_text(TASK)
    plugin = files_of_plugin("tasks", PluginSpec(use=f"./{name}:Own"), tmp_path)
    with pytest.raises(Refused) as refused:
        trust.admit([plugin], tmp_path, Consent())
    assert "a\u27e8001B\u27e9[2J\u27e8202E\u27e9\u27e8000A\u27e9b.py" in str(refused.value)
    assert not [c for c in str(refused.value) if not c.isprintable() and c != "\n"]


@pytest.mark.parametrize("verb", ["eval", "publish", "merge"])
@pytest.mark.parametrize("name", ["run.log", "eval", "publish"])
def test_no_verb_writes_through_a_link_that_came_along(received: Path, tmp_path: Path, verb: str, name: str) -> None:
    target = tmp_path / "target"
    target.mkdir() if name != "run.log" else target.write_text("mine")
    shutil.rmtree(received / name, ignore_errors=True)
    (received / name).symlink_to(target)
    done = call(verb, *arguments(ASKING[verb], received), "--trust")
    assert done.exit_code == 2, done.output
    assert "is a link to a place outside the run folder" in done.stderr
    assert target.read_text() == "mine" if target.is_file() else not list(target.iterdir())


def test_processes_of_a_received_folder_do_not_import_from_the_working_directory(received: Path, own: Path) -> None:
    trust.admit([], own, Consent())
    assert not os.environ["PYTHONSAFEPATH"]
    trust.admit([], received, Consent())
    assert os.environ["PYTHONSAFEPATH"] == "1"


@pytest.mark.slow
@pytest.mark.parametrize("command", [["-m", "adapters"], ["-m", "adapters.__main__"]], ids=" ".join)
def test_files_of_the_working_directory_hide_no_library(received: Path, command: list[str]) -> None:
    for name in ("json", "torch", "typing", "rich", "typer", "jinja2", "multiprocessing"):
        (received / f"{name}.py").write_text("open('shadowed', 'w')\n")
    package = str(Path(trust.__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": package}
    env.pop("PYTHONSAFEPATH")
    done = subprocess.run(
        [sys.executable, *command, "report", "."], cwd=received, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (received / "shadowed").exists()


@pytest.mark.slow
def test_a_person_at_a_terminal_is_asked_and_answers(received: Path, tmp_path: Path) -> None:
    """A real terminal: the list, the question, yes; the second time nothing is asked."""
    import pty

    command = [sys.executable, "-m", "adapters", "eval", str(received), "--data", str(received / "rows.jsonl")]
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    for answer, expected in (("n", 3), ("y", 0), ("", 0)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=env)
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        process.communicate(timeout=120)
        said = os.read(ours, 100_000).decode(errors="replace")
        os.close(ours)
        assert process.returncode == expected, said
        assert ("Import these files?" in said) is bool(answer)
        assert imported(received) is (expected == 0)


@pytest.mark.parametrize("source", ["x = " + "-" * 100_000 + "1", "x = " + "+".join(["1"] * 100_000), "\x00", "def"])
def test_a_file_that_no_parser_reads_is_listed_all_the_same(tmp_path: Path, source: str) -> None:
    (tmp_path / "task.py").write_text(source)
    plugin = files_of_plugin("tasks", PluginSpec(use="./task.py:Own"), tmp_path)
    with pytest.raises(Refused, match=r"task\.py  sha256"):
        trust.admit([plugin], tmp_path, Consent())


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    recipe = project(tmp_path)
    done = call("run", recipe, 'task="./a\\0b.py:X"')
    assert done.exit_code == 2
    assert "task.use" in done.stderr
    assert "zero character" in done.stderr


@pytest.mark.parametrize(("given", "used"), [("/x", "/x"), ("relative", "/home/me/.local/state"), ("", None)])
def test_where_the_state_folder_is(monkeypatch: pytest.MonkeyPatch, given: str, used: str | None) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_STATE_HOME", given)
    assert trust.state_folder() == Path(used or "/home/me/.local/state") / "extraction-adapters"


def test_a_class_that_a_schema_is_made_of_is_code_too(received: Path) -> None:
    (received / "models.py").write_text(
        "from pathlib import Path\nfrom kinds import Kind\nfrom pydantic import BaseModel\n"
        "Path(__file__).with_name('imported').touch()\n\n\nclass Bill(BaseModel):\n    kind: Kind\n"
    )
    (received / "kinds.py").write_text("Kind = str\n")
    tree = json.loads((received / "recipe.json").read_text())
    tree["task"] = {"use": "records", "schema": "./models.py:Bill"}
    (received / "recipe.json").write_text(json.dumps(tree))
    done = call("eval", received, "--data", received / "rows.jsonl")
    assert done.exit_code == 3, done.output
    for name in ("models.py", "kinds.py"):
        assert f"{received}/{name}  sha256 {sha256(received / name)[:16]}" in done.stderr
    assert not imported(received)
