"""A program over a corpus: the records, what was asked, and what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from laptops import PROGRAM, TEXTS, Rules, proxy_folder
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.mining import engine, program

RECORDS = [
    '{"kept":true,"positive":true,"laptop":[{"text":"Swift 3","start":18,"end":25,"price":{"text":"$499","start":32,'
    '"end":36}},{"text":"Aero 15","start":45,"end":52,"price":{"text":"$1,299","start":59,"end":65}}]}',
    '{"kept":false,"positive":false}',
    '{"kept":true,"positive":true,"laptop":[]}',
]


def run(text: str, texts: list[str], **options: Any) -> tuple[list[dict[str, Any]], Rules, list[Any]]:
    proxy = Rules()
    done = engine.ProgramEngine(program.read(Path("p.yaml"), text), proxy, **options).read(texts)
    return [outcome.record for outcome in done], proxy, done


def test_the_worked_example() -> None:
    records, proxy, _ = run(PROGRAM, list(TEXTS))
    assert [json.dumps(record, separators=(",", ":")) for record in records] == RECORDS
    kinds = [question.kind for question in proxy.calls]
    assert (kinds.count("label"), kinds.count("span"), len(kinds)) == (3, 4, 7)


def test_keep_inside_each_drops_the_span() -> None:
    text = PROGRAM.replace("- {first: price}", "- {keep: price and positive}\n      - {first: price}")
    records, _, _ = run(text, ["Great: Swift 3 and Aero 15 for $5.", "Great: Swift 3"])
    assert [[span["text"] for span in record["laptop"]] for record in records] == [["Aero 15"], []]
    first = PROGRAM.replace("  - each", "  - {first: laptop}\n  - each").replace("- {first: price}", "- {keep: price}")
    records, _, _ = run(first, ["Great: Swift 3 and Aero 15 for $5.", "Nice", "Great: Swift 3 for $1"])
    assert [record["laptop"] and record["laptop"]["text"] for record in records] == [None, None, "Swift 3"]


def test_scores_and_the_fiftieth_span() -> None:
    records, _, _ = run("scores: true\n" + PROGRAM, [TEXTS[1]])
    assert records == [{"kept": False, "positive": False, "positive_score": 0.2}]
    records, proxy, [done] = run(PROGRAM, ["Great " + "Swift 3 " * 60])
    assert len(records[0]["laptop"]) == 50
    assert done.clipped == 10
    assert done.asked == [1, 1, 50]
    assert done.found == [1, 1, 0]
    assert done.tokens == sum(proxy.sub_words(proxy.calls))


def mine(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["mine", *map(str, arguments)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a program, a corpus, and a proxy that reads by rules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "load_proxy", lambda source, batch_size: Rules())
    (tmp_path / "program.yaml").write_text(PROGRAM)
    write(tmp_path / "corpus.jsonl", [*TEXTS, ""])
    proxy_folder(tmp_path / "proxy")
    return tmp_path


def write(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"id": f"d{n}", "text": text}) + "\n" for n, text in enumerate(texts, 1)))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_corpus_is_mined(place: Path) -> None:
    done = mine("program.yaml", "proxy", "corpus.jsonl", "-o", "out.jsonl", "--keep", "text", "--json")
    assert done.exit_code == 0, done.output
    out = lines(place / "out.jsonl")
    assert [json.dumps(row["record"], separators=(",", ":")) for row in out] == [*RECORDS, "null"]
    assert list(out[0]) == ["row", "id", "text", "record", "error", "tokens", "chunks", "completion"]
    assert out[3]["error"].startswith("no text:")
    counts = json.loads(done.stdout)
    assert (counts["rows"], counts["kept"], counts["clipped"]) == (4, 2, 0)
    assert counts["steps"] == {
        "positive": {"asked": 3, "found": 2},
        "laptop": {"asked": 2, "found": 1},
        "laptop.price": {"asked": 2, "found": 2},
    }
    settings = json.loads((place / "out.jsonl.manifest.json").read_text())["settings"]
    assert settings["program"] == program.load(place / "program.yaml").digest
    (place / "program.yaml").write_text(PROGRAM + "\n")
    again = mine("program.yaml", "proxy", "corpus.jsonl", "-o", "out.jsonl", "--keep", "text")
    assert again.exit_code == 2
    assert "was made with other settings: program was" in again.stderr


def test_only_kept_rows_uncertain_texts_and_parquet(place: Path) -> None:
    write(place / "corpus.jsonl", [*TEXTS, "", TEXTS[0]])
    done = mine(
        "program.yaml",
        "proxy",
        "corpus.jsonl",
        "-o",
        "out.parquet",
        "--only-kept",
        "--uncertain",
        2,
        "u.jsonl",
        "--json",
    )
    assert done.exit_code == 0, done.output
    assert (json.loads(done.stdout)["rows"], json.loads(done.stdout)["uncertain"]) == (5, 2)
    out = pq.read_table(place / "out.parquet").to_pylist()
    assert [row["row"] for row in out] == [1, 3, 5]
    assert out[0]["record"]["laptop"][1]["price"] == {"text": "$1,299", "start": 59, "end": 65}
    unsure = lines(place / "u.jsonl")
    assert [(row["id"], row["text"]) for row in unsure] == [("d1", TEXTS[0]), ("d3", TEXTS[2])], "the double once"
    assert unsure[0]["margin"] < unsure[1]["margin"]


def test_uncertain_texts_of_a_finished_output_are_not_promised(place: Path) -> None:
    asked = ("program.yaml", "proxy", "corpus.jsonl", "-o", "out.jsonl", "--uncertain", 2)
    (place / "corpus.jsonl").write_text("".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(TEXTS)))
    assert mine(*asked, "u.jsonl").exit_code == 0
    assert {row["id"] for row in lines(place / "u.jsonl")} <= {"0", "1", "2"}, "0 is an id"
    assert mine(*asked, "u.jsonl").exit_code == 0
    done = mine(*asked, "other.jsonl")
    assert (done.exit_code, "other.jsonl is not there" in done.stderr) == (2, True)


def test_half_a_character_is_an_error_row(place: Path) -> None:
    write(place / "corpus.jsonl", ["Great \ud83d", TEXTS[0]])
    assert mine("program.yaml", "proxy", "corpus.jsonl", "-o", "out.jsonl").exit_code == 0
    assert [row["error"] for row in lines(place / "out.jsonl")] == [
        "no text: text holds a lone surrogate: it was decoded wrongly",
        None,
    ]


def test_shards_merge(place: Path) -> None:
    write(place / "corpus.jsonl", [*TEXTS] * 4)
    options = ("program.yaml", "proxy", "corpus.jsonl", "--only-kept", "-o")
    for shard in (1, 2):
        assert mine(*options, f"{shard}.jsonl", "--shard", f"{shard}/2").exit_code == 0
    assert mine(*options, "whole.jsonl").exit_code == 0
    merged = CliRunner().invoke(app, ["data", "merge-shards", "1.jsonl", "2.jsonl", "-o", "merged.jsonl", "--json"])
    assert merged.exit_code == 0, merged.output
    assert (place / "merged.jsonl").read_bytes() == (place / "whole.jsonl").read_bytes()
    whole = json.loads((place / "whole.jsonl.manifest.json").read_text())["counts"]
    assert {name: json.loads(merged.stdout)[name] for name in ("rows", "kept", "clipped", "steps", "tokens")} == {
        name: whole[name] for name in ("rows", "kept", "clipped", "steps", "tokens")
    }


def test_what_cannot_be_mined(place: Path) -> None:
    proxy_folder(place / "causal", task_type="CAUSAL_LM")
    for arguments, sentence in {
        ("program.yaml", "causal", "corpus.jsonl", "-o", "o.jsonl"): (
            "causal is a causal adapter; mine needs one of kind token_classification. For its own task: adapters "
            "extract."
        ),
        ("progam.yaml", "proxy", "corpus.jsonl", "-o", "o.jsonl"): (
            "progam.yaml: no such program. Did you mean program.yaml?"
        ),
        ("program.yaml", "proxy", "corpus.jsonl", "-o", "o.jsonl", "--uncertain", "0", "u.jsonl"): (
            "--uncertain 0: at least 1 text."
        ),
        ("program.yaml", "proxy", "corpus.jsonl", "-o", "o.jsonl", "--uncertain", "5", "corpus.jsonl"): (
            "--uncertain corpus.jsonl: it would overwrite the corpus."
        ),
    }.items():
        done = mine(*arguments)
        assert (done.exit_code, done.stderr) == (2, f"{sentence}\n")
    assert not (place / "o.jsonl.manifest.json").exists()


KILLED = """
import sys, time
sys.path[:0] = [{tests!r}]
from laptops import Rules
from adapters.cli.main import app
from adapters.mining import engine
class Slow(Rules):
    def scores(self, questions):
        time.sleep(0.05)
        return super().scores(questions)
