"""A folder with a program and a corpus, and a large model that answers by rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from laptops import PROGRAM, TEXTS, answer
from scripted import reply, write
from test_engines import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
    server = Server()
    server.answer = lambda body: reply(answer(*(message["content"] for message in body["messages"])))
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.yaml").write_text(PROGRAM)
    write(tmp_path / "corpus.jsonl", list(TEXTS))
    return tmp_path
