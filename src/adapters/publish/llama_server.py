"""The card's commands for llama.cpp, run as they stand; its server is then asked as the card asks one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import urllib3

from adapters.publish import gate
from adapters.publish.finished_run import Finished
from adapters.publish.gguf import Converters
from adapters.publish.model_server import asked, running


def tried(finished: Finished, folder: Path, repo: str, tag: str | None, card: str, tools: Converters) -> str:
    """Run the commands of a bundle's card, and ask for the answer to its example. Returns llama.cpp's version.

    Raises RuntimeError that says which one fails.
    """
    try:
        return _tried(finished, folder, repo, tag, card, tools)
    except (OSError, ValueError, KeyError, urllib3.exceptions.HTTPError) as error:
        raise RuntimeError(f"llama-server: {type(error).__name__}: {error}") from None


def _tried(finished: Finished, folder: Path, repo: str, tag: str | None, card: str, tools: Converters) -> str:
    merge, convert, serve = commands(card)
    with gate.as_on_the_hub(finished, folder, repo, tag, card) as (work, env):
        _run("merging", [sys.executable, *merge[1:]], work, env)
        script, *options = convert[1:]
        path = script.replace("LLAMA_CPP", str(tools.folder))
        _run("the converter", [sys.executable, path, *options], work, env | tools.environment)
        program = server(tools)
        words = [str(program), *serve[1:], "--host", "127.0.0.1", "--offline", "--port"]
        with running(lambda port: [*words, port], work / "server.log", libraries(program), cwd=work) as address:
            answer = asked(finished, folder, address, int(serve[serve.index("--n-predict") + 1]))
    if not finished.task.is_well_formed(answer):
        raise RuntimeError(f"llama-server's answer is malformed: {answer[:60]!r}")
    return version(program)


def commands(card: str) -> tuple[list[str], list[str], list[str]]:
    """The words of the card's commands that merge, convert and serve."""
    blocks = list(_blocks(card))
    [merge] = [block for block in blocks if "merge_and_unload" in block]
    [convert, serve] = next(block for block in blocks if "llama-server" in block).splitlines()
    return shlex.split(merge), shlex.split(convert), shlex.split(serve)


def _blocks(card: str) -> Iterator[str]:
    """The fenced blocks without a language."""
    fence, lines = "", list[str]()
    for line in card.splitlines(keepends=True):
        mark = re.match(r"(`{3,})(.*)$", line)
        if not fence and mark:
            fence, language, lines = mark[1], mark[2].strip(), []
        elif fence and line.rstrip() == fence:
            if not language:
                yield "".join(lines)
            fence = ""
        else:
            lines.append(line)


def server(tools: Converters) -> Path:
    """The server: beside the converters, or on the path. Raises RuntimeError."""
    built = tools.folder / "build" / "bin" / "llama-server"
    found = built if built.is_file() else shutil.which("llama-server")
    if found is None:
        raise RuntimeError(f"there is no llama-server in {tools.folder}/build/bin, and none on the path")
    return Path(found)


def version(program: Path) -> str:
    """What a server calls its version."""
    done = subprocess.run(  # noqa: S603 - a list of our own making, no shell reads it
        [str(program), "--version"], env=libraries(program), capture_output=True, text=True, timeout=60, check=False
    )
    said = re.search(r"version: (.+)", done.stderr + done.stdout)
    return said[1].strip() if said else "of unknown version"


def _run(what: str, command: list[str], work: Path, env: Mapping[str, str]) -> None:
    done = gate.run_in(command, str(work), dict(env))
    if done.returncode:
        raise RuntimeError(f"{what} fails: {gate.reason(done.stderr)}")


def libraries(program: Path) -> dict[str, str]:
    """The environment in which a server finds the libraries beside it, also after its folder was moved."""
    paths = [str(program.parent), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}
