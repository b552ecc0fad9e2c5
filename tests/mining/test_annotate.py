"""Labels from a scripted large model: what is asked, what is paid, what is kept, and which sentences follow."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from laptops import TEXTS, Rules, proxy_folder
from scripted import annotate, lines, reply, write
from test_engines import Server
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.mining import engine
from adapters.mining.annotate import of_options
from adapters.mining.questions import Question, marked, read

# ------------------------------------------------------------------------------------------------ questions and rows


def test_a_program_is_annotated(place: Path, server: Server) -> None:
    done = annotate(server, "--program", "program.yaml", "--share", 1, "--json")
    assert done.exit_code == 0, done.output
    rows = lines(place / "out.jsonl")
    assert [(row["row"], row["kind"], row["instruction"], row["gold"]) for row in rows] == [
        (1, "label", "This review is positive", True),
        (1, "span", "What is the laptop model mentioned?", [[18, 25], [45, 52]]),
        (1, "span", "What is the price of Aero 15?", [[59, 65]]),
        (1, "span", "What is the price of Swift 3?", [[32, 36]]),
        (2, "label", "This review is positive", False),
        (2, "span", "What is the laptop model mentioned?", [[14, 21]]),
        (2, "span", "What is the price of Swift 3?", [[26, 30]]),
        (3, "label", "This review is positive", True),
        (3, "span", "What is the laptop model mentioned?", []),
    ]
    assert {(row["id"], row["text"]) for row in rows} == {(f"d{n}", text) for n, text in enumerate(TEXTS, 1)}
    assert {(row["source"], row["annotator"], row["error"]) for row in rows} == {("corpus.jsonl", "tiny", None)}
    counts = json.loads(done.stdout)
    assert (counts["requests"], counts["cached"], counts["empty_share"]) == (9, 0, round(2 / 9, 4))
    assert (counts["prompt_tokens"], counts["completion_tokens"], counts["cost"]) == (900, 90, None)
    manifest = (place / "out.jsonl.manifest.json").read_text()
    assert json.loads(manifest)["settings"]["model"] == "tiny"
    assert json.loads(manifest)["complete"]
    assert server.url not in manifest + (place / "out.jsonl.answers.jsonl").read_text()
    assert {body["temperature"] for body in server.requests} == {0}


def test_an_answer_is_never_asked_for_twice(place: Path, server: Server) -> None:
    options = ("--program", "program.yaml", "--share", 1, "--cache", "answers.jsonl")
    assert annotate(server, *options).exit_code == 0
    first = (place / "out.jsonl").read_bytes()
    assert "is complete already" in annotate(server, *options).stderr
    assert annotate(server, *options, "--fresh").exit_code == 0
    (place / "out.jsonl.manifest.json").unlink()
    (place / "out.jsonl").unlink()
    (place / "answers.jsonl").write_bytes((place / "answers.jsonl").read_bytes()[:-20])
    (place / "corpus.jsonl").rename(place / "other.jsonl")
    (place / "other.jsonl").rename(place / "corpus.jsonl")
    done = annotate(server, *options, "--json")
    assert json.loads(done.stdout)["cached"] == 8
    assert len(server.requests) == 10, "the torn line alone"
    assert (place / "out.jsonl").read_bytes() == first
    assert annotate(server, *options, "--max-tokens", 99, "--fresh").exit_code == 0
    assert len(server.requests) == 19, "another request"


WRONG = {
    "not JSON": reply("The laptop is the Swift 3."),
    "wrong shape": reply('{"laptops": ["Swift 3"]}'),
    "not verbatim": reply('{"spans": ["l\'ordinateur Swift"]}'),
    "truncated": reply('{"spans": ["Swift 3", "Ae', finish_reason="length"),
    "refused": (400, {}, {"error": "too long"}),
}


@pytest.mark.parametrize("error", WRONG)
def test_a_bad_answer_is_an_error_row(place: Path, server: Server, error: str) -> None:
    write(place / "corpus.jsonl", ["Swift 3 a", "Swift 3 b"])
    server.answer = lambda body: (
        WRONG[error] if body["messages"][1]["content"].endswith("b") else reply('{"spans": []}')
    )
    done = annotate(server, "--span", "laptop", "-n", 2, "--json", "--concurrency", 2)
    assert done.exit_code == 0, done.output
    assert [(row["gold"], row["error"]) for row in lines(place / "out.jsonl")] == [([], None), (None, error)]
    assert json.loads(done.stdout)["errors"] == {error: 1}
    assert annotate(server, "--span", "laptop", "-n", 2, "--fresh").exit_code == 0
    assert len(server.requests) == 2, "bad answers are answers"


@pytest.mark.slow
def test_a_model_that_never_answers_in_the_form_is_not_asked_on(place: Path, server: Server) -> None:
    write(place / "corpus.jsonl", [f"Swift {n}" for n in range(100)])
    server.answer = lambda body: WRONG["not JSON"]
    done = annotate(server, "--span", "laptop", "--share", 1, "--concurrency", 1)
    assert done.exit_code == 1
    assert "none of 32 answers can be read, the last one is 'The laptop is" in done.stderr
    assert len(lines(place / "out.jsonl.answers.jsonl")) in (32, 33), "one may be under way"
    assert not (place / "out.jsonl").exists()
    server.answer = lambda body: reply('{"spans": []}')
    assert annotate(server, "--span", "laptop", "--share", 1).exit_code == 0, "the same command goes on"
    stored = (place / "out.jsonl.answers.jsonl").read_text().splitlines(keepends=True)
    (place / "out.jsonl.answers.jsonl").write_text("".join(stored[-40:]))
    server.answer = lambda body: WRONG["not JSON"]
    assert annotate(server, "--span", "laptop", "--share", 1, "--fresh").exit_code == 0, "one answer was in the form"


def test_an_answer_behind_other_words_is_read() -> None:
    assert read("span", 'Certainly! ```json\n{"spans": ["a"]}\n``` Bye!') == ["a"]
    assert read("label", '<think>{"label": true}</think>{"label": false}') is False
    for text in ("[]", '{"label": "yes"}', '{"spans": [1]}', '{"spans": "a"}', "1"):
        with pytest.raises(ValueError, match="wrong shape"):
            read("label" if "label" in text else "span", text)
    with pytest.raises(ValueError, match="not JSON"):
        read("span", "{" * 4000)


def test_strings_are_marked_where_they_stand() -> None:
    text = "The Swift\n3 and the Swift 3 Pro; Swifter."
    assert marked(text, ["Swift 3", "Swift 3 Pro", "swift"]) == ([(20, 31)], ["swift"])
    assert marked(text, ["Swift  3 Pro", "Swift 3"]) == ([(20, 31)], [])
    assert marked("The Swift\n3", ["Swift 3", " ", ""]) == ([(4, 11)], [" ", ""])
    assert marked("cut here", ["cut", "cute"]) == ([(0, 3)], ["cute"])


def test_too_many_requests_for_a_while(place: Path, server: Server) -> None:
    server.script = [(429, {"Retry-After": "0"}, {"error": "busy"})] * 4
    assert annotate(server, "--span", "laptop", "-n", 3, "--concurrency", 1).exit_code == 0
    assert [row["error"] for row in lines(place / "out.jsonl")] == [None] * 3


def test_a_corpus_of_odd_texts(place: Path, server: Server) -> None:
    write(place / "corpus.jsonl", ["", None, " \n", 7, "\x00\x01Swift 3\ud83d", "Swift 3 " * 20_000, "Great"])
    done = annotate(server, "--span", "laptop", "--label", "health", "--share", 1, "--json")
    assert done.exit_code == 0, done.output
    rows = lines(place / "out.jsonl")
    assert [row["row"] for row in rows] == [5, 5, 6, 6, 7, 7]
    assert rows[1]["gold"] == [[2, 9]]
    assert len(rows[3]["gold"]) == 20_000
    assert json.loads(done.stdout)["without_text"] == 4


# ------------------------------------------------------------------------------------------------------- the sentences


@pytest.mark.slow
def test_a_sample_is_balanced_by_a_proxy(place: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "load_proxy", lambda source, batch_size: Rules())
    proxy_folder(place / "proxy")
    write(place / "corpus.jsonl", [f"{'Great' if n < 3 else 'Bad'} {n}" for n in range(40)])
    done = annotate(server, "--label", "This review is positive", "-n", 8, "--balance", "proxy", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["balance"] == {"true": 3, "false": 4, "filled": 1}
    assert sum(row["gold"] for row in lines(place / "out.jsonl")) == 3
    for asked, sentence in {
        ("--span", "x"): "--balance is for labels; spans are drawn at random.",
        ("--label", "a", "--label", "b"): "--balance takes one label; annotate the others by commands of their own.",
    }.items():
        done = annotate(server, *asked, "--balance", "proxy")
        assert (done.exit_code, done.stderr) == (2, f"{sentence}\n")


def test_what_cannot_be_annotated(place: Path, server: Server) -> None:
    label = ("--label", "health")
    for arguments, sentence in {
        (): "say what to ask: --program, --span or --label.",
        (*label, "--share", "1.5"): "--share 1.5: a share is above 0 and at most 1.",
        (*label, "--share", "1", "-n", "3"): "--share and -n: give one of them.",
        (*label, "--max-cost", "1"): "--max-cost needs --price-in and --price-out.",
        (*label, "--program", "p"): "--program has its own questions; leave --span and --label out.",
        ("--label", " "): "--span, --label: the instruction is empty.",
        (*label, "--text", "txt"): (
            "corpus.jsonl has no column 'txt'. Did you mean text? Name the column of the texts with --text."
        ),
        (*label, "-o", "corpus.jsonl"): "the output would overwrite the corpus.",
        (*label, "--cache", "corpus.jsonl"): "--cache corpus.jsonl: answers would be written into the corpus.",
        (*label, "--cache", "out.jsonl"): "--cache out.jsonl: answers would be written into the output.",
        (*label, "-o", "out.csv"): "-o out.csv: annotations are written as .jsonl.",
    }.items():
        done = annotate(server, *arguments)
        assert (done.exit_code, done.stderr) == (2, f"{sentence}\n")
    assert not server.requests
    done = CliRunner().invoke(app, ["annotate", "corpus.jsonl", "-o", "o.jsonl", *label])
    assert (done.exit_code, done.stderr) == (2, "annotate needs the address of a large model: --endpoint URL.\n")


def test_a_key_that_is_refused_and_a_server_that_is_gone(place: Path, server: Server) -> None:
    good = server.answer
    server.answer = lambda body: (401, {}, {"error": "who are you"})
    done = annotate(server, "--label", "health", "--share", 1)
    assert done.exit_code == 2
    assert "wants a key (HTTP 401: who are you); name the environment variable" in done.stderr
    server.requests.clear()
    server.answer = lambda body: good(body) if len(server.requests) < 2 else (500, {}, {"error": "down"})
    done = annotate(server, "--label", "health", "--share", 1, "--concurrency", 1)
    assert done.exit_code == 1
    assert "failed in 10 tries, the last with HTTP 500: down. " in done.stderr
    assert done.stderr.endswith("1 answers are kept in out.jsonl.answers.jsonl; the same command continues.\n")
    server.answer = good
    server.requests.clear()
    assert annotate(server, "--label", "health", "--share", 1).exit_code == 0
    assert len(server.requests) == 2


def test_the_questions_of_options() -> None:
    asks = [(ask.kind, ask.instruction) for _, _, ask in of_options(["a", "b", "a"], ["c"]).asks]
    assert asks == [("span", "a"), ("span", "b"), ("label", "c")]


@pytest.mark.slow
def test_killed_anywhere_and_started_again_gives_the_same_bytes(place: Path, server: Server) -> None:
    rng = random.Random(0)
    write(place / "corpus.jsonl", [f"{rng.choice(TEXTS)} {n}" for n in range(60)])
    assert annotate(server, "--program", "program.yaml", "--share", 1).exit_code == 0
    whole, total = (place / "out.jsonl").read_bytes(), len(server.requests)
    for path in place.glob("out.jsonl*"):
        path.unlink()
    server.requests.clear()
    good = server.answer
    server.answer = lambda body: (time.sleep(0.02), good(body))[1]
    store = place / "out.jsonl.answers.jsonl"
    command = [
        sys.executable,
        "-m",
        "adapters",
        "annotate",
        "corpus.jsonl",
        "-o",
        "out.jsonl",
        "--endpoint",
        server.url,
    ]
    command += ["--program", "program.yaml", "--share", "1", "--yes", "--concurrency", "4"]
    kept: set[str] = set()
    kills = 0
    while not (place / "out.jsonl").exists():
        sent = len(server.requests)
        child = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
        wanted = rng.randint(5, 20)
        while child.poll() is None and len(server.requests) < sent + wanted:
            time.sleep(0.005)
        kills += child.poll() is None
        child.send_signal(signal.SIGKILL)
        assert child.wait() in (0, -signal.SIGKILL), child.stderr.read().decode()
        asked = {json.dumps(body["messages"]) for body in server.requests[sent:]}
        assert not asked & kept, "what is kept is not sent again"
        known = {row["key"] for row in lines_of(store)}
        kept = {text for text in map(json.dumps, (b["messages"] for b in server.requests)) if key_of(text) in known}
    assert kills >= 10
    assert (place / "out.jsonl").read_bytes() == whole
    twice = sum(Counter(json.dumps(body["messages"]) for body in server.requests).values()) - total
    assert twice <= 4 * kills, "only requests under way at a kill are sent again"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines() if line.endswith(b"}")]


def key_of(messages: str) -> str:
    system, user = (message["content"] for message in json.loads(messages))
    instruction, _, text = user.removeprefix("Instruction: ").partition("\n\nText:\n")
    return Question(1, "", text, "label" if '"label"' in system else "span", instruction).key("tiny", 512)
