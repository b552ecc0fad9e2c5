"""The client for OpenAI-compatible servers: which key it sends, how it finds a model, what a server may answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters.chat_client import Connection, PromptRefused, ServerError, sample
from adapters.errors import UserError

GOOD = {
    "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}


class Server:
    """Replies from `replies` in turn, the last one for good; keeps the requests' bodies and keys."""

    def __init__(self) -> None:
        self.models: tuple[int, Any] = (200, {"data": [{"id": "tiny"}]})
        self.replies: list[tuple[int, Any]] = [(200, GOOD)]
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                outer.keys.append(self.headers.get("Authorization"))
                self.reply(*outer.models if self.path == "/v1/models" else (404, {}))

            def do_POST(self) -> None:
                outer.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.keys.append(self.headers.get("Authorization"))
                self.reply(*(outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]))

            def reply(self, status: int, value: Any) -> None:
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
    server = Server()
    threading.Thread(target=server.http.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


def ask(connection: Connection, **options: Any) -> list[Any]:
    return connection.complete([{"role": "user", "content": "?"}], temperature=0.5, max_tokens=9, **options)


def test_no_key_is_sent_that_was_not_asked_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    ask(Connection.open(server.url))
    assert set(server.keys) == {None}
    server.keys.clear()
    ask(Connection.open(server.url, api_key_env="OPENAI_API_KEY"))
    assert set(server.keys) == {"Bearer s3cret"}
    with pytest.raises(UserError, match="the environment has no NO_SUCH_KEY"):
        Connection.open(server.url, api_key_env="NO_SUCH_KEY")


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_says_which_flag_sends_one(
    server: Server, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    server.replies = [(status, {"error": {"message": "who are you"}})]
    with pytest.raises(ServerError, match=f"wants a key .HTTP {status}: who are you.; .*--api-key-env VARIABLE"):
        ask(Connection.open(server.url))
    server.models = (status, {})
    with pytest.raises(UserError, match="--api-key-env VARIABLE"):
        Connection.open(server.url)
    monkeypatch.setenv("MY_KEY", "s3cret")
    with pytest.raises(UserError, match="refuses the key in MY_KEY"):
        Connection.open(server.url, api_key_env="MY_KEY")


def test_the_model_is_the_only_one_or_the_named_one(server: Server) -> None:
    connection = Connection.open(server.url)
    assert (connection.url, connection.model) == (f"{server.url}/v1", "tiny")
    assert ask(connection) == [("yes", False, 2, 7)]
    server.models = (200, {"data": [{"id": "small"}, {"id": "large"}]})
    with pytest.raises(UserError, match="Known: small, large"):
        Connection.open(server.url)
    assert Connection.open(server.url, "large").model == "large"
    server.models = (501, b"<html>")
    assert Connection.open(f"{server.url}/v1/", "any").url == f"{server.url}/v1", "a server need not list its models"


def test_one_choice_at_a_time_is_asked_for_until_there_are_n(server: Server) -> None:
    connection = Connection.open(server.url)
    assert len(ask(connection, n=3)) == 3
    assert [body.get("n") for body in server.bodies] == [3, 2, None], "n=1 is every server's default"
    server.replies = [(200, {"choices": GOOD["choices"] * 5})]
    assert len(ask(connection, n=3)) == 3, "a server that gives too many is cut"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_what_may_pass_is_asked_again(server: Server, status: int) -> None:
    connection = Connection.open(server.url)
    server.replies = [(status, {}), (200, GOOD)]
    assert ask(connection)[0].text == "yes"
    server.replies = [(status, {"detail": "busy"})]
    server.bodies.clear()
    with pytest.raises(ServerError, match=f"failed in 10 tries, the last with HTTP {status}: busy"):
        ask(connection)
    assert len(server.bodies) == 10


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_prompt_is_told_from_a_refusing_server(server: Server, status: int) -> None:
    connection = Connection.open(server.url)
    server.replies = [(status, {"error": "too long"})]
    with pytest.raises(PromptRefused, match=f"HTTP {status}: too long") as refusal:
        ask(connection)
    assert refusal.value.reason == f"HTTP {status}: too long"
    server.replies = [(404, {"error": "no such model"})]
    with pytest.raises(ServerError, match="HTTP 404: no such model") as failure:
        ask(connection)
    assert not isinstance(failure.value, PromptRefused)


@pytest.mark.parametrize("value", [{"choices": []}, {"hello": 1}, [1], b"<html>", {"choices": [{"text": "old"}]}])
def test_a_server_of_another_kind_is_named(server: Server, value: Any) -> None:
    server.replies = [(200, value)]
    with pytest.raises(ServerError, match="does not speak chat completions"):
        ask(Connection.open(server.url))


def test_samples_survive_a_torn_line_and_odd_line_ends(server: Server, tmp_path: Path) -> None:
    store = tmp_path / "samples.jsonl"
    odd = "a\u2028b\x0bc"
    server.replies = [(200, {"choices": [{"message": {"content": odd}}]})]
    prompts = {name: [{"role": "user", "content": name}] for name in "xyz"}

    def run() -> list[Any]:
        connection = Connection.open(server.url)
        return sample(connection, prompts, 1, store, lambda *_: None, temperature=1.0, max_tokens=5)

    assert [row["completion"] for row in run()] == [odd] * 3
    assert len(server.bodies) == 3
    store.write_bytes(store.read_bytes()[:-9])
    assert [row["id"] for row in run()] == ["x", "y", "z"]
    assert len(server.bodies) == 4, "only the torn one is asked for again"
    assert len(run()) == 3
    assert len(server.bodies) == 4


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {"content": "\n"}, {}])
def test_an_answer_that_a_reasoning_parser_took_for_a_thought_is_read(
    server: Server, field: str, content: dict
) -> None:
    """The parser takes everything up to the end of a thought, which a model that does not think never writes."""
    server.replies = [(200, {"choices": [{"message": {**content, field: "[1]"}, "finish_reason": "stop"}]})]
    assert ask(Connection.open(server.url))[0].text == "[1]"
    assert not ask(Connection.open(server.url), thinking=True)[0].text.strip(), "a thought is no answer"


