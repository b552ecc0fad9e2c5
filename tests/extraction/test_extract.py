"""An adapter over a corpus: every row answered once, in order, whatever file, error or kill comes in between."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import funding_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.cli import main
from adapters.data.examples import prompt_key
from adapters.data.rows import survey
from adapters.errors import UserError
from adapters.extraction import adapter_source, engines, extract, resumable
from adapters.extraction.engine import Answer, Engine, Options
from adapters.extraction.files import arrow_type
from adapters.extraction.journal import Journal
from adapters.files import json_line, sha256, write_json
from adapters.tasks.funding import FundingTask

TASK = FundingTask(target="compact")
EMPTY = {"funding_scheme": [], "award_ids": [], "award_title": []}


def echo_adapter(folder: Path, rows: list[dict], **manifest: object) -> Path:
    """An adapter of the backend without a model, which knows these rows and answers [] to others."""
    folder.mkdir(parents=True)
    examples = [TASK.example(row, id=row["id"]) for row in rows]
    (folder / adapter_folder.WEIGHTS).write_text(json.dumps({prompt_key(e): e.completion for e in examples}))
    (folder / adapter_folder.CONFIG).write_text(json.dumps({"peft_type": "ECHO", "base_model_name_or_path": "me/base"}))
    told = {"task": {"use": "funding", "target": "compact"}, "thinking": False, "model": {"base": "me/base"}}
    files = {name: sha256(folder / name) for name in (adapter_folder.WEIGHTS, adapter_folder.CONFIG)}
    write_json(folder / adapter_folder.MANIFEST, {**told, "files": files, **manifest})
    return folder


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["extract", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def rows() -> list[dict]:
    return funding_rows(40)


@pytest.fixture
def known(tmp_path: Path, rows: list[dict]) -> Path:
    return echo_adapter(tmp_path / "adapter", rows)


@pytest.fixture
def corpus(tmp_path: Path, rows: list[dict]) -> Path:
    return write_jsonl(tmp_path / "in.jsonl", rows)


# ------------------------------------------------------------------------------------------------ files and records


def test_every_row_has_its_record_in_order(tmp_path: Path, known: Path, corpus: Path, rows: list[dict]) -> None:
    code, said = invoke(known, corpus, "-o", tmp_path / "out.jsonl")
    assert code == 0, said
    out = lines(tmp_path / "out.jsonl")
    assert [r["id"] for r in out] == [r["id"] for r in rows]
    assert [r["row"] for r in out] == list(range(1, 41))
    assert [r["record"] for r in out] == [TASK.gold(row) for row in rows]
    assert all(r["error"] is None and r["completion"] is None for r in out)
    assert "40 rows, 40 records (8 of them empty)" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "in.jsonl", "out.jsonl", "out.jsonl.manifest.json"]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("target", ["jsonl", "parquet"])
def test_every_pair_of_formats(tmp_path: Path, known: Path, rows: list[dict], kind: str, target: str) -> None:
    source = tmp_path / f"in.{kind}"
    flat = [{"doi": f"10.1/{n}", "passage": row["funding_statement"], "n": n} for n, row in enumerate(rows)]
    flat[3]["passage"] = 'a "quoted", two-line\ntext'
    if kind == "jsonl":
        write_jsonl(source, flat)
    elif kind == "json":
        source.write_text(json.dumps(flat))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(flat), source, row_group_size=7)
    else:
        import csv

        with source.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["doi", "passage", "n"])
            writer.writeheader()
            writer.writerows(flat)
    out = tmp_path / f"out.{target}"
    code, said = invoke(known, source, "-o", out, "--text", "passage", "--keep", "doi", "--keep", "n")
    assert code == 0, said
    found = pq.read_table(out).to_pylist() if target == "parquet" else lines(out)
    assert [r["doi"] for r in found] == [r["doi"] for r in flat]
    assert [int(r["n"]) for r in found] == list(range(40))
    golds = [TASK.gold(row) for row in rows]
    assert [r["record"] for n, r in enumerate(found) if n != 3] == golds[:3] + golds[4:]
    assert found[3]["record"] == []


def test_an_empty_first_row_group_does_not_decide_the_columns(tmp_path: Path, known: Path, rows: list[dict]) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"funding_statement": "unknown"}] * 2050 + rows)
    assert invoke(known, source, "-o", tmp_path / "out.parquet")[0] == 0
    table = pq.read_table(tmp_path / "out.parquet")
    texts = "list<element: string>"
    award = f"struct<funding_scheme: {texts}, award_ids: {texts}, award_title: {texts}>"
    assert str(table.schema.field("record").type) == (
        f"list<element: struct<funder_name: string, awards: list<element: {award}>>>"
    )
    assert table["record"].to_pylist()[2050:] == [TASK.gold(row) for row in rows]


def test_bad_rows_keep_their_place_with_a_reason(tmp_path: Path, known: Path, rows: list[dict]) -> None:
    source = tmp_path / "in.jsonl"
    texts = [
        json.dumps(rows[0]),
        "{not json",
        "",
        "[1]",
        json.dumps({"id": "x"}),
        json.dumps({"funding_statement": " "}),
    ]
    source.write_bytes("\n".join([*texts, json.dumps(rows[1])]).encode() + b'\n{"funding_statement": "\xff"}\n')
    code, said = invoke(known, source, "-o", tmp_path / "out.jsonl")
    assert code == 0, said
    out = lines(tmp_path / "out.jsonl")
    assert [r["record"] is None for r in out] == [False, True, True, True, True, False, True]
    assert [(r["error"] or "").partition(":")[0] for r in out] == [
        *("", "unreadable row", "unreadable row", "no text", "no text", "", "unreadable row")
    ]
    assert "5 rows have no record, and say why in `error`: 3 unreadable row, 2 no text" in said


def test_an_unclosed_quote_in_a_table_loses_no_row(tmp_path: Path, known: Path, rows: list[dict]) -> None:
    source = tmp_path / "in.csv"
    texts = [row["funding_statement"].replace('"', "'") for row in rows[:6]]
    lines_of = [f'd{n},"{text}"' for n, text in enumerate(texts)]
    lines_of[1] = lines_of[1][:-1]
    lines_of[3] += ",more"
    source.write_text("\n".join(["id,funding_statement", *lines_of]))
    code, said = invoke(known, source, "-o", tmp_path / "out.jsonl")
    assert code == 0, said
    out = lines(tmp_path / "out.jsonl")
    assert [r["id"] for r in out] == ["d0", "2", "d2", "4", "d4", "d5"]
    assert [r["record"] is None for r in out] == [False, True, False, True, False, False]
    assert out[1]["error"].startswith("unreadable row: line 3: a quote is not closed")
    assert out[3]["error"] == "unreadable row: line 5: 3 cells, but the header has 2"


def test_kept_columns_are_valid_json_and_keep_their_types_in_parquet(tmp_path: Path, known: Path) -> None:
    import datetime
    from decimal import Decimal

    utc = datetime.UTC
    columns = {
        "score": pa.array([1.5, float("nan"), float("inf")]),
        "day": pa.array([datetime.date(2020, 1, 2), None, datetime.date(2021, 3, 4)]),
        "seen": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=utc)] * 3, pa.timestamp("ns", "UTC")),
        "amount": pa.array([Decimal("1.10"), None, Decimal("2.00")], pa.decimal128(5, 2)),
        "raw": pa.array([b"\xff\x00", None, b"a"]),
        "authors": pa.array([[{"n": "A", "born": datetime.date(1990, 1, 1)}], [], None]),
        "small": pa.array([1, None, -3], pa.int8()),
        "half": pa.array([0.5, None, 2.0], pa.float16()),
        "yes": pa.array([True, None, False]),
        "kind": pa.array(["x", None, "x"]).dictionary_encode(),
        "time": pa.array([datetime.time(3, 4), None, None]),
    }
    texts = {"funding_statement": pa.array([f"Paid by the Sample Trust, case {n}." for n in range(3)])}
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({**texts, **columns}), source)
    keep = [part for name in columns for part in ("--keep", name)]
    for end in ("jsonl", "parquet"):
        code, said = invoke(known, source, "-o", tmp_path / f"out.{end}", *keep)
        assert code == 0, said

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    out = [json.loads(t, parse_constant=no_constant) for t in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["score"] for row in out] == [1.5, None, None]
    assert [row["day"] for row in out] == ["2020-01-02", None, "2021-03-04"]
    assert (out[0]["seen"], out[0]["amount"], out[0]["raw"]) == ("2020-01-02T03:04:05+00:00", "1.10", "/wA=")
    assert out[0]["authors"] == [{"n": "A", "born": "1990-01-01"}]
    wanted = pq.read_table(source).drop_columns(["funding_statement", "score", "kind", "time"])
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(wanted.column_names).equals(wanted)
    assert found["score"].to_pylist() == [1.5, None, None]
    assert (found["kind"].to_pylist(), found["time"].to_pylist()) == (["x", None, "x"], ["03:04:00", None, None])


def test_kept_types_survive_shards_and_their_merge(tmp_path: Path, known: Path) -> None:
    from adapters.extraction.merge_shards import merge

    day = pa.array(pa.array([None, "2020-01-02", "2020-01-03", None]).cast(pa.date32()))
    pq.write_table(pa.table({"funding_statement": ["a", "b", "c", "d"], "day": day}), tmp_path / "in.parquet")
    for number, end in ((1, "jsonl"), (2, "parquet")):
        shard = ["--keep", "day", "--shard", f"{number}/2"]
        assert invoke(known, tmp_path / "in.parquet", "-o", tmp_path / f"part{number}.{end}", *shard)[0] == 0
    for end in ("parquet", "jsonl"):
        merge([tmp_path / "part1.jsonl", tmp_path / "part2.parquet"], tmp_path / f"all.{end}")
    assert pq.read_table(tmp_path / "all.parquet")["day"].combine_chunks().equals(day)
    assert [row["day"] for row in lines(tmp_path / "all.jsonl")] == [None, "2020-01-02", "2020-01-03", None]


def test_ids_of_a_corpus(tmp_path: Path, known: Path) -> None:
    source = tmp_path / "in.jsonl"
    ids = ['"a"', "7", "null", "NaN", "1613002.0", "[1]", "true", "{}", "1e3"]
    source.write_text("".join(f'{{"id": {i}, "funding_statement": "We thank A."}}\n' for i in ids))
    assert invoke(known, source, "-o", tmp_path / "out.jsonl")[0] == 0
    out = lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in out] == ["a", "7", "3", "4", "1613002", "6", "7", "8", "9"]
    errors = [(row["error"] or "").partition(":")[0] for row in out]
    assert errors == [""] * 5 + ["bad id"] * 4
    assert [row["record"] is None for row in out] == [False] * 5 + [True] * 4


@pytest.mark.parametrize("name", ["in.json", "in.tsv", "in.jsonl.gz", "in.ndjson", "folder"])
def test_a_corpus_in_any_form(tmp_path: Path, known: Path, rows: list[dict], name: str) -> None:
    import gzip

    import datasets

    source, texts = tmp_path / name, [row["funding_statement"] for row in rows]
    if name == "folder":
        datasets.Dataset.from_list([{"funding_statement": text} for text in texts]).save_to_disk(source)
    elif name.endswith(".tsv"):
        source.write_text("id\tfunding_statement\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(texts)))
    else:
        content = "".join(json.dumps({"funding_statement": text}) + "\n" for text in texts).encode()
        source.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    code, said = invoke(known, source, "-o", tmp_path / "out.jsonl")
    assert code == 0, said
    assert [r["record"] for r in lines(tmp_path / "out.jsonl")] == [TASK.gold(row) for row in rows]


def test_a_corpus_of_another_tool_is_named(tmp_path: Path, known: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", [{"tokens": ["a"], "ner_tags": [0]}])
    code, said = invoke(known, source, "-o", tmp_path / "out.jsonl")
    assert code == 2
    assert "no column 'funding_statement'; it has tokens and ner_tags: `adapters data convert`" in " ".join(
        said.split()
    )


@pytest.mark.parametrize(
    ("text", "record", "error"),
    [
        ("[]", [], None),
        ('```json\n[{"funder_name": null, "awards": []}]\n```', [{"funder_name": None, "awards": [EMPTY]}], None),
        ('{"funders": []} and so on', [], None),
        ("<think>[9]</think>[]", [], None),
        ("no", None, "not JSON"),
        ("[1]", None, "wrong shape"),
        ("7", None, "wrong shape"),
        ('[{"awards": []}]', None, "wrong shape"),
        ('[{"funder_name": "A", "awards": "none"}]', None, "wrong shape"),
        ('[{"funder_name": "A", "awards": [{"award_ids": [{}]}]}]', None, "wrong shape"),
        ('[{"funder_name": 3, "awards": []}]', None, "wrong shape"),
        ('[{"funder_name": "A", "award_ids": [true]}]', None, "wrong shape"),
        ("[" * 100_000, None, "not JSON"),
    ],
)
def test_an_answer_is_a_valid_record_or_an_error(known: Path, text: str, record: object, error: str | None) -> None:
    source = adapter_source.find(str(known))
    work = type("ExtractionJob", (), {"source": source})()
    line = extract._record(work, {"row": 1}, Answer(1, text, 5))
    assert line["record"] == record
    assert (line["error"] or "").partition(":")[0] == (error or "")
    assert line["completion"] == (text if error else None)


def test_compact_and_loose_answers_become_the_published_form(known: Path) -> None:
    task = adapter_source.find(str(known)).task
    award = {"funding_scheme": [], "award_ids": ["12", "A"], "award_title": ["T"]}
    expected = [{"funder_name": "N", "awards": [award]}]
    assert task.record([{"funder_name": "N", "award_ids": [12, "A", None], "award_title": "T"}]) == expected
    assert task.record({"funder_name": "N", "awards": [{**award, "award_ids": [12, "A"]}], "more": 1}) == expected
    assert task.record([{"funder_name": "N"}]) == [{"funder_name": "N", "awards": [EMPTY]}]


@pytest.mark.slow
def test_records_fit_the_schema_they_promise(known: Path, rows: list[dict]) -> None:
    import jsonschema

    task = adapter_source.find(str(known)).task
    for row in rows:
        example = TASK.example(row)
        jsonschema.validate(json.loads(example.completion), task.answer_schema())
        jsonschema.validate(task.record(json.loads(example.completion)), task.record_schema())
        nested = FundingTask(target="nested")
        jsonschema.validate(json.loads(nested.answer(example.gold)), nested.answer_schema())
    for other in ({"funders": []}, [{"awards": []}], ["N"]):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(other, task.record_schema())


def test_a_cut_answer_says_that_it_was_cut(known: Path) -> None:
    work = type("ExtractionJob", (), {"source": adapter_source.find(str(known))})()
    line = extract._record(work, {"row": 1}, Answer(1, '[{"funder_name": "A', 9, True))
    assert line["error"] == "truncated: no complete answer in 9 tokens"
    whole = extract._record(work, {"row": 1}, Answer(1, "[] more", 9, True))
    assert (whole["record"], whole["error"]) == ([], None), "the answer was complete before the cut"


# ------------------------------------------------------------------------------------------------------- restarting


def work_on(known: Path, corpus: Path, out: Path, **options: object) -> extract.ExtractionJob:
    settings = {"engine": "transformers", "max_new_tokens": 64}
    return extract.prepare(adapter_source.find(str(known)), corpus, out, engine=settings, **options)


def finish(work: extract.ExtractionJob, stop_after: int | None = None, asked: list[int] | None = None) -> dict:
    def engine() -> Engine:
        inner = engines.make("transformers", work.source, Options(), print)

        def answer(requests):
            for n, one in enumerate(inner(requests)):
                if n == stop_after:
                    raise RuntimeError("pulled the plug")
                if asked is not None:
                    asked.append(one.row)
                yield one

        return answer

    with resumable.open_or_resume(work, fresh=False):
        return resumable.finished(work) or extract.run(work, engine, lambda *_: None)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [0, 1, 30])
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, known: Path, corpus: Path, torn: int) -> None:
    finish(work_on(known, corpus, tmp_path / "whole.jsonl"))
    out, asked = tmp_path / "out.jsonl", list[int]()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="plug"):
            finish(work_on(known, corpus, out), stop_after=9, asked=asked)
        assert not out.exists()
        journal = out.with_name("out.jsonl.partial")
        os.truncate(journal, journal.stat().st_size - torn)
    counts = finish(work_on(known, corpus, out), asked=asked)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert counts["resumed"] == 27 - (3 if torn else 0)
    assert len(asked) == 40 + (3 if torn else 0), "no more is asked again than was torn"
    assert not journal.exists()


def test_a_finished_output_is_not_made_again(tmp_path: Path, known: Path, corpus: Path) -> None:
    assert invoke(known, corpus, "-o", tmp_path / "out.jsonl")[0] == 0
    before = (tmp_path / "out.jsonl").stat().st_mtime_ns
    code, said = invoke(known, corpus, "-o", tmp_path / "out.jsonl")
    assert code == 0
    assert "complete already" in said
    assert (tmp_path / "out.jsonl").stat().st_mtime_ns == before
    code, said = invoke(known, corpus, "-o", tmp_path / "out.jsonl", "--fresh")
    assert "complete already" not in said
    assert code == 0


@pytest.mark.parametrize("begun", [True, False])
def test_other_settings_are_refused_by_name(tmp_path: Path, known: Path, corpus: Path, rows: list, begun: bool) -> None:
    out = tmp_path / "out.jsonl"
    if begun:
        with pytest.raises(RuntimeError):
            finish(work_on(known, corpus, out), stop_after=4)
    else:
        finish(work_on(known, corpus, out))
    write_jsonl(corpus, rows[:-1])
    with pytest.raises(UserError, match=r"other settings: input was .*; rows was 40, is 39"):
        finish(work_on(known, corpus, out))
    write_jsonl(corpus, rows)
    with pytest.raises(UserError, match="normalize was false, is true"):
        finish(work_on(known, corpus, out, normalise=True))
    finish(work_on(known, corpus, out))


def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path, known: Path, corpus: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    code, said = invoke(known, corpus, "-o", out)
    assert code == 2
    assert "no extraction wrote it" in said
    assert out.read_text() == "mine"


def test_two_processes_do_not_write_one_output(tmp_path: Path, known: Path, corpus: Path) -> None:
    work = work_on(known, corpus, tmp_path / "out.jsonl")
    with resumable.open_or_resume(work, fresh=False):
        code, said = invoke(known, corpus, "-o", tmp_path / "out.jsonl")
    assert code == 2
    assert "another process is writing" in said


def test_the_journal_survives_any_cut(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, 2, 3)
    order = [5, 2, 11, 8, 17]
    for row in order:
        journal.append({"row": row, "text": "é" * row})
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        again = Journal(path, 2, 3)
        complete = whole[:cut].count(b"\n")
        assert {row for row in range(2, 30, 3) if row in again} == set(order[:complete])
        assert again.count == complete
        for row in order[complete:]:
            again.append({"row": row, "text": "é" * row})
        again.close()
        assert [r["row"] for r in again.ordered()] == [2, 5, 8, 11]
    path.write_bytes(whole + b"\0" * 100)
    assert Journal(path, 2, 3).count == 5
    path.write_bytes(whole + whole.splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="holds row 5 twice"):
        Journal(path, 2, 3)


@pytest.mark.slow
def test_killed_for_real_again_and_again(tmp_path: Path) -> None:
    """10,000 made statements with offsets and a registry, the longest in parts, killed at random and at the end."""
    from adapters.data_aug.funding_statements import synthesize

    rows = list(synthesize(10_000, seed=23))
    known = echo_adapter(tmp_path / "adapter", rows)
    corpus = write_jsonl(tmp_path / "in.jsonl", rows)
    names = dict.fromkeys(f["funder_name"] for row in rows[:1500] for f in row["funders"] if f["funder_name"])
    registry = [{"funder_id": f"10/{n}", "name": name, "country": "ES"} for n, name in enumerate(names)]
    write_jsonl(tmp_path / "funders.jsonl", registry)
    options = ["--grounded", "flag", "--normalize", "--registry", tmp_path / "funders.jsonl", "--window", "200"]
    assert invoke(known, corpus, "-o", tmp_path / "whole.jsonl", *options)[0] == 0
    whole = lines(tmp_path / "whole.jsonl")
    assert sum(row["chunks"] > 1 for row in whole) > 10
    assert sum(f["funder_id"] is not None for row in whole for f in row["normalized"]) > 1000
    # The journal has the rows without what is worked out at the end.
    size = sum(len(json_line({k: v for k, v in row.items() if k != "normalized"})) for row in whole)
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    command = [sys.executable, "-m", "adapters", "extract", known, corpus, "-o", out, *options]
    draw = random.Random(0)
    for target in [*sorted(draw.sample(range(size), 4)), size]:
        process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and not (partial.exists() and partial.stat().st_size >= target):
            time.sleep(0.002)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
    assert invoke(known, corpus, "-o", out, *options)[0] == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    known = echo_adapter(tmp_path / "adapter", funding_rows(4))
    peaks = []
    for n in (5_000, 60_000):
        corpus = tmp_path / f"{n}.jsonl"
        with corpus.open("w") as file:
            file.writelines(json.dumps({"funding_statement": f"statement {i} " + "x" * 300}) + "\n" for i in range(n))
        work = work_on(known, corpus, tmp_path / f"{n}.parquet")
        tracemalloc.start()
        finish(work)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 1_000_000, peaks


# ----------------------------------------------------------------------------------------------------------- shards


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_merge_to_the_whole(tmp_path: Path, known: Path, corpus: Path, kind: str) -> None:
    finish(work_on(known, corpus, tmp_path / f"whole.{kind}"))
    parts = [tmp_path / f"part-{n}.{kind}" for n in (1, 2, 3)]
    for n, part in enumerate(parts, 1):
        assert invoke(known, corpus, "-o", part, "--shard", f"{n}/3")[0] == 0
    merged = tmp_path / f"merged.{kind}"
    done = CliRunner().invoke(main.app, ["extract-merge", *map(str, reversed(parts)), "-o", str(merged), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["records"] == 40
    if kind == "jsonl":
        assert merged.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    else:
        assert pq.read_table(merged).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert CliRunner().invoke(main.app, ["extract-merge", *map(str, parts), "-o", str(merged)]).exit_code == 2


def test_incomplete_shards_are_refused(tmp_path: Path, known: Path, corpus: Path) -> None:
    from adapters.extraction.merge_shards import merge

    parts = [tmp_path / f"part-{n}.jsonl" for n in (1, 2, 3)]
    for n, part in enumerate(parts, 1):
        finish(work_on(known, corpus, part, shard=f"{n}/3"))
    out = tmp_path / "merged.jsonl"
    with pytest.raises(UserError, match="1 of 3 shards are missing: 2/3"):
        merge([parts[0], parts[2]], out)
    copy = tmp_path / "copy.jsonl"
    for end in ("", ".manifest.json"):
        Path(f"{copy}{end}").write_bytes(Path(f"{parts[0]}{end}").read_bytes())
    with pytest.raises(UserError, match="shard 1/3 was given twice"):
        merge([*parts, copy], out)
    whole = lines(parts[1])
    write_jsonl(parts[1], whole[:4] + whole[5:])
    with pytest.raises(UserError, match="row 14 is missing"):
        merge(parts, out)
    held = json.loads((tmp_path / "part-3.jsonl.manifest.json").read_text())
    (tmp_path / "part-3.jsonl.manifest.json").write_text(json.dumps({**held, "complete": False}))
    with pytest.raises(UserError, match=r"not finished \(shard 3/3\)"):
        merge(parts[1:], out)
    finish(work_on(known, corpus, tmp_path / "part-4.jsonl", shard="1/4"))
    with pytest.raises(UserError, match="different divisions: into 3 and into 4"):
        merge([parts[1], tmp_path / "part-4.jsonl"], out)
    assert not out.exists()


def test_more_shards_than_rows(tmp_path: Path, known: Path, corpus: Path, rows: list[dict]) -> None:
    write_jsonl(corpus, rows[:2])
    for n in (1, 2, 3):
        assert finish(work_on(known, corpus, tmp_path / f"p{n}.jsonl", shard=f"{n}/3"))["rows"] == (n < 3)
    from adapters.extraction.merge_shards import merge

    assert merge([tmp_path / f"p{n}.jsonl" for n in (1, 2, 3)], tmp_path / "all.jsonl")["rows"] == 2


# --------------------------------------------------------------------------------------------- what can be mistaken


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["{adapter}", "{in}", "-o", "out.txt"], "ends in .jsonl or .parquet"),
        (["{adapter}", "{in}", "-o", "nowhere/out.jsonl"], "no folder nowhere"),
        (["{adapter}", "{adapter}/adapter_model.safetensors", "-o", "out.jsonl"], "a data file ends in"),
        (["{adapter}", "in.jsnl.jsonl", "-o", "out.jsonl"], "there is no file in.jsnl.jsonl"),
        (["{adapter}", "{in}", "-o", "{in}"], "would overwrite the input"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--text", "funding_statment"], "Did you mean funding_statement"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--keep", "doi"], "no such column"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--keep", "id"], "has a column of that name"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--shard", "0/4"], "1/4, 2/4"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--registry", "{in}"], "is for --normalize"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--normalize", "--registry", "{in}"], "funder_id"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--model", "x"], "--model needs an --endpoint"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--task", "fundign"], "Did you mean funding"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--endpoint", "localhost:1"], "such as http://localhost:8000/v1"),
        (["{adapter}", "{in}", "-o", "out.jsonl", "--endpoint", "http://127.0.0.1:9"], "does not answer"),
        (["./nowhere", "{in}", "-o", "out.jsonl"], "neither a folder nor the Hub id"),
        ([".", "{in}", "-o", "out.jsonl"], "neither a run folder nor an adapter"),
    ],
)
def test_mistakes_end_in_one_message(
    tmp_path: Path, known: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, said = invoke(*(a.replace("{adapter}", str(known)).replace("{in}", str(corpus)) for a in arguments))
    assert code == 2, said
    assert text in " ".join(said.split())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("out.jsonl") and p.suffix != ".json"]


def test_an_adapter_says_its_task_or_is_told_it(tmp_path: Path, rows: list[dict]) -> None:
    silent = echo_adapter(tmp_path / "silent", rows, task=None)
    with pytest.raises(UserError, match="Name it with --task"):
        adapter_source.find(str(silent))
    assert adapter_source.find(str(silent), task="funding").task == FundingTask()
    (silent / "recipe.yaml").write_text(
        'if __name__ == "__main__": from adapters import main; main(__file__); r"""\n'
        "name: x\ntask: {use: funding, target: compact, system: Short.}\nmodel: {base: me/other, thinking: true}\n"
        '# """\n'
    )
    found = adapter_source.find(str(silent))
    assert found.task == FundingTask(target="compact", system="Short.")
    assert (found.model.base, found.model.thinking) == ("me/other", True)
    assert adapter_source.find(str(silent), base="me/third").model.base == "me/third"
    (silent / "recipe.yaml").write_text("name: x\ntask: funding\nmodel: {base: /not/here}\n")
    assert adapter_source.find(str(silent)).model.base == "me/base", "the published name, not the trainer's folder"


