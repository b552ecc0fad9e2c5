"""The view of an extraction: every row with its places, an index for the filters, and hostile text as data."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from test_report import HOSTILE, elements
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli import main
from adapters.data.rows import survey
from adapters.errors import UserError
from adapters.extraction import files
from adapters.extraction.resumable import journal_path
from adapters.files import manifest_path, read_json, write_json
from adapters.report import write_view
from adapters.tasks import funding_answer, ie_answers

MENTION = {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}}
PLACE = {
    "path": "string",
    "value": "string",
    "start": "integer",
    "end": "integer",
    "match": "string",
    "score": "number",
}
SPAN = {"type": "object", "properties": {**{name: {"type": kind} for name, kind in PLACE.items()}, "mentions": MENTION}}


def funder(name: str, *ids: str) -> dict[str, Any]:
    return {"funder_name": name, "awards": [{"funding_scheme": [], "award_ids": list(ids), "award_title": []}]}


def places(text: str, record: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The column `spans`, as an exact search finds it."""
    if isinstance(record, str):
        found = [[at.start(), at.end()] for at in re.finditer(re.escape(record), text)]
        start, end = found[0] if found else (None, None)
        kind, score = ("exact", 1.0) if found else ("absent", 0.0)
        place = {"start": start, "end": end, "match": kind, "score": score, "mentions": found}
        yield {"path": path, "value": record, **place}
    elif record is not None:
        for key, inner in record.items() if isinstance(record, dict) else enumerate(record):
            yield from places(text, inner, f"{path}.{key}" if path else str(key))


def extraction(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    records: Sequence[Any],
    *,
    task: str | dict[str, Any] = "funding",
    text: str = "funding_statement",
    out: str = "out.jsonl",
    **settings: Any,
) -> Path:
    """An output of `adapters extract` with offsets; a record None is an error row."""
    corpus = write_jsonl(folder / "corpus.jsonl", rows)
    kept = {name: {"type": "string"} for name in settings.get("keep", ())}
    lines = []
    for n, (row, record) in enumerate(zip(rows, records, strict=True), 1):
        error = "not JSON: Expecting value" if record is None else None
        line = {"row": n, "id": row["id"], **{name: row[name] for name in kept}, "record": record, "error": error}
        line |= {"tokens": 3, "completion": "[{" if error else None}
        lines.append(line | {"spans": list(places(row[text] or "", record))})
    kind, whole = {"type": "string"}, {"type": "integer"}
    properties = {
        "row": whole,
        "id": kind,
        **kept,
        "record": funding_answer.RECORD if task == "funding" else ie_answers.RECORD,
    }
    properties |= {"error": kind, "tokens": whole, "completion": kind, "spans": {"type": "array", "items": SPAN}}
    schema = {"type": "object", "properties": properties}
    files.write(folder / out, lines, schema)
    made_of = {
        "input": survey(corpus)[1],
        "task": {"use": task} if isinstance(task, str) else task,
        "text": text,
        "keep": [],
        "base": "me/base",
    }
    described = {"settings": made_of | settings, "paths": {"input": str(corpus)}, "schema": schema}
    counts = {"rows": len(rows), "records": len(rows), "empty": 0}
    write_json(manifest_path(folder / out), {"complete": True, **described, "counts": counts})
    return folder / out


