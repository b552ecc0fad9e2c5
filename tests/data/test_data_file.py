"""What a data file is: found from its content where its name does not say it, or refused in one sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.data import csv_text, json_text
from adapters.data.json_text import Exponential, from_text, label_text
from adapters.data.rows import BAD_ROW, column_names, place, read_file, read_records, survey
from adapters.errors import UserError

ROWS = [{"id": f"d{n}", "text": f"Zürich, “paid”; by | the\ttrust {n}"} for n in range(4)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def table(separator: str) -> str:
    return "".join(f'{a}{separator}"{b}"\n' for a, b in [("id", "text"), *((r["id"], r["text"]) for r in ROWS)])


def rows(path: Path) -> list[dict]:
    return [dict(row) for _, row in read_file(path)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", LINES.encode()),
        ("lines.ndjson", LINES.encode()),
        ("lines.csv", LINES.encode()),
        ("array.jsonl", json.dumps(ROWS).encode()),
        ("pretty.jsonl", json.dumps(ROWS, indent=2).encode()),
        ("pretty.json", json.dumps(ROWS, indent=2).encode("utf-8-sig")),
        ("one-after-another.jsonl", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()),
        ("one-after-another.json", "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()),
        ("a.jsonl", LINES.encode("utf-16")),
        ("be.jsonl", b"\xfe\xff" + LINES.encode("utf-16-be")),
        ("wide.jsonl", LINES.encode("utf-32")),
        ("array.json", json.dumps(ROWS).encode("utf-16")),
        ("excel.csv", table("\t").encode("utf-16")),
        ("a.csv", table(",").encode("utf-8-sig")),
        ("semicolon.csv", table(";").encode()),
        ("tab.csv", table("\t").encode()),
        ("bar.csv", table("|").encode()),
        ("a.tsv", table("\t").encode()),
        ("comma.tsv", table(",").encode()),
        ("named.csv", ("sep=;\r\n" + table(";")).encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("A.JSONL.GZ", gzip.compress(LINES.encode(), mtime=0)),
        ("a.csv.gz", gzip.compress(table(";").encode(), mtime=0)),
        ("a.tsv.bz2", bz2.compress(table("\t").encode())),
        ("a.json.xz", lzma.compress(json.dumps(ROWS).encode())),
        ("unnamed.jsonl", gzip.compress(LINES.encode(), mtime=0)),
        ("not-packed.jsonl.gz", LINES.encode()),
    ],
)
def test_what_is_certain_is_read_whatever_the_name(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert rows(path) == ROWS
    assert column_names(path) == ["id", "text"]
    assert survey(path)[0] == 4
    assert [n for n, _ in read_records(path, lambda n: n % 2 == 0)] == [2, 4]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", LINES.replace("“", "").replace("”", "").encode("cp1252"), ["cp1252", "iconv -f CP1252 -t UTF-8"]),
        ("one.csv", "id,text\n1,Université\n".encode("cp1252"), ["not UTF-8", "cp1252"]),
        ("gbk.csv", "id,text\n1,国家自然科学基金资助\n2,资助项目\n".encode("gbk"), ["in another encoding"]),
        ("koi8.csv", "id,text\n1,Фонд наук\n2,при поддержке\n".encode("koi8-r"), ["in another encoding"]),
        ("a.csv", b"id:text\n1:Paid by A, B\n", ["header 'id:text' is separated by ':'; save it with a comma"]),
        ("a.tsv", b'"id"^"text"\n1^a\n', ["is separated by '^'; save it with a tab between the cells"]),
        ("a.csv", table(";").encode("utf-16")[2:], ["UTF-16 without a byte-order mark", "iconv -f UTF-16LE"]),
        ("a.jsonl", b"id,text\n1,We thank A.\n", ["not JSON", "'id,text'", "named .csv or .tsv"]),
        ("a.csv", b"id;text\n1;a\n2;b;c\n", ["not separated by a comma", "a semicolon", "not all rows agree"]),
        ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode(), ["one object", "under 'data'"]),
        ("a.json", json.dumps(ROWS, indent=1)[:-9].encode(), ["line 14: not valid JSON"]),
        (
            "a.json",
            b'[\n{"id": 1},\n{"id": 2, "id": 3}]',
            ["line 3: the key 'id' stands in one object"],
        ),
        ("a.json", b"[\n" + b"[" * 100_000, ["line 2: not valid JSON: maximum recursion depth"]),
        ("a.json", b'[{"id": 1}\n{"id": 2}]', ["line 2", "not followed by"]),
        ("a.json", b'[{"id": 1}]\n[{"id": 2}]', ["line 2", "more text after the end"]),
        ("a.csv", b"PK\x03\x04....", ["Excel workbook", "CSV UTF-8"]),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
        ("a.parquet", b"<!DOCTYPE html><html>", ["a web page"]),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-20], ["cannot be read"]),
        ("a.xlsx", b"PK\x03\x04", ["a data file ends in .jsonl, .json, .csv, .tsv, .parquet"]),
    ],
)
def test_what_is_not_certain_is_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, said: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        rows(path)
    assert len(str(caught.value).splitlines()) == 1
    for part in (name, *said):
        assert part in str(caught.value)


def test_one_broken_row_among_many_is_not_an_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + b"1,plain\n" * 20 + "2,Universit\u00e9\n".encode("cp1252") + "3,Zürich\n".encode())
    found = rows(path)
    assert [n for n, row in enumerate(found, 1) if BAD_ROW in row] == [21]
    assert found[20] == {BAD_ROW: "line 22: not valid UTF-8"}
    assert found[21] == {"id": "3", "text": "Zürich"}


def test_numbers_in_messages_are_lines_only_where_rows_are_lines(tmp_path: Path) -> None:
    for name, content, said in (("a.jsonl", LINES, "line 2"), ("b.jsonl", json.dumps(ROWS), "row 2")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert place(tmp_path / name, 2).endswith(said)


@pytest.mark.parametrize(
    ("text", "good", "reasons"),
    [
        # a quote that is not closed, and one that is not opened
        ('id,text\nd1,"Paid by A.\nd2,Paid by B.\nd3,"Paid by C."\n', ["d2", "d3"], ["line 2"]),
        ('id,text\nd1,Paid by A."\nd2,Paid by B.\n', ["d2"], ["line 2: a quote stands alone"]),
        # both, so that the table is one again: the rows between are not part of a text
        ('id,text\nd1,"Paid by A.\nd2,Paid by B.\nd3,Paid by C."\nd4,x\n', ["d2", "d4"], ["line 2", "line 4"]),
        ('id,text\nd1,"Paid by A.\nd2,Paid by B."\nd3,x\n', ["d3"], ["line 2", "line 3"]),
        ('id,text,n\nd1,"Paid by A.,1\nd2,x,2\nd3,"y",3\n', ["d2", "d3"], ["line 2"]),
        # a stray quote further on closes the cell, and the record does not fit
        ('id,text\nd1,"Paid by A.\nd2,x\nd3,5", long\nd4,y\n', ["d2", "d4"], ["line 2", "line 4"]),
        ("id,text\nd1,Paid by A, B.\nd2,x\nd3\n", ["d2"], ["line 2: 3 cells", "line 4: 1 cell"]),
        # lines inside a cell are text, even if they have commas
        ('id,text\nd1,"We thank A, B.\nFunded by C, D.\nand E, F"\nd2,x\n', ["d1", "d2"], []),
        ('id,text\nd1,"10 A, B\n20 C, D"\nd2,x\n', ["d1", "d2"], []),
        ('id,text\nd1,"He said ""x"", then left"\nd2,"5"" pipe"\n', ["d1", "d2"], []),
        ('id,text\r\nd1,"a\r\nb"\r\nd2,x\r\n', ["d1", "d2"], []),
        ("id,text\rd1,a\rd2,x\r", ["d1", "d2"], []),
    ],
)
def test_a_quoting_fault_costs_its_own_row(tmp_path: Path, text: str, good: list[str], reasons: list[str]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8", newline="")
    found = rows(path)
    assert [row["id"] for row in found if BAD_ROW not in row] == good
    told = [row[BAD_ROW] for row in found if BAD_ROW in row]
    assert len(told) == len(reasons)
    for reason, part in zip(told, reasons, strict=True):
        assert reason.startswith(part)


def test_a_faulty_row_does_not_hide_the_separator() -> None:
    text = 'id;text\n1;"open\n' + "2;b\n" * 30
    assert csv_text.separator(text, ",") == ";"
    assert csv_text.separator("text\nWe thank A, B.\n", ",") == ","
    assert csv_text.separator("id,text\n1,a;b\n2,c;d\n", ",") == ","
    assert csv_text.separator('id;name, first;text\n1;a;b\n2;c;"d;e"\n', ",") == ";"
    long = "id;text\n" + '1;"two\nlines; of, text"\n' * 10_000
    assert csv_text.separator(long[:65_536], ",", cut=True) == ";"


@pytest.mark.slow
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_read_in_memory_that_does_not_grow(tmp_path: Path, indent: int | None) -> None:
    peaks = []
    for n in (20_000, 60_000):
        path = tmp_path / f"{n}.json"
        path.write_text(json.dumps([{"id": i, "text": "x" * 80} for i in range(n)], indent=indent))
        tracemalloc.start()
        assert sum(1 for _ in read_records(path)) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 100_000, peaks


@pytest.mark.parametrize("split", [False, True])
def test_a_folder_of_save_to_disk(tmp_path: Path, split: bool) -> None:
    made = datasets.Dataset.from_list([{"id": f"d{n}", "n": n, "gold": ["a"]} for n in range(5)])
    (datasets.DatasetDict({"train": made, "test": made.select([3, 1])}) if split else made).save_to_disk(tmp_path / "s")
    path = tmp_path / "s"
    if split:
        with pytest.raises(UserError, match="holds the splits test, train; give one of them"):
            rows(path)
        assert [row["id"] for row in rows(path / "test")] == ["d3", "d1"]
        path /= "train"
    assert rows(path) == [{"id": f"d{n}", "n": n, "gold": ["a"]} for n in range(5)]
    assert column_names(path) == ["id", "n", "gold"]
    assert survey(path)[0] == 5
    assert list(read_records(path, lambda n: n == 4, ["n"])) == [(4, {"n": 3})]
    assert rows(next(path.glob("*.arrow"))) == rows(path)
    with pytest.raises(UserError, match="is a folder that save_to_disk"):
        rows(tmp_path)


def test_a_parquet_file_under_another_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.jsonl")
    assert rows(tmp_path / "a.jsonl") == ROWS


@pytest.mark.parametrize("value", [True, float("inf"), 1.5, 1e16, Exponential("1e3"), ["a"], {"a": 1}, b"a", object()])
def test_a_label_that_was_no_text_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="not text"):
        label_text(value)


def test_a_label_is_the_text_that_it_was() -> None:
    import datetime
    from decimal import Decimal

    import numpy as np

    known = {
        "007": "007", 7: "7", 1613002.0: "1613002", 10**30: "1" + "0" * 30, Decimal("1.10"): "1.10",
        datetime.date(2020, 1, 2): "2020-01-02", np.int64(5): "5", np.float64(5): "5", np.str_("x"): "x", "": "",
    }  # fmt: skip
    assert [label_text(value) for value in known] == list(known.values())
    assert [label_text(v) for v in (None, float("nan"), np.float32("nan"))] == [None] * 3
    with pytest.raises(ValueError, match="datetime, not text"):
        label_text(datetime.datetime(2020, 1, 2))


@pytest.mark.parametrize("text", ["[{'a': None}]", "{'a': 1}", "[{'a': array([1], dtype=object)}]", "[None, True]"])
def test_pythons_repr_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"funders is Python's repr .* write the column with json\.dumps"):
        from_text("funders", text)
    with pytest.raises(ValueError, match="funders is text, but not JSON"):
        from_text("funders", "[1, 2")


CELL = st.text(st.sampled_from('ab"\n,;\t| é“\u2028\u0085\U0001f600'), max_size=8)


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=6), st.sampled_from(",;\t|"), st.sampled_from(["\n", "\r\n"]))
def test_what_a_writer_of_tables_writes_is_read_back(cells: list[tuple], separator: str, end: str) -> None:
    import csv
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter=separator, lineterminator=end).writerows([("x", "y", "z"), *cells])
        assert [tuple(row.values()) for _, row in read_records(path)] == cells


@given(
    st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers() | st.lists(st.booleans()))),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.integers(1, 40),
)
def test_json_of_any_layout_is_read_in_any_pieces(
    values: list[dict], indent: int | None, array: bool, size: int
) -> None:
    parts = [json.dumps(value, indent=indent) for value in values]
    text = json.dumps(values, indent=indent) if array else "\n".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "CHUNK", size)
        assert list(json_text.Values(io.StringIO(text))) == values
