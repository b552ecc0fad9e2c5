"""What annotation costs: the estimate, and a budget that ends the work."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from scripted import annotate, lines, reply, write
from test_engines import Server

from adapters.mining.questions import Question


def test_the_budget_of_the_specification(place: Path, server: Server) -> None:
    """Prices 1 and 2, prompts of 2,400 bytes, 500 tokens at most, 1,000 + 500 used: five requests of forty."""
    frame = "".join(message["content"] for message in Question(1, "", "", "label", "health").messages)
    write(place / "corpus.jsonl", [f"{n:04}".ljust(2400 - len(frame.encode()), "x") for n in range(40)])
    server.answer = lambda body: reply('{"label": true}', 1000, 500)
    options = ("--label", "health", "--share", 1, "--price-in", 1, "--price-out", 2, "--max-tokens", 500)
    options = (*options, "--concurrency", 1, "--max-cost")
    for _ in range(2):
        done = annotate(server, *options, 0.01)
        assert (done.exit_code, len(server.requests)) == (3, 5), done.output
        assert done.stderr.endswith(
            "spent 0.0100 of 0.0100; 5 of 40 answers. The same command with a higher --max-cost continues.\n"
        )
    assert not (place / "out.jsonl").exists()
    done = annotate(server, *options, 1, "--json")
    assert (done.exit_code, len(server.requests)) == (0, 40)
    assert json.loads(done.stdout)["cost"] == 0.08
    assert json.loads(done.stdout)["cached"] == 5


@pytest.mark.slow
def test_a_budget_is_exceeded_by_the_requests_under_way_at_most(place: Path, server: Server) -> None:
    """Answers that cost more than was put aside for each: 0.004 instead of about 0.0018."""
    write(place / "corpus.jsonl", [f"{n:04}".ljust(2000, "x") for n in range(60)])
    server.answer = lambda body: (time.sleep(0.01), reply('{"label": true}', 2000, 1000))[1]
    options = ("--label", "health", "--share", 1, "--price-in", 1, "--price-out", 2, "--max-tokens", 500)
    done = annotate(server, *options, "--concurrency", 8, "--max-cost", 0.02)
    assert done.exit_code == 3, done.output
    assert 0.02 - 0.004 < 0.004 * len(server.requests) <= 0.02 + 8 * 0.004
    assert len(server.requests) < 60


@pytest.mark.slow
def test_tokens_are_bounded_without_prices_and_estimated_without_usage(place: Path, server: Server) -> None:
    write(place / "corpus.jsonl", [f"text {n}" for n in range(30)])
    server.answer = lambda body: reply('{"label": true}', 0)
    done = annotate(server, "--label", "health", "--share", 1, "--max-tokens-total", 2000, "--max-tokens", 9)
    assert done.exit_code == 3
    assert done.stderr.endswith("The same command with a higher --max-tokens-total continues.\n")
    stored = lines(place / "out.jsonl.answers.jsonl")
    assert sum(row["prompt_tokens"] + row["completion_tokens"] for row in stored) <= 2000
    assert {(row["estimated"], row["completion_tokens"]) for row in stored} == {(True, 5)}
    assert 2000 - stored[0]["prompt_tokens"] - 9 < sum(r["prompt_tokens"] + r["completion_tokens"] for r in stored)


def test_the_estimate_comes_first(place: Path, server: Server) -> None:
    options = ("--program", "program.yaml", "--share", 1, "--price-in", 1, "--price-out", 2)
    done = annotate(server, *options, yes=False)
    assert done.exit_code == 3
    assert done.stderr.endswith("nothing was sent: nobody is there to ask; say --yes.\n")
    done = annotate(server, *options, "--dry-run", "--json", yes=False)
    assert done.exit_code == 0
    assert "3 texts, about 12 requests, if a text has 2 spans; more spans cost more" in done.stderr
    assert "about 0.0" in done.stderr
    done_flat = annotate(server, "--span", "laptop", "--share", 1, "--dry-run", "--price-in", 1, "--price-out", 2)
    assert "about 3 requests\n" in done_flat.stderr
    assert "at most 0.0" in done_flat.stderr
    expected = json.loads(done.stdout)
    assert (expected["texts"], expected["requests"], expected["completion_tokens"]) == (3, 12, 12 * 512)
    assert expected["cost"] == pytest.approx((expected["prompt_tokens"] + 2 * 12 * 512) / 1e6)
    assert not server.requests
    assert not list(place.glob("out*"))
    assert annotate(server, *options).exit_code == 0
    assert "(6 more are answered already)" in annotate(server, *options, "--dry-run", "--max-tokens", 512).stderr
