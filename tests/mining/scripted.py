"""A scripted large model, and `annotate` asked by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from test_engines import Server
from typer.testing import CliRunner

from adapters.cli.main import app


def reply(text: str, prompt: int = 100, completion: int = 10, **choice: Any) -> Any:
    choices = [{"message": {"content": text}, "finish_reason": "stop", **choice}]
    usage = {"prompt_tokens": prompt, "completion_tokens": completion} if prompt else {}
    return 200, {}, {"choices": choices, "usage": usage}


def write(path: Path, texts: list[Any]) -> None:
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(texts, 1)))


def annotate(server: Server | str, *arguments: object, yes: bool = True) -> Any:
    url = server if isinstance(server, str) else server.url
    words = ["annotate", "corpus.jsonl", "-o", "out.jsonl", "--endpoint", url, *map(str, arguments)]
    return CliRunner().invoke(app, [*words, *(["--yes"] if yes else [])])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
