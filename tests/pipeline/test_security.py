"""What a run refuses to execute, read, write or repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.console import quiet
from adapters.errors import UserError
from adapters.integrations import trl_reward
from adapters.recipe.load import load_recipe

SECRETS = {
    "HF_TOKEN": "hf_" + "plantedAndFakeForThisTest0123456789",
    "WANDB_API_KEY": "0123456789abcdef-planted-and-fake",
    "TINKER_API_KEY": "tml-planted-and-fake-9876543210",
}


def write_recipe(folder: Path, text: str = "") -> Path:
    write_jsonl(folder / "x.jsonl", funding_rows(20))
    path = folder / "r.yaml"
    path.write_text(
        f"name: r\ntask: funding\ntrainer: echo\nmodel: {{base: a/b}}\nrun_dir: {folder / 'runs'}\n"
        "stages: [{kind: sft, data: [{path: x.jsonl}], learning_rate: 1e-4}]\n"
        "evaluate: [{name: test, data: [{path: x.jsonl}]}]\n" + text
    )
    return path


def test_code_of_a_model_runs_only_when_recipe_and_person_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.backends.local.model import CONSENT, trusts
    from adapters.recipe.recipe import Model

    monkeypatch.setenv(CONSENT, "1")
    assert not trusts(Model(base="a/b")), "the person alone does not decide it"
    assert trusts(Model(base="a/b", trust_remote_code=True))
    monkeypatch.delenv(CONSENT)
    with pytest.raises(UserError, match="--trust-remote-code") as raised:
        trusts(Model(base="a/b", trust_remote_code=True))
    assert raised.value.at == ("model", "trust_remote_code")


def test_the_flag_is_what_a_launcher_passes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERS_TRUST_REMOTE_CODE", "0")
    result = CliRunner().invoke(app, ["run", str(write_recipe(tmp_path)), "--dry-run", "--trust-remote-code"])
    assert result.exit_code == 0, result.output
    assert os.environ["ADAPTERS_TRUST_REMOTE_CODE"] == "1"


def test_code_beside_local_weights_is_not_run(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from adapters.backends.local import base_model, model
    from adapters.recipe.recipe import Model

    folder = shutil.copytree(tiny_model, tmp_path / "evil")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        model.load_base(base_model.resolve(str(folder)), Model(base=str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config", "tokenizer_config"])
def test_no_library_asks_on_its_own_whether_code_may_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At a terminal transformers asks for 15 seconds, whatever the recipe says."""
    import shutil

    from transformers import AutoTokenizer

    from adapters.backends.local import base_model

    folder = shutil.copytree(tiny_model, tmp_path / "evil")
    settings = json.loads((folder / f"{name}.json").read_text())
    auto = {"AutoConfig": "evil.C", "AutoTokenizer": ["evil.T", None]}
    settings |= {"model_type": "evil", "tokenizer_class": "Evil", "auto_map": auto}
    (folder / f"{name}.json").write_text(json.dumps(settings))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda _: "y")
    base = base_model.resolve(str(folder))
    load = partial(base_model.load_config, base) if name == "config" else partial(AutoTokenizer.from_pretrained, folder)
    with pytest.raises((UserError, ValueError), match=r"trust_remote_code=True|cannot be used"):
        load()
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_runs_in_a_sandbox(tiny_model: Path) -> None:
    from adapters.backends.local import base_model
    from adapters.backends.local.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base_model.resolve(str(tiny_model)))
    tokenizer.chat_template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(Exception, match="unsafe"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}])


def test_a_message_cannot_move_the_cursor_or_hide_letters(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["run", str(write_recipe(tmp_path, 'data_root: "\\e[2J\\u202e"\n'))])
    assert result.exit_code == 2
    assert "\u27e8001B\u27e9[2J\u27e8202E\u27e9" in result.stderr


