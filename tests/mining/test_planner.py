"""Programs from an instruction in words: twenty of them, in four groups, and what happens to wrong ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from laptops import PROGRAM, TEXTS, Rules, proxy_folder
from scripted import reply, write
from test_engines import Server
from twenty_programs import PAIRS, renamed
from typer.testing import CliRunner

from adapters.chat_client import Connection
from adapters.cli.main import app
from adapters.mining import engine, planner, program
from adapters.mining.annotate import calls
from adapters.mining.expression import Expression

YAML = f"Here you are:\n```yaml\n{PROGRAM}```\nAnything else?"


@pytest.fixture
def server(server: Server) -> Server:
    server.answer = lambda body: reply(YAML)
    return server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(server: Server, *arguments: object, yes: bool = True) -> Any:
    words = ["plan", "Prices of laptops", "-o", "p.yaml", "--endpoint", server.url, *map(str, arguments)]
    return CliRunner().invoke(app, [*words, *(["--yes"] if yes else [])])


def test_a_program_is_written_after_a_yes(place: Path, server: Server) -> None:
    done = plan(server, yes=False)
    assert (done.exit_code, list(place.iterdir())) == (3, [])
    assert PROGRAM in done.stderr
    assert done.stderr.endswith("nothing was written: nobody is there to ask; say --yes.\n")
    done = plan(server, "--json", "--price-in", 1, "--price-out", 2)
    assert done.exit_code == 0
    assert (place / "p.yaml").read_text() == PROGRAM
    said = json.loads(done.stdout)
    assert (said["texts"], said["calls"], said["annotated"], said["requests"]) == (1000, 4000, 50, 200)
    assert "at most 4,000 calls of the proxy" in done.stderr
    assert plan(server).exit_code == 2, "it exists"


def test_the_formula_of_the_estimate() -> None:
    assert calls(program.read(Path("p"), PROGRAM), 1000) == 1000 * 2 + 1000 * 2 * 1


def test_a_program_is_measured_with_a_proxy(place: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "load_proxy", lambda source, batch_size: Rules())
    proxy_folder(place / "proxy")
    write(place / "corpus.jsonl", [f"{TEXTS[n % 3]} {n}" for n in range(300)])
    done = plan(server, "--corpus", "corpus.jsonl", "--proxy", "proxy", "--json", "--share", 0.1)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["measured"]["texts"] == 64
    assert 0.4 < said["measured"]["kept"] < 0.9
    assert said["measured"]["found"]["positive"] == said["measured"]["kept"]
    assert (said["texts"], said["annotated"]) == (300, 30)
    assert 300 * 1.4 < said["calls"] < 300 * 4
    prices = said["requests"] / 30 - 2
    assert 0.5 < prices < 2.5, "both outer questions of every text, whatever `keep` drops, and one for each laptop"
    kept = said["measured"]["kept"]
    assert said["measured"]["found"]["laptop"] == said["measured"]["found"]["laptop.price"] > kept / 2, (
        "spans, not texts"
    )
    assert "(measured on 64 texts)" in done.stderr


def test_a_wrong_program_goes_back_twice(place: Path, server: Server) -> None:
    wrong = "```yaml\nversion: 1\nsteps:\n  - {keep: positive}\n```"
    server.script = [reply(wrong), reply("I cannot."), reply(YAML)]
    assert plan(server).exit_code == 0
    said = [body["messages"][-1]["content"] for body in server.requests]
    assert said[0] == "Prices of laptops"
    assert "p.yaml:3 keep: there is no step 'positive' before this one." in said[1]
    assert "a program is a mapping" in said[2]
    (place / "p.yaml").unlink()
    server.answer = lambda body: reply(wrong)
    done = plan(server)
    assert (done.exit_code, len(server.requests)) == (1, 6)
    assert "tiny wrote no program: p.yaml:3 keep:" in done.stderr
    assert (place / "p.yaml.rejected").read_text() == wrong
    assert not (place / "p.yaml").exists()


def test_what_cannot_be_planned(place: Path, server: Server) -> None:
    proxy_folder(place / "causal", task_type="CAUSAL_LM")
    for arguments, sentence in {
        ("--proxy", "causal"): "causal is a causal adapter; plan --proxy needs one of kind token_classification.",
        ("--share", "0"): "--share 0.0: a share is above 0 and at most 1.",
        ("--corpus", "none.jsonl"): "there is no file none.jsonl.",
    }.items():
        done = plan(server, *arguments)
        assert done.exit_code == 2
        assert sentence in done.stderr


# ------------------------------------------------------------------------------------------------------ twenty programs


def rewritten(steps: tuple[program.Step, ...]) -> list[Any]:
    """Steps as another writer has them: other names, `and` by De Morgan's law."""

    def expression(test: Expression) -> str:
        if isinstance(test, str):
            return f"{test}_x"
        parts = [f"({expression(part)})" for part in test[1]]
        return {
            "not": f"not {parts[0]}",
            "or": " or ".join(parts),
            "and": f"not ({' or '.join(f'not {part}' for part in parts)})",
        }[test[0]]

    out: list[Any] = []
    for step in steps:
        if isinstance(step, program.Ask):
            instruction = step.instruction.replace("}", "_x}")
            out.append({step.kind: f"{step.name}_x", "instruction": instruction})
        elif isinstance(step, program.Keep):
            out.append({"keep": expression(step.test)})
        elif isinstance(step, program.First):
            out.append({"first": f"{step.name}_x"})
        else:
            out.append({"each": f"{step.name}_x", "steps": rewritten(step.steps)})
    return out


@pytest.mark.parametrize(("group", "instruction", "steps"), PAIRS, ids=[pair[1] for pair in PAIRS])
def test_twenty_programs(server: Server, group: str, instruction: str, steps: str) -> None:
    """A scripted model writes each with names and expressions of its own; it is read as the same program."""
    wanted = program.read(Path("p.yaml"), f"version: 1\nsteps: {steps}\n")
    answer = json.dumps(rewritten(wanted.steps))
    server.answer = lambda body: reply(f"```yaml\nversion: 1\ntask: {group}\nsteps: {answer}\n```")
    found = planner.plan(instruction, Connection.open(server.url), Path("p.yaml")).program
    assert [body["messages"][1]["content"] for body in server.requests] == [instruction]
    assert renamed(found) == renamed(wanted)
    assert ("each" in group) == any(isinstance(step, program.Each) for step in found.steps)


def test_programs_are_equal_up_to_names_and_the_form_of_keep() -> None:
    def of(text: str) -> list[Any]:
        return renamed(program.read(Path("p"), f"version: 1\nsteps: {text}"))

    asks = "{label: a, instruction: x}, {label: b, instruction: y}"
    assert of(f"[{asks}, {{keep: not (a and b)}}]") == of(f"[{asks}, {{keep: not a or not b}}]")
    assert of(f"[{asks}, {{keep: a and b}}]") != of(f"[{asks}, {{keep: a or b}}]")
    each = "[{{span: {0}, instruction: x}}, {{each: {0}, steps: [{{span: {1}, instruction: 'y {{{0}}}'}}]}}]"
    assert of(each.format("m", "n")) == of(each.format("r", "s"))
    assert len({str(of(steps)) for _, _, steps in PAIRS}) > 15


def test_the_examples_of_the_prompt_are_programs() -> None:
    blocks = planner.SYSTEM.split("```yaml\n")[1:]
    assert len(blocks) == 4
    for block in blocks:
        assert program.read(Path("p.yaml"), block.partition("```")[0]).asks