def test_a_run_folder_means_its_last_stage(tmp_path: Path, rows: list[dict]) -> None:
    run = tmp_path / "run"
    for name in ("1-sft", "2-grpo", "10-grpo"):
        echo_adapter(run / name, rows[: len(name)])
    (run / "recipe.yaml").write_text("name: x")
    tree = {"task": {"use": "funding", "target": "compact"}, "model": {"base": "me/base", "thinking": True}}
    stages = [{"kind": "sft"}, *[{"kind": "grpo"}] * 9]
    (run / "recipe.json").write_text(json.dumps(tree | {"stages": stages}))
    found = adapter_source.find(str(run))
    assert found.adapter.name == "10-grpo"
    assert found.model.thinking
    assert adapter_source.find(str(run / "1-sft")).adapter.name == "1-sft"
    (run / "10-grpo" / adapter_folder.WEIGHTS).write_text("{}")
    with pytest.raises(UserError, match="was changed after training"):
        adapter_source.find(str(run))


def test_arrow_types_of_schemas_without_fixed_columns() -> None:
    labels = {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}}
    assert arrow_type(labels) == pa.string()
    assert arrow_type({"anyOf": [{"type": "integer"}, {"type": "null"}]}) == pa.int64()
    assert arrow_type({}) == pa.string()


def test_a_missing_corpus_is_not_confused_with_a_file_of_another_name(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [])
    with pytest.raises(UserError, match=r"Did you mean corpus\.jsonl\?"):
        survey(tmp_path / "corpsu.jsonl")
    with pytest.raises(UserError, match=r"zebra\.jsonl\. Known: corpus\.jsonl\.$"):
        survey(tmp_path / "zebra.jsonl")