def test_pickled_weights_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    from adapters.backends.local import base_model, model
    from adapters.recipe.recipe import Model

    folder = shutil.copytree(tiny_model, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is a pickle") as raised:
        base_model.resolve(str(folder))
    assert raised.value.at == ("model", "base")
    with pytest.raises(UserError, match="cannot be loaded"):  # as a Hub repository with such files would be
        model.load_base(base_model.Base(str(folder), "a/b"), Model(base="a/b"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled adapters"):
        model.load_adapter(None, tmp_path / "adapter", base_model.resolve(str(tiny_model)), trainable=False)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/tmp/x", "..\\x", "a\n", ""])
@pytest.mark.parametrize("key", ["name", "evaluate.0.name"])
def test_no_name_leads_out_of_the_run_folder(tmp_path: Path, key: str, name: str) -> None:
    with pytest.raises(UserError, match="name"):
        load_recipe(write_recipe(tmp_path), [f"{key}={json.dumps(name)}"])


def test_no_link_leads_out_of_the_run_folder(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "r").mkdir(parents=True)
    (tmp_path / "runs" / "r" / "eval").symlink_to(tmp_path / "elsewhere")
    result = CliRunner().invoke(app, ["run", str(recipe)])
    assert result.exit_code == 2
    assert "is a link to a place outside the run folder" in result.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_run_folder_on_another_disk_is_fine(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r").symlink_to(tmp_path / "large")
    result = CliRunner().invoke(app, ["run", str(write_recipe(tmp_path))])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "large" / "report.json").is_file()


@pytest.mark.parametrize("place", ["override", "text", "comment", "shape"])
def test_a_secret_in_a_recipe_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    secret = "hf_" + "x" * 34 if place == "shape" else SECRETS["TINKER_API_KEY"]
    text = {"text": f"data_root: /{secret}\n", "comment": f"# {secret}\n"}.get(place, "")
    overrides = [f"stages.0.trl.hub_token={secret}"] if place in ("override", "shape") else []
    result = CliRunner().invoke(app, ["run", str(write_recipe(tmp_path, text)), *overrides])
    assert result.exit_code == 2
    assert "HF_TOKEN" in result.stderr
    assert secret not in result.output
    assert not (tmp_path / "runs").exists()


def planted_in(folder: Path) -> list[str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert files
    return [str(p) for p in files for value in SECRETS.values() if value.encode() in p.read_bytes()]


def test_nothing_that_a_run_writes_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["run", str(write_recipe(tmp_path))])
    assert result.exit_code == 0, result.output
    assert not planted_in(tmp_path / "runs")
    assert not [value for value in SECRETS.values() if value in result.output]


@pytest.mark.slow
def test_nothing_that_a_failed_training_writes_holds_a_secret(tmp_path: Path, recipe_text: str) -> None:
    """With a traceback in the log, which is where an environment could come to light."""
    (tmp_path / "chain.yaml").write_text(recipe_text)
    (tmp_path / "failing.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "class Failing:\n"
        "    def __call__(self, completion, example):\n"
        "        if any(Path('runs').glob('*/2-grpo.partial')):  # not yet while the plan tries it\n"
        "            raise ValueError('not today: ' + os.environ['TINKER_API_KEY'] + ' hf_' + 'aB3' * 10)\n"
        "        return 0.5\n"
    )
    done = subprocess.run(
        [sys.executable, "chain.yaml", "stages.1.rewards=[./failing.py:Failing]", "stages.1.save_every=1"],
        cwd=tmp_path,
        env={**os.environ, **SECRETS, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 1
    assert "not today: *** ***" in done.stderr
    log = (tmp_path / "runs" / "chain" / "run.log").read_text()
    assert "Traceback" in log
    assert "hf_aB3" not in log + done.stderr
    assert not planted_in(tmp_path / "runs")
    assert not [value for value in SECRETS.values() if value in done.stdout + done.stderr]


PLUGIN = """
import os
from dataclasses import dataclass
from adapters.tasks.funding import FundingTask

SECRET = os.environ["TINKER_API_KEY"]

@dataclass(frozen=True)
class Task(FundingTask):
    def example(self, row, **k):
        if row.get("id") == "r0":
            raise ValueError("no such row at " + SECRET)
        return super().example(row, **k)

def judge(completion, example):
    raise ConnectionError("401 for " + SECRET + ", hf_" + "aB3" * 10)
"""


@pytest.mark.slow
def test_what_a_plugin_says_is_shown_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", SECRETS["TINKER_API_KEY"])
    (tmp_path / "plug.py").write_text(PLUGIN)
    reward = trl_reward(str(tmp_path / "plug.py") + ":judge", task="funding", on_error="zero", max_errors=1.0)
    reward.caller.log = tmp_path / "rollouts-0.jsonl"
    row = funding_rows(1)[0]
    assert reward(completions=["[]"], **{key: [value] for key, value in row.items()}) == [0.0]
    assert "401 for ***, ***" in (tmp_path / "rollouts-0.jsonl").read_text()
    recipe = write_recipe(tmp_path)
    wanted = ["task=./plug.py:Task", "max_bad_rows=0.5"]
    done = CliRunner().invoke(app, ["run", str(recipe), *wanted])
    assert done.exit_code == 0, done.output
    assert "no such row at ***" in (tmp_path / "runs" / "r" / "rejected.jsonl").read_text()
    (tmp_path / "plug.py").write_text("import os\nraise OSError(os.environ['TINKER_API_KEY'] + ' is refused')\n")
    (tmp_path / "other.py").write_text((tmp_path / "plug.py").read_text())
    done = CliRunner().invoke(app, ["run", str(recipe), "task=./other.py:Task"])
    assert done.exit_code == 2
    assert "OSError: *** is refused" in done.stderr
    assert not planted_in(tmp_path / "runs")


def test_telemetry_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    with quiet(None):
        pass
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "1"