TEXT = "Funded by the Sample Trust (ST-1) and the Example Fund."
ROWS = [
    {"id": "right", "funding_statement": TEXT, "funders": [funder("Sample Trust", "ST-1"), funder("Example Fund")]},
    {"id": "wrong", "funding_statement": TEXT, "funders": [funder("Sample Trust", "ST-1"), funder("Example Fund")]},
    {"id": "failed", "funding_statement": "Nothing.", "funders": []},
    {"id": HOSTILE, "funding_statement": f"By {HOSTILE} alone", "funders": [funder(HOSTILE)]},
]
RECORDS = [ROWS[0]["funders"], [funder("Sample Trust", "ST-2")], None, [funder(HOSTILE)]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return extraction(tmp_path, ROWS, RECORDS)


def data(page: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The page's index and its rows."""
    found = re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page.read_text(), re.DOTALL)
    blocks = {name: json.loads(text) for name, text in found}
    head = blocks.pop("head")
    return head, [row for block in blocks.values() for row in block]


def test_every_row_has_its_text_record_and_places(out: Path) -> None:
    page = write_view(out)
    assert page == out.with_name("out.jsonl.html")
    head, rows = data(page)
    assert [(row["id"], row["text"], row["record"]) for row in rows] == [
        (row["id"], row["funding_statement"], record) for row, record in zip(ROWS, RECORDS, strict=True)
    ]
    for row in rows:
        for _, match, start, _, _, _ in row["spans"]:
            assert (head["matches"][match] == "absent") == (start is None)
    path, _, start, end, _, others = rows[0]["spans"][1]
    assert (path, TEXT[start:end], others) == ("0.awards.0.award_ids.0", "ST-1", [])
    assert rows[2]["error"].startswith("not JSON")
    assert rows[2]["completion"] == "[{"


def test_the_index_is_what_the_filters_need(out: Path) -> None:
    head, _ = data(write_view(out))
    assert head["labels"] == ["funder_name", "award_ids"]
    named = [[(head["labels"][label], head["matches"][match]) for label, match, _ in head["facets"]][n] for n in (0, 1)]
    assert named == [("funder_name", "exact"), ("award_ids", "exact")]
    absent = [n for n, (_, match, _) in enumerate(head["facets"]) if head["matches"][match] == "absent"]
    assert [bool(set(absent) & set(row)) for row in head["rows"]] == [False, True, False, False]
    assert head["flags"] == [0, 4, 1, 0], "the second differs from its gold, the third has no record"
    assert head["form"] == {
        "text": "funding_statement", "gold": "funders", "by_label": False, "list": True, "schema": [], "kind": None
    }  # fmt: skip


def test_a_difference_from_gold_is_the_tasks_own(out: Path) -> None:
    _, rows = data(write_view(out))
    assert "gold" not in rows[0]
    assert ["funder", "Sample Trust", "Sample Trust", True, 0] in rows[1]["gold"]
    assert ["award_id", None, "ST-2", False, 1] in rows[1]["gold"]
    assert ["funder", "Example Fund", None, False, 0] in rows[1]["gold"]


def test_rows_without_labels_differ_from_nothing(tmp_path: Path) -> None:
    bare = [{key: row[key] for key in ("id", "funding_statement")} for row in ROWS]
    head, _ = data(write_view(extraction(tmp_path, bare, RECORDS)))
    assert not any(flag & 4 for flag in head["flags"])


def test_confidence_is_shown_and_filtered_by(out: Path) -> None:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    for line in lines:
        for span in line["spans"]:
            span["confidence"] = 0.4567
    write_jsonl(out, lines)
    head, rows = data(write_view(out))
    assert head["sure"] == "confidence"
    assert {sure for _, _, sure in head["facets"]} == {46}
    assert rows[0]["spans"][0][4] == 0.457


def test_entities_are_filtered_by_their_labels(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "Zeolite cracks oil", "schema": ["material"], "task": "NER", "gold": {"material": []}}]
    record = [{"label": "material", "text": "Zeolite", "head": None, "tail": None}]
    made = extraction(tmp_path, rows, [record], text="text", task={"use": "ie", "schema": ["material"]})
    head, [row] = data(write_view(made))
    assert head["labels"] == ["material"]
    assert head["form"]["by_label"]
    assert row["more"] == {"schema": ["material"], "task": "NER"}
    assert row["gold"] == [["material", None, "Zeolite", False, 0]]


def test_only_the_pages_own_script_may_run(out: Path) -> None:
    page = write_view(out)
    parsed = elements(page)
    scripts = [attributes for tag, attributes in parsed.seen if tag == "script"]
    assert sum("type" not in attributes for attributes in scripts) == 1
    assert {attributes["type"] for attributes in scripts if "type" in attributes} == {"application/json"}
    assert not {tag for tag, _ in parsed.seen} & {"link", "img", "iframe", "object", "embed", "base"}
    assert not [name for _, attributes in parsed.seen for name in attributes if name.startswith("on")]
    [policy] = [a["content"] for tag, a in parsed.seen if a.get("http-equiv") == "Content-Security-Policy"]
    own = re.findall(r"<script>(.*?)</script>", page.read_text(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()
    assert len(own) == 1
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "innerHTML" not in own[0]
    assert "alert(" not in page.read_text().replace("\\u003cscript>alert(1)", "").replace("onerror=alert(2)", "")


@pytest.mark.parametrize("kind", ["kept", "parquet", "moved", "csv"])
def test_texts_come_from_the_corpus_or_a_kept_column(tmp_path: Path, kind: str) -> None:
    given = {"kept": {"keep": ["funding_statement"]}, "parquet": {"out": "out.parquet"}}.get(kind, {})
    made, corpus = extraction(tmp_path, ROWS[:3], RECORDS[:3], **given), tmp_path / "corpus.jsonl"
    elsewhere = None
    if kind == "kept":
        corpus.unlink()
    elif kind == "moved":
        elsewhere = corpus.rename(tmp_path / "elsewhere.jsonl")
    elif kind == "csv":
        elsewhere = tmp_path / "corpus.csv"
        cells = [[row["id"], row["funding_statement"], json.dumps(row["funders"])] for row in ROWS[:3]]
        quoted = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in cells]
        elsewhere.write_text("\n".join(["id,funding_statement,funders", *quoted]) + "\n")
        value = read_json(manifest_path(made))
        value["settings"]["input"] = survey(elsewhere)[1]
        write_json(manifest_path(made), value)
    head, rows = data(write_view(made, corpus=elsewhere))
    assert [row["text"] for row in rows] == [row["funding_statement"] for row in ROWS[:3]]
    assert [row["record"] for row in rows] == RECORDS[:3]
    assert rows[0]["spans"][0][2:4] == [14, 26]
    assert head["flags"] == ([0, 0, 1] if kind == "kept" else [0, 4, 1])


def test_a_shard_shows_its_own_rows(out: Path) -> None:
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[1] + lines[3])
    _, rows = data(write_view(out))
    assert [row["text"] for row in rows] == [ROWS[1]["funding_statement"], ROWS[3]["funding_statement"]]