engine.load_proxy = lambda source, batch_size: Slow()
engine.WINDOW = 16
app(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_anywhere_and_started_again_gives_the_same_bytes(place: Path) -> None:
    rng = random.Random(0)
    write(place / "corpus.jsonl", [f"{rng.choice(TEXTS)} {n}" for n in range(640)])
    options = ["program.yaml", "proxy", "corpus.jsonl", "--uncertain", "20"]
    assert mine(*options, "whole_u.jsonl", "-o", "whole.jsonl").exit_code == 0
    code = KILLED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", code, "mine", *options, "u.jsonl", "-o", "out.jsonl"]
    kills = 0
    while not (place / "out.jsonl").exists():
        child = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ":".join(sys.path)})
        deadline = time.monotonic() + rng.uniform(0.3, 0.9)
        journal = place / "out.jsonl.partial"
        before = journal.stat().st_size if journal.exists() else 0
        while child.poll() is None and (kills == 10 or time.monotonic() < deadline or not _grew(journal, before)):
            time.sleep(0.01)
        kills += child.poll() is None
        child.send_signal(signal.SIGKILL)
        assert child.wait() in (0, -signal.SIGKILL), child.stderr.read().decode()
    assert kills == 10
    assert (place / "out.jsonl").read_bytes() == (place / "whole.jsonl").read_bytes()
    assert mine(*options, "u.jsonl", "-o", "out.jsonl").exit_code == 0
    assert (place / "u.jsonl").read_bytes() == (place / "whole_u.jsonl").read_bytes()


def _grew(journal: Path, before: int) -> bool:
    try:
        return journal.stat().st_size > before
    except FileNotFoundError:
        return False
