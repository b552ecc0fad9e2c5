"""Funding statements that a model behind an endpoint writes for drawn structures: what is kept, and what is not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chat_server import ChatServer
from typer.testing import CliRunner

from adapters.cli import main
from adapters.data_aug.funding_statements import synthesize, written
from adapters.tasks.funding import FundingTask

AWARD = {"funding_scheme": [], "award_ids": ["AB-12", "12/7"], "award_title": []}
ROW = {
    "id": "x",
    "funding_statement": "",
    "funders": [
        {"funder_name": "Fund of the North", "awards": [AWARD]},
        {"funder_name": "North", "awards": [{"funding_scheme": ["Light Up"], "award_ids": [], "award_title": []}]},
    ],
    "source": "s",
}
GOOD = "Light Up by North paid in 2012-2015 (3rd call); the Fund of the North gave 12/7 and AB-12."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD, None),
        (GOOD.replace("AB-12", "AB 12"), "an id is not there"),
        (GOOD.replace("AB-12", "AB-123"), "an id is not there"),
        (GOOD.replace("AB-12", "XAB-12"), "an id is not there"),
        (GOOD.replace("by North", ""), "a name is not there"),
        (GOOD.replace("Light", "light"), "a scheme or title"),
        (GOOD + " Also CD-99.", "something else looks"),
        (GOOD + " Also 83721.", "something else looks"),
        (GOOD.replace("AB-12", "AB-12-7"), "an id is not there"),
        (GOOD + " AB-12-7 too.", "something else looks"),
        (GOOD + " The North-funded AB-12.", None),
        (GOOD + " We thank the National Science Foundation.", "another funder"),
        (GOOD + " We thank DFG.", "another funder"),
        (GOOD + " The total was 45% in 1999 and on 12-03-2020.", None),
        ("", "empty"),
        (GOOD * 100, "too long"),
    ],
)
def test_only_exact_texts_are_kept(text: str, why: str | None) -> None:
    found = written.refusal(ROW, text)
    assert (found or "").startswith(why or ""), found
    assert (found is None) == (why is None)


def test_labels_follow_the_order_of_the_text() -> None:
    row = written.labelled(ROW, GOOD)
    assert [f["funder_name"] for f in row["funders"]] == ["North", "Fund of the North"]
    assert row["funding_statement"] == GOOD
    assert FundingTask().example(row).gold == row["funders"]
    turned = written.labelled(ROW, "The Fund of the North gave 12/7 and AB-12, and North paid for Light Up.")
    assert [f["funder_name"] for f in turned["funders"]] == ["Fund of the North", "North"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<think>hm</think>\n A b. ", "A b."),
        ("```text\nA b.\n```", "A b."),
        ('"A b."', "A b."),
        ("“A b.”", "A b."),
        ('"A" b "C"', '"A" b "C"'),
        ('"', '"'),
        ("``````", "``````"),
        ("", ""),
    ],
)
def test_wrapping_is_taken_off(said: str, text: str) -> None:
    assert written.cleaned(said) == text


def test_our_own_statements_hold_their_labels() -> None:
    why = [written.refusal(row, row["funding_statement"]) for row in synthesize(800, seed=5)]
    # Strain numbers, theses and consultancies in the background are what the check is meant to refuse.
    assert {w for w in why if w} == {"something else looks like an award id", "another funder is named"}
    assert why.count(None) > 0.85 * len(why)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
    monkeypatch.setenv("WRITER_KEY", "s3cret")
    rows = list(synthesize(40, seed=3))
    with ChatServer({written.messages(r)[-1]["content"]: r["funding_statement"] for r in rows}) as held:
        yield held


def write(server: ChatServer, out: Path, *more: object) -> tuple[int, str, str]:
    fixed = ("--endpoint", server.url, "--model", "big", "--api-key-env", "WRITER_KEY", "--seed", 3, "-o", out)
    result = CliRunner().invoke(main.app, ["data", "synthesize", "funding", *map(str, (*fixed, *more))])
    return result.exit_code, result.stdout, result.stderr


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_a_model_writes_statements_and_nothing_is_paid_twice(server: ChatServer, tmp_path: Path) -> None:
    out = tmp_path / "written.jsonl"
    code, shown, said = write(server, out, "-n", 20, "--json")
    assert code == 0, said
    figures = json.loads(shown)
    kept = lines(out)
    assert figures["kept"] == len(kept) > 10
    assert figures["kept"] + sum(figures["refused"].values()) == 20
    assert {c["key"] for c in server.calls} == {"Bearer s3cret"}
    assert "s3cret" not in (tmp_path / "written.samples.jsonl").read_text()
    drawn = {r["id"]: r for r in synthesize(20, seed=3)}
    assert all(row["funding_statement"] == drawn[row["id"]]["funding_statement"].strip() for row in kept)
    assert all(row["source"] == "written-funding" for row in kept)
    assert len(server.calls) == 20
    assert write(server, out, "-n", 20)[0] == 0
    assert len(server.calls) == 20
    code, shown, said = write(server, out, "-n", 30)
    assert (code, len(server.calls)) == (0, 30), said
    assert "statements kept" in shown
    assert lines(out)[: len(kept)] == kept


@pytest.mark.slow
def test_what_was_paid_for_survives_a_server_that_stops(server: ChatServer, tmp_path: Path) -> None:
    out = tmp_path / "written.jsonl"
    server.script = [200] * 12 + [500] * 400
    code, _, said = write(server, out, "-n", 20, "--parallel", 1)
    assert code == 2
    assert "12 answers are kept" in " ".join(said.split())
    assert not out.exists()
    server.script = []
    before = len(server.calls)
    store = tmp_path / "written.samples.jsonl"
    store.write_bytes(store.read_bytes()[:-9])
    assert write(server, out, "-n", 20)[0] == 0
    assert len(server.calls) == before + 9, "the torn one is asked for again"
    assert write(server, out, "-n", 20)[0] == 0
    assert len(server.calls) == before + 9


def test_giving_up_does_not_wait_for_requests_on_their_way(server: ChatServer, tmp_path: Path) -> None:
    held = threading.Event()
    server.before = lambda call: held.wait(30) if call > 1 else None
    server.script = [401]
    began = time.monotonic()
    code, _, said = write(server, tmp_path / "written.jsonl", "-n", 20, "--parallel", 8)
    assert (code, "refuses the key in WRITER_KEY" in said) == (2, True)
    assert time.monotonic() - began < 15
    held.set()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("funding", "--model", "m"), "--model needs an --endpoint"),
        (("funding", "--concurrency", "2"), "--concurrency needs an --endpoint"),
        (("funding", "--parallel", "2"), "--concurrency needs an --endpoint"),
        (("funding", "--endpoint", "http://x/v1"), "needs -o FILE"),
        (("agent", "--endpoint", "http://x/v1", "--model", "m", "-o", "x"), "only funding statements"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: tuple[str, ...], text: str) -> None:
    result = CliRunner().invoke(main.app, ["synthesize", *arguments])
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
