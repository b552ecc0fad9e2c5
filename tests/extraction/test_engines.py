"""The engines of extraction: the local model says what plain `generate` says; servers may fail and refuse."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from test_extract import echo_adapter, invoke, lines
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.cli import main
from adapters.errors import UserError
from adapters.evaluation import answer_values
from adapters.extraction import adapter_source, chunk_sizes, engines
from adapters.extraction.endpoint_engine import EndpointEngine
from adapters.extraction.engine import Answer, Drawing, EmptyAnswersError, Group, Options, Request, not_all_empty
from adapters.extraction.vllm_probe import Greedy, has_effect
from adapters.tasks.funding import FundingTask
from adapters.types import Drawn, Example

UNCHECKED = "the server does not say that tiny is an adapter on a base; that it has an effect was not checked"
Reply = tuple[int, dict[str, str], Any]


class Server:
    """A chat server whose replies are scripted; keeps every request."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.headers: list[Any] = []
        self.script: list[Reply] = []
        self.models: list[dict[str, Any]] = [{"id": "tiny"}]
        self.answer: Any = lambda body: said("[]")
        self.busy = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body are two writes: 40 ms a request, otherwise

            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.reply((200, {}, {"data": outer.models}) if self.path == "/v1/models" else (404, {}, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.requests.append(body)
                    outer.headers.append(self.headers)
                    outer.times.append(time.monotonic())
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                    scripted = outer.script.pop(0) if outer.script else None
                self.reply(scripted or outer.answer(body))
                with outer._lock:
                    outer.busy -= 1

            def reply(self, reply: Reply) -> None:
                status, headers, value = reply
                data = json.dumps(value).encode()
                self.send_response(status)
                for name, text in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


def said(text: str | None, **choice: Any) -> Reply:
    choices = [{"message": {"content": text}, "finish_reason": "stop", **choice}]
    return 200, {}, {"choices": choices, "usage": {"completion_tokens": 3}}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def source(tmp_path: Path) -> adapter_source.Source:
    return adapter_source.find(str(echo_adapter(tmp_path / "adapter", funding_rows(3))))


def connect(source: adapter_source.Source, server: Server, **options: Any) -> tuple[EndpointEngine, list[str]]:
    notes: list[str] = []
    endpoint = EndpointEngine.connect(source, Options(endpoint=server.url, **options), notes.append)
    server.requests.clear()
    server.times.clear()
    return endpoint, notes


def requests(n: int) -> list[Request]:
    return [Request(i, ({"role": "user", "content": str(i)},)) for i in range(1, n + 1)]


# -------------------------------------------------------------------------------------------------------- endpoints


def test_the_server_finds_model_and_version_and_gets_the_schema(source: Any, server: Server) -> None:
    endpoint, notes = connect(source, server, max_new_tokens=77)
    assert (endpoint.connection.url, endpoint.connection.model) == (f"{server.url}/v1", "tiny")
    assert notes == [UNCHECKED]
    [answer] = endpoint(requests(1))
    [body] = server.requests
    assert answer == Answer(1, "[]", 3, False)
    assert body["messages"] == [{"role": "user", "content": "1"}]
    assert (body["max_tokens"], body["temperature"], body["stream"]) == (77, 0, False)
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert body["response_format"]["json_schema"]["schema"] == source.task.answer_schema()


@pytest.mark.slow
def test_requests_run_side_by_side_and_answers_come_once(source: Any, server: Server) -> None:
    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(0.02 if int(body["messages"][0]["content"]) % 7 else 0.15)
        return said(body["messages"][0]["content"])

    endpoint, _ = connect(source, server, concurrency=8)
    server.answer = slow
    answers = list(endpoint(iter(requests(60))))
    assert sorted((a.row, a.text) for a in answers) == [(n, str(n)) for n in range(1, 61)]
    assert 2 <= server.most <= 8


def test_it_reads_no_further_ahead_than_the_window(
    source: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.extraction import endpoint_engine

    monkeypatch.setattr(endpoint_engine, "WINDOW", 10)
    endpoint, _ = connect(source, server, concurrency=4)
    held = threading.Event()

    def first_waits(body: dict[str, Any]) -> Reply:
        if body["messages"][0]["content"] == "1":
            held.wait(10)
        return said("[]")

    server.answer = first_waits
    read: list[int] = []

    def counted() -> Iterator[Request]:
        for request in requests(40):
            read.append(request.row)
            if len(read) == 40:
                raise AssertionError("read to the end while the first row was open")
            yield request

    answers = endpoint(counted())
    got = [next(answers).row for _ in range(9)]
    assert 1 not in got
    assert max(read) == 10
    held.set()
    answers.close()


@pytest.mark.slow
def test_too_many_requests_waits_as_long_as_it_is_told(source: Any, server: Server) -> None:
    endpoint, _ = connect(source, server)
    server.script = [(429, {"Retry-After": "1"}, {}), (503, {}, {}), said("[7]")]
    assert [a.text for a in endpoint(requests(1))] == ["[7]"]
    assert len(server.requests) == 3
    assert server.times[1] - server.times[0] >= 1


def test_a_refused_row_is_an_error_of_that_row(source: Any, server: Server) -> None:
    endpoint, _ = connect(source, server, concurrency=1)
    server.script = [
        (400, {}, {"error": {"message": "too many tokens"}}),
        said(None),
        said("[", finish_reason="length"),
    ]
    answers = {a.row: a for a in endpoint(requests(3))}
    assert answers[1].error == "refused: HTTP 400: too many tokens"
    assert (answers[2].text, answers[2].error) == ("", None)
    assert answers[3].truncated


@pytest.mark.parametrize(
    ("reply", "text"),
    [((401, {}, {"error": "bad key"}), "HTTP 401: bad key"), ((200, {}, {"hello": 1}), "does not speak chat")],
)
def test_a_server_that_refuses_everything_stops_the_work(source: Any, server: Server, reply: Reply, text: str) -> None:
    endpoint, _ = connect(source, server)
    server.answer = lambda body: reply
    with pytest.raises(RuntimeError, match=text):
        list(endpoint(requests(5)))


def test_what_the_server_does_not_take_is_left_out_and_said(source: Any, server: Server) -> None:
    def picky(body: dict[str, Any]) -> Reply:
        for name in ("response_format", "chat_template_kwargs"):
            if name in body:
                return 422, {}, {"detail": f"unexpected field {name}"}
        return said("[]")

    server.answer = picky
    endpoint, notes = connect(source, server)
    assert endpoint.extra == {}
    assert [note.split(":")[0] for note in notes] == [
        UNCHECKED,
        "the server does not take response_format",
        "the server does not take chat_template_kwargs",
    ]
    assert "thinking off" in notes[2]
    server.answer = lambda body: (404, {}, {"error": "no such model"})
    with pytest.raises(UserError, match="refuses the request for model 'tiny': HTTP 404: no such model"):
        connect(source, server)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_answers_behind_a_reasoning_parser_become_records(
    source: Any, server: Server, tmp_path: Path, field: str
) -> None:
    server.answer = lambda _: said(None, message={"role": "assistant", "content": None, field: '[{"funder_name":"S"}]'})
    out = tmp_path / "out.jsonl"
    corpus = write_jsonl(tmp_path / "in.jsonl", funding_rows(2))
    code, told = invoke(source.adapter, corpus, "-o", out, "--endpoint", server.url)
    assert code == 0, told
    assert [row["record"][0]["funder_name"] for row in lines(out)] == ["S", "S"]


def test_the_thought_of_a_model_that_thinks_is_no_answer(source: Any, server: Server) -> None:
    """Even where the server takes no thinking switch."""
    thinks = replace(source, model=source.model.model_copy(update={"thinking": True}))
    server.script = [(400, {}, {"error": "chat_template_kwargs"})] * 2
    server.answer = lambda _: said(None, message={"content": None, "reasoning": "[1]"})
    endpoint, _ = connect(thinks, server)
    assert [answer.text for answer in endpoint(requests(1))] == [""]


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 30])
def test_a_run_of_empty_answers_stops_and_keeps_no_row(source: Any, server: Server, tmp_path: Path, n: int) -> None:
    server.answer = lambda _: said(None)
    out = tmp_path / "out.jsonl"
    command = (source.adapter, write_jsonl(tmp_path / "in.jsonl", funding_rows(n)), "-o", out, "--endpoint", server.url)
    code, told = invoke(*command)
    assert code == 1
    assert f"the first {min(n, 8)} answers are all empty." in " ".join(told.split())
    assert "no --reasoning-parser" in " ".join(told.split())
    assert not out.exists()
    server.answer = lambda _: said("[]")
    code, told = invoke(*command)
    assert code == 0, told
    assert [row["record"] for row in lines(out)] == [[]] * n, "the rows are asked for again"


def test_single_empty_answers_are_errors_of_their_rows() -> None:
    def answers(*texts: str) -> list[Answer]:
        made = (Answer(n, "", error="refused: x") if t == "!" else Answer(n, t) for n, t in enumerate(texts))
        return list(not_all_empty(made))

    assert [a.text for a in answers("", "", "x", "", "")] == ["", "", "x", "", ""]
    assert [a.row for a in answers("!", "", "!", "x")] == [0, 2, 1, 3], "refusals do not wait"
    assert [a.row for a in answers("!", "!")] == [0, 1]
    with pytest.raises(EmptyAnswersError, match="the first 2 answers"):
        answers("", "!", " ")
    with pytest.raises(EmptyAnswersError, match="the first 8 answers"):
        answers(*[""] * 8, "x")


def with_log_probabilities(values: dict[str, list[float]]) -> Any:
    """Answers whose log-probabilities depend on the model that is asked."""

    def answer(body: dict[str, Any]) -> Reply:
        steps = [{"token": "x", "logprob": value} for value in values[body["model"]]]
        return said("[]", logprobs={"content": steps} if body.get("logprobs") else None)

    return answer


SERVED = [{"id": "base", "root": "some/base"}, {"id": "mine", "root": "/adapter", "parent": "base"}]


def test_an_adapter_that_a_server_does_not_apply_is_refused(source: Any, server: Server) -> None:
    server.models = SERVED
    server.answer = with_log_probabilities({"base": [-0.5, -1.0], "mine": [-0.5, -1.0]})
    with pytest.raises(UserError, match="loads mine and does not apply it"):
        connect(source, server, model="mine")
    server.answer = with_log_probabilities({"base": [-0.5, -1.0], "mine": [-0.5, -1.001]})
    endpoint, notes = connect(source, server, model="mine")
    assert (endpoint.connection.model, notes) == ("mine", [])


def test_the_base_itself_is_no_adapter(source: Any, server: Server) -> None:
    server.models = [{"id": "base", "root": source.model.base}, SERVED[1]]
    with pytest.raises(UserError, match=r"without the adapter\. Name the adapter: --model mine"):
        connect(source, server, model="base")
    server.models = server.models[:1]
    with pytest.raises(UserError, match="Start vLLM with --enable-lora"):
        connect(source, server)


def test_a_server_s_context_is_what_it_says_of_the_model_or_its_base(source: Any, server: Server) -> None:
    options = Options(endpoint=server.url, model="mine")
    server.models = [{**SERVED[0], "max_model_len": 2048}, {**SERVED[1], "max_model_len": None}]
    sizes = chunk_sizes.load("endpoint", source, options)
    assert (sizes.context, sizes.texts(["abcd", "é" * 3, ""])) == (2048, [2, 2, 0])
    assert sizes.prompt(({"role": "user", "content": "abc"}, {"role": "user", "content": "abc"})) == 2
    server.models = SERVED
    assert chunk_sizes.load("endpoint", source, options).context is None


def test_a_server_without_log_probabilities_is_not_checked_and_says_so(source: Any, server: Server) -> None:
    server.models = SERVED
    _, notes = connect(source, server, model="mine")
    assert notes == ["the server gives no log-probabilities; that mine changes base was not checked"]


@pytest.mark.parametrize(
    ("base", "repeated", "adapted", "effect"),
    [
        (("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.0]), False),
        (("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.0001]), True),
        (("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.01]), ("ab", [-1.0, -2.01]), False),
        (("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.01]), ("ac", [-1.0, -0.5]), True),
        (("ab", [-1.0, -2.0]), ("ab", [-1.0, -2.0]), ("a", [-1.0]), True),
        (("", []), ("", []), ("", []), False),
    ],
)
def test_an_effect_is_more_than_a_servers_own_noise(base: Any, repeated: Any, adapted: Any, effect: bool) -> None:
    assert has_effect(Greedy(*base), Greedy(*repeated), Greedy(*adapted)) is effect


def test_the_key_comes_from_the_variable_that_is_named(
    source: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="the environment has no MY_KEY"):
        connect(source, server, api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    connect(source, server, api_key_env="MY_KEY")
    assert server.headers[-1]["Authorization"] == "Bearer secret"
    connect(source, server)
    assert server.headers[-1]["Authorization"] is None, "no key is sent that was not asked for"


def test_a_server_that_dies_leaves_what_is_done(
    tmp_path: Path, source: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.chat_client.TRIES", 1)
    corpus, out = write_jsonl(tmp_path / "in.jsonl", funding_rows(30)), tmp_path / "out.jsonl"
    arguments = [source.adapter, corpus, "-o", out, "--endpoint", server.url, "--concurrency", "2"]
    server.answer = lambda body: said("[]") if len(server.requests) < 12 else (500, {}, {"error": "gone"})
    code, told = invoke(*arguments)
    assert code == 1
    assert "HTTP 500: gone" in told
    assert "the same command continues from there" in told
    assert not out.exists()
    done = len(lines(tmp_path / "out.jsonl.partial"))
    assert done >= 5
    server.requests.clear()
    server.answer = lambda body: said("[]")
    assert invoke(*arguments)[0] == 0
    assert len(lines(out)) == 30
    # A first request, then only what was missing; two may still have been on their way when the first command gave up.
    assert 0 <= len(server.requests) - (30 - done + 1) <= 2


# ------------------------------------------------------------------------------------------------------ local models


@pytest.fixture(scope="module")
def lively_base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from test_decoding import liven
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("lively") / "lively"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    liven(model)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bundle(lively_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published adapter, no more: weights, config, tokenizer with its template, recipe."""
    import torch

    from adapters.backends.local import base_model, model
    from adapters.backends.local.tokenizer import load_tokenizer
    from adapters.recipe.recipe import Lora, Model

    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    base = base_model.resolve(str(lively_base))
    torch.manual_seed(3)
    peft = model.new_adapter(model.load_base(base, Model(base=str(lively_base))), Lora(rank=4, alpha=8), base)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft.save_pretrained(folder)
    load_tokenizer(base).save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "recipe.yaml").write_text(
        f"name: x\ntask: {{use: funding, target: compact}}\nmodel: {{base: {lively_base}, dtype: float32, "
        "precision: fp32}\nstages: []\n"
    )
    return folder


def plain_answers(bundle: Path, base: Path, texts: list[str], limit: int) -> list[str]:
    """What the usage snippet of a model card does: one statement after the other, through `generate`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), bundle).eval()
    answers = []
    for text in texts:
        messages = list(FundingTask(target="compact").prompt(text))
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True, enable_thinking=False
        )
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        answers.append(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return answers


@pytest.mark.slow
def test_a_bundle_alone_answers_like_its_usage_snippet(tmp_path: Path, bundle: Path, lively_base: Path) -> None:
    rows = funding_rows(12)
    corpus = write_jsonl(tmp_path / "in.jsonl", rows)
    code, told = invoke(bundle, corpus, "-o", tmp_path / "out.jsonl", "--max-new-tokens", 24, "--batch-size", 5)
    assert code == 0, told
    expected = plain_answers(bundle, lively_base, [row["funding_statement"] for row in rows], 24)
    out = lines(tmp_path / "out.jsonl")
    assert len(set(expected)) > 6, "answers that differ"
    assert [r["completion"] for r in out] == expected, "a random model writes no record, so the text is kept"
    assert {r["error"].partition(":")[0] for r in out} <= {"truncated", "not JSON", "wrong shape"}


@pytest.mark.slow
@pytest.mark.parametrize("shares", [True, False])
def test_stopping_where_the_json_ends_changes_no_record(bundle: Path, shares: bool) -> None:
    """A model that writes JSON and goes on: ended early, its answers lack only what no record comes from."""
    from adapters.backends.json_stop import first_value
    from adapters.backends.local import base_model
    from adapters.backends.local.encoder import Encoder
    from adapters.backends.local.generate import LocalSampler
    from adapters.backends.local.model import load_merged
    from adapters.backends.local.tokenizer import load_tokenizer

    source = adapter_source.find(str(bundle))
    base = base_model.resolve(source.model.base)
    encoder = Encoder(load_tokenizer(base), thinking=False)
    model = load_merged(base, source.model, source.adapter)
    scripts = [
        '[{"funder_name":"A ] B","award_ids":["1"]}] and more',
        "[]",
        '```json\n[{"funder_name":"é"}]\n```',
        "no",
    ]
    prompts = encoder.prompts([FundingTask(system="S").prompt("x y " * 40 * n + ".") for n in range(len(scripts))])
    speak(model, prompts, [encoder.completions([s])[0] for s in scripts])
    found = []
    for stop in (True, False):
        sampler = LocalSampler(model, encoder, stop_at_json=stop)
        sampler.shares = shares
        answers = dict(sampler.answers(prompts, max_new_tokens=60, batch_size=4))
        found.append([answers[n] for n in range(len(scripts))])
    early, whole = found
    assert [s.text for s in whole] == scripts
    assert [s.text for s in early] == [
        *('[{"funder_name":"A ] B","award_ids":["1"]}]', "[]", scripts[2].removesuffix("\n```"), "no")
    ]
    assert not any(s.truncated for s in early)
    for a, b in zip(early[:3], whole[:3], strict=True):
        assert first_value(a.text) == first_value(b.text)
    scored = LocalSampler(model, encoder, stop_at_json=True, scored=True)
    scored.shares = shares
    answers = dict(scored.answers(prompts, max_new_tokens=60, batch_size=4))
    assert [answers[n][:3] for n in range(len(scripts))] == [s[:3] for s in early]
    for n, answer in answers.items():
        assert len(answer.scores.ends) == len(answer.scores.logprobs) == answer.tokens, n
        assert answer.scores.ends[-1] == len(answer.text)
        assert all(logprob <= 0 for logprob in answer.scores.logprobs)
    at = answer_values.places(answers[0].text, ["A ] B", "1"])
    name, award = answer_values.token_signals(answers[0].scores, at)
    assert name["sum"] < award["sum"] < 0, "the longer value has more tokens"


def speak(model: Any, prompts: list[list[int]], answers: list[list[int]]) -> None:
    """Make a model write given answers. How many tokens a row has tells which prompt it is, and how far it has come."""
    import torch

    forward = model.forward
    scripts = sorted(zip(map(len, prompts), answers, strict=True), reverse=True)
    assert all(a[0] - b[0] > 60 for a, b in itertools.pairwise(scripts))

    def scripted(input_ids: Any, attention_mask: Any = None, **options: Any) -> Any:
        out = forward(input_ids=input_ids, attention_mask=attention_mask, **options)
        if attention_mask is not None:
            out.logits = torch.zeros_like(out.logits)
            for place, seen in enumerate(attention_mask.sum(-1).tolist()):
                length, answer = next(script for script in scripts if script[0] <= seen)
                out.logits[place, -1, answer[min(seen - length, len(answer) - 1)]] = 1.0
        return out

    model.forward = scripted


def test_a_text_beyond_the_context_is_asked_about_in_parts(tmp_path: Path, bundle: Path) -> None:
    text = "We thank the Sample Trust for its support. " * 200
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"funding_statement": text}, {"funding_statement": "short"}])
    assert invoke(bundle, corpus, "-o", tmp_path / "out.jsonl", "--max-new-tokens", 3)[0] == 0
    long, short = lines(tmp_path / "out.jsonl")
    assert long["chunks"] > 2
    assert short["chunks"] == 1
    assert not any(row["error"].startswith("too long") for row in (long, short))


def test_a_prompt_beyond_the_context_is_an_error_of_its_row(bundle: Path) -> None:
    source = adapter_source.find(str(bundle))
    prompts = [source.task.prompt(text) for text in ("x " * 3000, "short")]
    answers = engines.make("transformers", source, Options(max_new_tokens=3), print)(map(Request, (1, 2), prompts))
    errors = {answer.row: answer.error for answer in answers}
    assert "for a context of 1,024" in errors[1]
    assert errors[1].startswith("too long: a prompt of ")
    assert errors[2] is None


def test_an_endpoint_draws_with_a_seed_for_each_answer(source: adapter_source.Source, server: Server) -> None:
    server.answer = lambda body: (400, {}, {"error": "filtered"}) if "Zzz" in str(body["messages"]) else said("[]")
    drawing = Drawing(2, 0.7, seed=3)
    options = Options(max_new_tokens=9, constrain="off", endpoint=server.url)
    draw = engines.make_draws("endpoint", source, drawing, options, lambda _: None)
    server.requests.clear()
    prompts = [FundingTask().prompt(text) for text in ("Yyy", "Zzz", "done before")]
    examples = [Example(str(n), "", prompt) for n, prompt in enumerate(prompts)]
    groups = {group.row: group for group in draw(examples, lambda row: row != 2)}
    assert groups[0] == Group(0, [Drawn("[]", 3, False)] * 3)
    assert groups[1].error == "refused: HTTP 400: filtered"
    asked = [body for body in server.requests if "Yyy" in str(body["messages"])]
    assert [body["temperature"] for body in asked] == [0, 0.7, 0.7]
    assert len({body.get("seed") for body in asked}) == 3
    assert all(body["max_tokens"] == 9 and "response_format" not in body for body in asked)
    assert len(server.requests) == 4


def test_vllm_is_asked_as_its_documentation_says(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with vLLM's names: what we send. `make vllm` asks a real one."""
    pytest.importorskip("torch")
    calls: dict[str, Any] = {}

    class LLM:
        def __init__(self, **options: Any) -> None:
            calls["llm"] = options
            config = types.SimpleNamespace(max_model_len=400)
            self.llm_engine = types.SimpleNamespace(model_config=config)

        def generate(self, prompts: list, sampling: Any, *, lora_request: Any, use_tqdm: bool) -> list:
            calls.update(prompts=prompts, sampling=sampling, lora=lora_request)
            logprob = types.SimpleNamespace(logprob=-1.0 if lora_request and applies else -2.0)
            output = types.SimpleNamespace(
                text="[]", token_ids=[1, 2], finish_reason="length", logprobs=[{1: logprob}, {2: logprob}]
            )
            output.cumulative_logprob = 2 * logprob.logprob
            return [types.SimpleNamespace(outputs=[output]) for _ in prompts]

    record = lambda name: lambda *a, **k: (name, a, k)  # noqa: E731
    modules = {
        "vllm": {"LLM": LLM, "SamplingParams": record("sampling"), "__spec__": types.SimpleNamespace()},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": record("lora")},
        "vllm.sampling_params": {"StructuredOutputsParams": record("structured")},
    }
    for name, names in modules.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    patterned = shutil.copytree(bundle, tmp_path / "patterned")
    config = json.loads((patterned / "adapter_config.json").read_text())
    (patterned / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"q_proj": 4}}))
    with pytest.raises(UserError, match="vLLM would scale these wrongly"):
        engines.make("vllm", adapter_source.find(str(patterned)), Options(max_new_tokens=9), print)
    source = adapter_source.find(str(bundle))
    applies = False
    with pytest.raises(UserError, match="loads the adapter and does not apply it"):
        engines.make("vllm", source, Options(), print)
    applies = True
    engine = engines.make("vllm", source, Options(max_new_tokens=9), print)
    prompts = [FundingTask().prompt("x"), FundingTask().prompt("long " * 400)]
    answers = {a.row: a for a in engine([Request(n, p) for n, p in enumerate(prompts)])}
    assert answers[0] == Answer(0, "[]", 2, True)
    assert answers[1].error.startswith("too long")
    assert calls["llm"]["enable_lora"]
    assert calls["llm"]["max_lora_rank"] == 8, "the smallest rank vLLM knows that holds 4"
    assert calls["lora"] == ("lora", ("adapter", 1, str(bundle.resolve())), {})
    [(_, _, sampled)] = calls["sampling"]
    assert sampled["temperature"] == 0
    assert sampled["structured_outputs"][2] == {"json": source.task.answer_schema()}
    engine = engines.make("vllm", source, Options(max_new_tokens=9, constrain="source"), print)
    assert [a.row for a in engine([Request(4, prompts[0], "of NSF"), Request(5, prompts[0], "of DFG")])] == [4, 5]
    grammars = [options["structured_outputs"][2]["grammar"] for _, _, options in calls["sampling"]]
    assert [name in grammar for grammar in grammars for name in ("NSF", "DFG")] == [True, False, False, True]
    assert all(set(p) == {"prompt_token_ids"} for p in calls["prompts"])
    assert calls["sampling"][-1][2]["logprobs"] is None
    scored = engines.make("vllm", source, Options(max_new_tokens=9, scored=True), print)
    [answer] = scored([Request(0, prompts[0])])
    assert calls["sampling"][-1][2]["logprobs"] == 0
    assert answer.scores.logprobs == (-1.0, -1.0)
    drawing = Drawing(2, 0.7, max_new_tokens=9)
    draw = engines.make_draws("vllm", source, drawing, Options(), print)
    examples = [Example(str(n), "", prompt, completion="[]") for n, prompt in enumerate([prompts[0], *prompts])]
    groups = {group.row: group for group in draw(examples, lambda row: row != 0)}
    assert groups[1] == Group(1, [Drawn("[]", 2, True, -1.0)] * 3)
    assert groups[2].error.startswith("too long")
    asked = [options for _, _, options in calls["sampling"]]
    assert [o["temperature"] for o in asked] == [0.0, 0.7, 0.7]
    assert len({o.get("seed") for o in asked}) == 3, "each sample has a seed of its own, the greedy answer none"


@pytest.mark.slow
def test_a_real_server_answers_like_the_local_engine(tmp_path: Path, bundle: Path, lively_base: Path) -> None:
    """`transformers serve` with the merged model; `make install-slow` installs what it needs."""
    for module in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(module, reason="the server needs: pip install 'transformers[serving]'")
    from adapters.backends.local import base_model
    from adapters.backends.local.model import load_merged

    source = adapter_source.find(str(bundle))
    merged = tmp_path / "merged"
    load_merged(base_model.resolve(str(lively_base)), source.model, bundle).save_pretrained(merged)
    for file in bundle.glob("*token*"):
        (merged / file.name).write_bytes(file.read_bytes())
    for file in bundle.glob("*.jinja"):
        (merged / file.name).write_bytes(file.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(port), "--device", "cpu"]
    command += ["--dtype", "float32"]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            time.sleep(0.2)
        rows = funding_rows(8)
        corpus = write_jsonl(tmp_path / "in.jsonl", rows)
        common = [corpus, "--max-new-tokens", 24]
        asked = ["--endpoint", f"http://127.0.0.1:{port}/v1", "--model", merged, "--concurrency", 3]
        code, told = invoke(bundle, *common, "-o", tmp_path / "server.jsonl", *asked)
        assert code == 0, told + (tmp_path / "server.log").read_text()[-3000:]
        code, told = invoke(bundle, *common, "-o", tmp_path / "local.jsonl")
        assert code == 0, told
        texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"Text {n}"} for n in range(6)])
        words = [
            "annotate",
            texts,
            "-o",
            tmp_path / "labels.jsonl",
            "--span",
            "funder",
            "--share",
            1,
            "--max-tokens",
            8,
        ]
        annotated = CliRunner().invoke(main.app, [*map(str, [*words, *asked]), "--yes"])
    finally:
        process.terminate()
        process.wait(30)
    assert annotated.exit_code == 0, annotated.output
    labels = lines(tmp_path / "labels.jsonl")
    assert all(row["error"] in ("not JSON", "wrong shape", "truncated") for row in labels), "it has learned none"
    assert len(labels) == 6
    assert all(a["prompt_tokens"] > 20 and a["answer"] for a in lines(tmp_path / "labels.jsonl.answers.jsonl"))
    served, local = lines(tmp_path / "server.jsonl"), lines(tmp_path / "local.jsonl")
    assert [r["completion"] for r in served] == [r["completion"] for r in local]
    assert len({r["completion"] for r in local}) > 4