def test_an_output_without_offsets_is_shown_unmarked(out: Path) -> None:
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    write_jsonl(out, [{key: value for key, value in line.items() if key != "spans"} for line in lines])
    page = write_view(out)
    assert "Nothing is marked" in page.read_text()
    assert data(page)[1][0]["spans"] is None


def change_manifest(out: Path, **changes: Any) -> None:
    write_json(manifest_path(out), {**read_json(manifest_path(out)), **changes})


def unfinished(out: Path) -> None:
    change_manifest(out, complete=False)
    out.rename(journal_path(out))


def damaged_spans(out: Path) -> None:
    out.write_text(out.read_text().replace('"match": "exact"', '"match": "sort of"'))


def without_texts(out: Path) -> None:
    corpus = write_jsonl(out.with_name("corpus.jsonl"), [{"id": row["id"]} for row in ROWS])
    settings = read_json(manifest_path(out))["settings"]
    change_manifest(out, settings={**settings, "input": survey(corpus)[1]})


WRONG = {
    "is no output of adapters extract: there is no such file": lambda out: (out.unlink(), manifest_path(out).unlink()),
    "out.jsonl.manifest.json is missing or damaged": lambda out: manifest_path(out).write_text("{"),
    "adapters sample wrote it": lambda out: write_json(manifest_path(out), {"complete": True, "settings": {}}),
    "4 rows are done; the same `adapters extract` continues": unfinished,
    "is no longer at .*corpus.jsonl; name it with --corpus FILE": lambda out: out.with_name("corpus.jsonl").unlink(),
    "does not say where the corpus is": lambda out: change_manifest(out, paths=None),
    "was not made from .*corpus.jsonl as it is now": lambda out: write_jsonl(out.with_name("corpus.jsonl"), ROWS[:2]),
    "no row of .*corpus.jsonl has a text in the column 'funding_statement'": without_texts,
    "row 1: the column spans does not fit the record": damaged_spans,
    "is damaged: a row has no number": lambda out: out.write_text('{"id": "1"}\n'),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_cannot_be_shown_is_said_in_a_sentence(out: Path, sentence: str) -> None:
    WRONG[sentence](out)
    with pytest.raises(UserError, match=sentence) as caught:
        write_view(out)
    assert str(caught.value).count("\n") == 0
    assert not list(out.parent.glob("*.html"))
    assert not list(out.parent.glob(".out*"))


def test_an_output_that_another_process_writes_is_left_alone(out: Path) -> None:
    unfinished(out)
    with FileLock(f"{out}.lock"), pytest.raises(UserError, match="another process is writing it, and has done 4 rows"):
        write_view(out)
    assert journal_path(out).is_file()


def test_a_page_overwrites_nothing_that_it_is_made_of(out: Path, tmp_path: Path) -> None:
    for page in (out, tmp_path / "corpus.jsonl"):
        with pytest.raises(UserError, match="would overwrite"):
            write_view(out, page)
    with pytest.raises(UserError, match="cannot be written"):
        write_view(out, tmp_path / "nowhere" / "page.html")


def test_the_command(out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    done = CliRunner().invoke(main.app, ["view", str(out), "-o", str(tmp_path / "x.html"), "--open"])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "x.html")
    assert opened == [(tmp_path / "x.html").as_uri()]
    done = CliRunner().invoke(main.app, ["view", str(tmp_path)])
    assert done.exit_code == 2
    assert "is no output of adapters extract" in done.stderr
