"""The command's surface: help pages, headings, examples, the version, completion, and docs/cli.md."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from adapters.cli.help import EXAMPLES, FIRST_STEPS, HEADINGS
from adapters.cli.main import app

ROOT = Path(__file__).parents[2]
PYTHON_TYPES = re.compile(r"<\w+(\[|>)|\bLIST\[|\blist\[|\bstr\b|\bINTEGER\b|\bFLOAT\b|\bNone\b|\bOptional\b|x>=|<=x")


def verbs(command: Any = None, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Every verb and group by its path, hidden ones left out."""
    command = command or get_command(app)
    found = {}
    for name, verb in getattr(command, "commands", {}).items():
        if not verb.hidden:
            found[" ".join((*path, name))] = verb
            found |= verbs(verb, (*path, name))
    return found


def shown(*arguments: str, width: int = 100) -> str:
    result = CliRunner().invoke(app, list(arguments), prog_name="adapters", terminal_width=width)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_verb_stands_under_a_heading_and_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(verbs())
    flat = {name for name in verbs() if " " not in name}
    assert sorted(name for names in HEADINGS.values() for name in names) == sorted(flat)


@pytest.mark.parametrize("name", ["", *EXAMPLES])
def test_a_help_page_has_no_python_types_and_one_example_at_its_end(name: str) -> None:
    page = shown(*name.split(), "--help")
    assert not PYTHON_TYPES.search(page)
    if name:
        heading, example = page.rstrip().split("\n")[-2:]
        assert (heading, example.strip()) == ("Example:", EXAMPLES[name])


@pytest.mark.parametrize("example", [*EXAMPLES.values(), *(command for command, _ in FIRST_STEPS)])
def test_an_example_is_a_command_that_parses(example: str) -> None:
    """Up to its files: the words are a verb, and its options exist and take the values given."""
    words = shlex.split(example.partition(" > ")[0])[1:]
    command = get_command(app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context(words[0], words, parent=context, resilient_parsing=True)
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words, parent=context)


def test_the_command_alone_is_its_help_and_no_mistake() -> None:
    page = shown()
    assert page == shown("--help")
    places = [page.index(f"{heading}:") for heading in ("First steps", *HEADINGS)]
    assert places == sorted(places)
    assert shown("data") == shown("data", "--help")


@pytest.mark.slow
def test_help_is_as_wide_as_the_terminal() -> None:
    for columns in (60, 100):
        done = subprocess.run(
            [sys.executable, "-m", "adapters", "extract", "--help"],
            capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": str(columns)},
        )  # fmt: skip
        longest = max(map(len, done.stdout.splitlines()))
        assert columns - 20 < longest <= columns


def test_the_version() -> None:
    assert re.fullmatch(r"extraction-adapters \d+\.\d+\.\d+\n", shown("--version"))


@pytest.mark.slow
@pytest.mark.parametrize(("words", "found"), [("adapters da", "data"), ("adapters data no", "noise")])
def test_the_shell_completes_verbs(words: str, found: str) -> None:
    env = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_ADAPTERS_COMPLETE": "complete_bash",
    }
    done = subprocess.run([sys.executable, "-m", "adapters"], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == [found]


def test_the_page_of_the_command_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "build"))
    build = importlib.import_module("build_cli_docs")
    assert build.PAGE.read_text(encoding="utf-8") == build.page(), "run: make cli-docs"


def test_no_message_installs_from_an_index_that_has_no_such_package() -> None:
    files = (path for folder in ("src", "rewards", "data_aug", "recipes") for path in (ROOT / folder).rglob("*"))
    texts = {path: path.read_text(encoding="utf-8") for path in files if path.suffix in (".py", ".yaml", ".j2")}
    assert not [path for path, text in texts.items() if re.search(r"\bpip install '?extraction-adapters", text)]
