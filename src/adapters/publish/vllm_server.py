"""The card's command for vLLM's server, run as it stands; the server is then asked as the card asks one."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import urllib3

from adapters.publish import gate
from adapters.publish.finished_run import Finished
from adapters.publish.model_server import asked, running

ADAPTER, BASE = "adapter", "base"
"""Folders that the card's other commands make: of the adapter, and of the text model of a base."""


def tried(finished: Finished, folder: Path, repo: str, tag: str | None, card: str, python: Path) -> None:
    """Run the command of a bundle's card, and ask for the answer to its example. Raises RuntimeError.

    `python` is the interpreter of an environment with vLLM.
    """
    words = shlex.split(next(line for line in card.splitlines() if line.startswith("vllm serve ")))
    try:
        with gate.as_on_the_hub(finished, folder, repo, tag, card) as (work, env):
            (work / ADAPTER).symlink_to(folder.resolve())
            if words[2] == BASE:
                (work / BASE).symlink_to(gate.base_files(finished).resolve())
            started = [str(python.with_name("vllm")), *words[1:], "--host", "127.0.0.1", "--port"]
            log, env = work / "server.log", {**os.environ, **env}
            with running(lambda port: [*started, port], log, env, cwd=work) as address:
                answer = asked(finished, folder, address, finished.longest_answer, model=repo.partition("/")[2])
    except (OSError, ValueError, KeyError, urllib3.exceptions.HTTPError) as error:
        raise RuntimeError(f"{type(error).__name__}: {error}") from None
    if not finished.task.is_well_formed(answer):
        raise RuntimeError(f"its answer is malformed: {answer[:60]!r}")
