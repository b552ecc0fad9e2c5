"""From an instruction in words to a graph: program, annotation of five per cent, proxy, records, graph, cost."""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from laptops import PROGRAM, Rules, answer, proxy_folder
from scripted import reply, write
from test_engines import Server
from tiny import mine_recipe, save_tiny_encoder
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.mining import engine, program
from adapters.mining.questions import estimated_tokens, prompt_tokens

INSTRUCTION = "Prices of all laptops in positive reviews"
TEXTS = 400


class Large(Server):
    """A large model that plans one program and labels by the rules. It counts its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self.said

    def said(self, body: dict[str, Any]) -> Any:
        system, user = (message["content"] for message in body["messages"])
        text = f"```yaml\n{PROGRAM}```" if user == INSTRUCTION else answer(system, user)
        return reply(text, prompt_tokens(body["messages"]), estimated_tokens(text))


@pytest.fixture
def server() -> Iterator[Large]:
    server = Large()
    yield server
    server.http.shutdown()
    server.http.server_close()


def run(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def reviews(n: int) -> list[str]:
    rng = random.Random(0)
    out = []
    for number in range(n):
        praise = rng.choice(["Great laptop.", "Nice buy.", "Terrible.", "It broke."])
        parts = [f"The {rng.choice(['Swift 3', 'Aero 15'])} costs ${rng.randint(2, 20) * 100 - 1:,}"]
        parts += ["the bag is red"] * rng.randint(0, 3)
        out.append(f"{praise} {' and '.join(parts)} (review {number}).")
    return out


def assert_prices_stand_in_their_texts(graph: Path, texts: list[str]) -> None:
    """Each price of the graph leads back to a text that was kept, to its laptop and its sum."""
    tables = [csv.DictReader((graph / name).open(encoding="utf-8", newline="")) for name in ("nodes.csv", "edges.csv")]
    nodes = {row["id:ID"]: row for row in tables[0]}
    assert {row["name"] for row in nodes.values() if row["type"] == "laptop"} == {"Swift 3", "Aero 15"}
    for edge in tables[1]:
        if edge[":TYPE"] == "price":
            text = texts[int(edge["document"][1:]) - 1]
            head, tail = (text[int(edge[f"{end}_start:int"]) : int(edge[f"{end}_end:int"])] for end in ("head", "tail"))
            assert f"The {head} costs {tail}" in text
            assert (nodes[edge[":START_ID"]]["name"], nodes[edge[":END_ID"]]["name"]) == (head, tail)


@pytest.mark.slow
def test_from_an_instruction_to_a_graph(
    tmp_path: Path, server: Large, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "load_proxy", lambda source, batch_size: Rules())
    texts = reviews(TEXTS)
    write(tmp_path / "corpus.jsonl", texts)
    proxy_folder(tmp_path / "proxy")
    there = ("--endpoint", server.url, "--price-in", 0.15, "--price-out", 0.60, "--yes")
    planned = run("plan", INSTRUCTION, "-o", "program.yaml", "--corpus", "corpus.jsonl", *there)
    assert (planned["texts"], planned["annotated"], planned["calls"]) == (TEXTS, 20, TEXTS * 4)
    labelled = run("annotate", "corpus.jsonl", "-o", "labelled.jsonl", "--program", "program.yaml", *there)
    assert (labelled["texts"], labelled["rows"], labelled["errors"]) == (20, 60, {})
    began = time.monotonic()
    mined = run("mine", "program.yaml", "proxy", "corpus.jsonl", "-o", "mined.jsonl")
    proxy_seconds = time.monotonic() - began
    assert mined["steps"]["positive"]["asked"] == TEXTS
    records = [json.loads(line)["record"] for line in (tmp_path / "mined.jsonl").read_text().splitlines()]
    kept = ["Great" in text or "Nice" in text for text in texts]
    assert [record["kept"] for record in records] == kept
    for text, record in zip(texts, records, strict=True):
        for laptop in record.get("laptop", []):
            for span in (laptop, laptop["price"]):
                assert text[span["start"] : span["end"]] == span["text"]
    counts = run("graph", "mined.jsonl", "--corpus", "corpus.jsonl", "-o", "graph")
    assert counts["documents"] == TEXTS
    assert counts["not_found"] == 0
    assert counts["edges"] == {"mentions": 2 * sum(kept), "price": sum(kept)}
    assert_prices_stand_in_their_texts(tmp_path / "graph", texts)
    began = time.monotonic()
    whole = run("annotate", "corpus.jsonl", "-o", "all.jsonl", "--program", "program.yaml", "--share", 1, *there)
    large_seconds = time.monotonic() - began
    saved = 1 - labelled["cost"] / whole["cost"]
    with capsys.disabled():
        print(
            f"\n{TEXTS} texts: annotation of 5 % costs {labelled['cost']:.6f}, of all {whole['cost']:.6f}: "
            f"{saved:.1%} less; texts/s: proxy {TEXTS / proxy_seconds:.0f}, scripted server "
            f"{TEXTS / large_seconds:.0f}: {large_seconds / proxy_seconds:.1f} times as fast"
        )
    assert 0.94 < saved < 0.96
    assert program.load(tmp_path / "program.yaml").task == INSTRUCTION


@pytest.mark.slow
def test_annotated_rows_train_a_proxy_that_mines(
    tmp_path: Path, server: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a tiny random encoder: the rows and the adapter fit together, what it finds is nothing to rely on."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "corpus.jsonl", reviews(60))
    (tmp_path / "program.yaml").write_text(PROGRAM)
    there = ("--endpoint", server.url, "--program", "program.yaml", "--yes")
    run("annotate", "corpus.jsonl", "-o", "labelled.jsonl", *there, "--share", 0.5)
    recipe = mine_recipe(tmp_path, save_tiny_encoder(tmp_path / "bert"))
    (tmp_path / "proxy.yaml").write_text(
        recipe.replace("{path: train.jsonl}", "{path: labelled.jsonl, where: {error: null}}")
    )
    done = CliRunner().invoke(app, ["run", "proxy.yaml"])
    assert done.exit_code == 0, done.output
    found = ("mine", "program.yaml", "runs/proxy", "corpus.jsonl", "-o", "mined.jsonl")
    mined = run(*found, "--uncertain", 10, "unsure.jsonl")
    assert (mined["rows"], mined["records"], mined["uncertain"]) == (60, 60, 10)
    assert mined["steps"]["positive"]["asked"] == 60
    assert mined["tokens"] > 60 * 30
    assert run("graph", "mined.jsonl", "--corpus", "corpus.jsonl", "-o", "graph")["documents"] == 60
    balanced = ("--label", "This review is positive", "-n", 8, "--balance", "runs/proxy", "--yes")
    again = run("annotate", "unsure.jsonl", "-o", "second.jsonl", "--endpoint", server.url, *balanced)
    assert sum(again["balance"].values()) == 8
    assert again["errors"] == {}
