"""The places of a record's strings in the text of its row."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_extract import TASK, echo_adapter, invoke, lines
from tiny import write_jsonl

from adapters.extraction import grounding
from adapters.rewards.records_schema import compiled
from adapters.tasks.ie_answers import RECORD

NSF, DFG = "National Science Foundation", "Deutsche Forschungsgemeinschaft"


def funder(name: str | None, *ids: str) -> dict:
    return {"funder_name": name, "awards": [{"funding_scheme": [], "award_ids": list(ids), "award_title": []}]}


def starts(record: object, text: str, schema: dict | None = None) -> list[int | None]:
    return [span["start"] for span in grounding.spans(record, schema or TASK.record_schema(), text)]


def test_every_string_in_the_order_of_the_record() -> None:
    text = f"We thank the {DFG} (1234) and the National\nScience Foundation (AB-1) for support."
    record = [funder(NSF, "AB-1", "XYZ 77"), funder(DFG, "1234")]
    found = grounding.spans(record, TASK.record_schema(), text)
    assert [span["path"] for span in found] == [
        "0.funder_name", "0.awards.0.award_ids.0", "0.awards.0.award_ids.1", "1.funder_name", "1.awards.0.award_ids.0"
    ]  # fmt: skip
    assert [span["match"] for span in found] == ["normalised", "exact", "absent", "exact", "exact"]
    assert [span["value"] for span in found] == [NSF, "AB-1", "XYZ 77", DFG, "1234"]
    assert text[found[0]["start"] : found[0]["end"]] == "National\nScience Foundation"
    assert found[2] == {
        "path": "0.awards.0.award_ids.1", "value": "XYZ 77", "start": None, "end": None, "match": "absent",
        "score": 0.0, "mentions": [],
    }  # fmt: skip


def test_of_repeated_mentions_the_one_nearest_to_the_rest_of_its_record() -> None:
    text = "A thanks NSF. B was paid by the DFG (grant 12). C thanks the NSF (grant 12)."
    record = [funder("NSF", "12"), funder("DFG", "12")]
    nsf, dfg = text.rfind("NSF"), text.find("DFG")
    assert starts(record, text) == [nsf, text.rfind("12"), dfg, text.find("12")]
    found = grounding.spans(record, TASK.record_schema(), text)
    assert found[0]["mentions"] == [[9, 12], [nsf, nsf + 3]], "all are told"
    assert starts([funder("NSF")], "NSF and NSF") == [0], "ties to the first"
    assert starts([funder("NSF", "1"), funder("NSF", "2")], "NSF (1) and NSF (2)") == [0, 5, 12, 17]
    assert starts([funder("NSF", "12", "12")], "12 men; NSF 12") == [8, 12, 12], "a repeated value is no neighbour"


def test_a_mention_inside_a_longer_string_is_the_last_choice() -> None:
    text = "the National Science Foundation of China (11), and the National Science Foundation (22)"
    record = [funder(NSF), funder("National Science Foundation of China", "11")]
    assert starts(record, text)[0] == text.rfind(NSF)
    items = [{"label": "org", "text": "University of Oslo"}, {"label": "place", "text": "Oslo"}]
    assert starts(items, "at the University of Oslo", RECORD) == [7, 21], "there is no other"


def test_labels_choices_and_dates_are_not_looked_for() -> None:
    items = [{"label": "used for", "text": None, "head": "zeolite", "tail": "cracking"}]
    found = grounding.spans(items, RECORD, "zeolite, for cracking")
    assert [span["path"] for span in found] == ["0.head", "0.tail"]
    day, text = {"type": "string", "format": "date"}, {"type": "string"}
    fields = {"shop": text, "day": day, "kind": {"enum": ["a", "b"]}, "note": {"anyOf": [text, {"type": "null"}]}}
    fields |= {"tags": {"type": "array", "items": text}, "summary": {**text, "x-grounded": False}}
    schema = compiled({"type": "object", "properties": fields}).schema(marked=True)
    record = {"shop": "A", "day": "2024-05-03", "kind": "b", "note": "x", "tags": ["y"], "summary": "all of it"}
    assert [span["path"] for span in grounding.spans(record, schema, "A 3 May")] == ["shop", "note", "tags.0"]
    loose = {"type": "object", "additionalProperties": {"type": "string", "x-grounded": False}}
    assert grounding.spans({"a": "b"}, loose, "b") == []
    assert [span["path"] for span in grounding.spans({"a": ["b", {"c": "d"}]}, {}, "b d")] == ["a.0", "a.1.c"]


@pytest.mark.slow
def test_many_mentions_of_many_values_take_no_time() -> None:
    text = "x y z " * 20_000
    record = [funder("x", *["y", "z"] * 200)]
    assert len(grounding.spans(record, TASK.record_schema(), text)) == 401


# ---------------------------------------------------------------------------------------------------- adapters extract


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    rows = [
        {"id": "a", "funding_statement": "Paid by the NSF (12).", "funders": [funder("NSF", "12")]},
        {"id": "b", "funding_statement": "Paid by the NSF (13).", "funders": [funder("NSF", "13"), funder("Nobody")]},
        {"id": "c", "funding_statement": "No money.", "funders": []},
    ]
    write_jsonl(tmp_path / "in.jsonl", [*rows, {"id": "d", "funding_statement": " "}])
    return echo_adapter(tmp_path / "adapter", rows)


def extracted(tmp_path: Path, adapter: Path, *options: str, out: str = "out.jsonl") -> tuple[list[dict], str]:
    code, said = invoke(adapter, tmp_path / "in.jsonl", "-o", tmp_path / out, *options)
    assert code == 0, said
    return pq.read_table(tmp_path / out).to_pylist() if out.endswith("parquet") else lines(tmp_path / out), said


@pytest.mark.parametrize("out", ["out.jsonl", "out.parquet"])
def test_spans_are_a_column(tmp_path: Path, adapter: Path, out: str) -> None:
    rows, said = extracted(tmp_path, adapter, out=out)
    assert [row["spans"] and [span["match"] for span in row["spans"]] for row in rows] == [
        ["exact", "exact"], ["exact", "exact", "absent"], [], None
    ]  # fmt: skip
    assert rows[0]["spans"][1] == {
        "path": "0.awards.0.award_ids.0", "value": "12", "start": 17, "end": 19, "match": "exact", "score": 1.0,
        "mentions": [[17, 19]],
    }  # fmt: skip
    assert rows[1]["record"] == [funder("NSF", "13"), funder("Nobody")]
    assert rows[3]["error"].startswith("no text")
    assert "strings in the text: 4 exact, 1 absent" in said
    assert json.loads((tmp_path / f"{out}.manifest.json").read_text())["counts"]["matches"] == {"exact": 4, "absent": 1}


def test_strict_refuses_a_record_that_says_more_than_the_text(tmp_path: Path, adapter: Path) -> None:
    rows, said = extracted(tmp_path, adapter, "--grounded", "strict")
    assert [row["error"] and row["error"].partition(":")[0] for row in rows] == [None, "not grounded", None, "no text"]
    assert rows[1]["error"] == "not grounded: 1.funder_name: 'Nobody' is not in the text"
    assert rows[1]["record"] is None
    assert json.loads(rows[1]["completion"])[1]["funder_name"] == "Nobody"
    assert "1 not grounded" in said


def test_off_looks_for_nothing(tmp_path: Path, adapter: Path) -> None:
    rows, said = extracted(tmp_path, adapter, "--grounded", "off")
    assert all("spans" not in row for row in rows)
    assert "strings in the text" not in said
    code, said = invoke(adapter, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert code == 2
    assert 'grounded was "off", is "flag"' in " ".join(said.split())


def test_shards_keep_spans(tmp_path: Path, adapter: Path) -> None:
    from adapters.extraction.merge_shards import merge

    whole, _ = extracted(tmp_path, adapter)
    parts = [tmp_path / f"{n}.parquet" for n in (1, 2)]
    for n, part in enumerate(parts, 1):
        extracted(tmp_path, adapter, "--shard", f"{n}/2", out=part.name)
    counts = merge(parts, tmp_path / "merged.jsonl")
    assert counts["matches"] == {"exact": 4, "absent": 1}
    assert lines(tmp_path / "merged.jsonl") == whole


def test_a_row_whose_task_needs_no_text_has_no_offsets() -> None:
    assert grounding.ungrounded(None) == "not grounded: the row has no text to look in"
