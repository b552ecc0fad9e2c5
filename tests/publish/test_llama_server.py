"""The card's commands for llama.cpp: taken from the card, run, and the server asked; what fails is not shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_bundle import FACTS, make_run, same_plots

from adapters.cli import publish
from adapters.errors import UserError
from adapters.publish import bundle, card, gate, llama_server, release, vllm_server
from adapters.publish.finished_run import Finished, read
from adapters.publish.gguf import Converters

same_plots = same_plots
SERVER = """#!{python}
import http.server, json, sys
if "--version" in sys.argv:
    sys.exit(print("version: 7 (abc)", file=sys.stderr))
if {dies}:
    sys.exit("error: unknown model architecture")


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({{}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        open({asked!r}, "w").write(json.dumps([sys.argv[1:], asked]))
        self.reply({{"choices": [{{"message": {{"content": {answer!r}}}}}]}})

    def reply(self, value):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_):
        pass


http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Answers).serve_forever()
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return read(make_run(tmp_path_factory.mktemp("run"), "name=other"))


def llama(folder: Path, answer: str = "[]", *, dies: bool = False) -> Converters:
    """A folder of llama.cpp with a server of this answer."""
    program = folder / "llama" / "build" / "bin" / "llama-server"
    program.parent.mkdir(parents=True)
    told = {"python": sys.executable, "answer": answer, "asked": str(folder / "asked.json"), "dies": dies}
    program.write_text(SERVER.format(**told))
    program.chmod(0o755)
    for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py"):
        (folder / "llama" / name).touch()
    return Converters(folder / "llama")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """What the card has run beside the server; nothing is merged or converted."""
    ran: list[list[str]] = []

    @contextmanager
    def hub(*_: object) -> Iterator[tuple[Path, dict[str, str]]]:
        (tmp_path / "work").mkdir()
        yield tmp_path / "work", {}

    def run_in(command: list[str], folder: str, env: dict[str, str]) -> subprocess.CompletedProcess:
        ran.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(gate, "as_on_the_hub", hub)
    monkeypatch.setattr(gate, "run_in", run_in)
    return ran


@pytest.fixture
def made(finished: Finished, tmp_path: Path, same_plots: None) -> Path:
    bundle.assemble(finished, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.mark.slow
def test_the_cards_commands_are_run_and_its_server_asked(
    finished: Finished, made: Path, commands: list[list[str]], tmp_path: Path
) -> None:
    text, tools = card.render(finished, made, "me/funding", FACTS, []), llama(tmp_path)
    assert llama_server.tried(finished, made, "me/funding", None, text, tools) == "7 (abc)"
    [merge, convert] = commands
    assert "merge_and_unload().save_pretrained" in merge[2]
    assert convert[1:] == [
        str(tools.folder / "convert_hf_to_gguf.py"), "merged", "--outfile", "merged.gguf", "--outtype", "bf16",
    ]  # fmt: skip
    words, asked = json.loads((tmp_path / "asked.json").read_text())
    assert words[:5] == ["-m", "merged.gguf", "--jinja", "--temp", "0"]
    assert asked["response_format"]["json_schema"]["schema"] == finished.task.answer_schema()
    assert asked["messages"] == list(finished.example().prompt)


@pytest.mark.slow
def test_the_cards_command_for_vllm_is_run_too(
    finished: Finished, made: Path, commands: list[list[str]], tmp_path: Path
) -> None:
    program = llama(tmp_path).folder / "build" / "bin" / "llama-server"
    vllm = program.rename(program.with_name("vllm"))
    known = FACTS | {"vllm": "0.30"}
    text = card.render(finished, made, "me/funding", known, [])
    assert "(**not run:** the server's command):" in text
    vllm_server.tried(finished, made, "me/funding", None, text, vllm.with_name("python"))
    words, asked = json.loads((tmp_path / "asked.json").read_text())
    assert words[0] == "serve"
    assert words[words.index("--lora-modules") + 1] == "funding=./adapter"
    assert asked["model"] == "funding"
    assert "and whose server was started by this command" in card.render(
        finished, made, "me/funding", known | {"vllm_server": True}, []
    )
    told = card.render(finished, made, "me/funding", known | {"vllm_server_fault": "it ends"}, [])
    assert "(**not run:** the server's command, which failed where this card was made: it ends):" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "dies", "message"),
    [("no JSON", False, "malformed: 'no JSON'"), ("[]", True, "llama-server ends: error: unknown model architecture")],
)
def test_a_command_that_fails_says_so(
    finished: Finished, made: Path, commands: list[list[str]], tmp_path: Path, answer: str, dies: bool, message: str
) -> None:
    text = card.render(finished, made, "me/funding", FACTS, [])
    with pytest.raises(RuntimeError, match=message):
        llama_server.tried(finished, made, "me/funding", None, text, llama(tmp_path, answer, dies=dies))


@pytest.mark.slow
def test_the_card_says_what_was_run_and_leaves_out_what_fails(finished: Finished, made: Path) -> None:
    def shown(**facts: object) -> str:
        return card.render(finished, made, "me/funding", FACTS | facts, [])

    assert "With llama.cpp 7 (abc), with which these commands were run" in shown(llama="7 (abc)")
    assert "llama.cpp's server was asked so" in shown(llama="7 (abc)")
    assert "llama-server" not in shown(llama_fault="it ends")
    assert "merge_and_unload" in shown(llama_fault="it ends")
    told = {"passed": True, "base_license": "mit", "llama_fault": "it ends"}
    assert "llama.cpp: it ends; the card has no commands for it" in release._notes(finished, told)


def test_a_card_without_a_schema_has_the_commands_too() -> None:
    merge = "```python\nx\n```\n```\npip install y\n```\n```\npython -c 'a.merge_and_unload()'\n```\n````\n```\n````\n"
    served = "```\npython LLAMA_CPP/convert.py merged\nllama-server -m merged.gguf\n```\n"
    words = llama_server.commands(merge + served)
    assert words[0][2:] == ["a.merge_and_unload()"]
    assert words[1:] == (["python", "LLAMA_CPP/convert.py", "merged"], ["llama-server", "-m", "merged.gguf"])


def test_a_folder_without_a_server_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = llama(tmp_path)
    assert publish._llama(tools.folder) == tools
    (tools.folder / "build/bin/llama-server").unlink()
    monkeypatch.setenv("PATH", "")
    assert publish._llama(tools.folder) is None
    with pytest.raises(UserError, match=r"there is no convert_hf_to_gguf\.py"):
        publish._llama(tmp_path)