def test_a_thought_beside_an_answer_stays_out(server: Server) -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "["}, {"type": "text", "text": "1]"}]
    server.replies = [(200, {"choices": [{"message": {"content": parts}}]})]
    assert ask(Connection.open(server.url))[0].text == "[1]"
    server.replies = [(200, {"choices": [{"message": {"content": "[2]", "reasoning": "[1]"}}]})]
    assert ask(Connection.open(server.url))[0].text == "[2]"


@pytest.mark.slow
def test_samples_that_are_all_empty_stop_the_work(server: Server, tmp_path: Path) -> None:
    prompts = {str(n): [{"role": "user", "content": "?"}] for n in range(40)}
    options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 5}
    connection = Connection.open(server.url)
    server.replies = [(200, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})]
    with pytest.raises(UserError, match=r"the first 16 answers are all empty\..*no --reasoning-parser"):
        sample(connection, prompts, 1, tmp_path / "store.jsonl", lambda *_: None, **options)
    assert not (tmp_path / "store.jsonl").exists(), "they are asked for again"
    server.replies = [(200, {"choices": [{"message": {"content": ""}}]})] * 3 + [(200, GOOD)]
    assert len(sample(connection, prompts, 1, tmp_path / "store.jsonl", lambda *_: None, **options)) == 40


def test_tools_and_calls_are_sent_as_the_protocol_has_them(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    call = {"type": "function", "function": {"name": "f", "arguments": {"q": "é"}}}
    prompt: list[Any] = [
        {"role": "user", "content": "?", "tools": [tool]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "x", "tool_call_id": "call_1_0"},
    ]
    Connection.open(server.url).complete(prompt, temperature=0, max_tokens=3)
    [body] = server.bodies
    assert (body["tools"], body["tool_choice"]) == ([tool], "none")
    assert body["messages"][0] == {"role": "user", "content": "?"}
    [sent] = body["messages"][1]["tool_calls"]
    assert sent["id"] == "call_1_0"
    assert json.loads(sent["function"]["arguments"]) == {"q": "é"}
    assert body["messages"][2] == prompt[2]
    server.bodies.clear()
    ask(Connection.open(server.url))
    assert server.bodies[0].keys() == {"model", "messages", "temperature", "max_tokens", "stream"}
