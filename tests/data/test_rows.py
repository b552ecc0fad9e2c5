"""Data files of every format: the same rows, their numbers, and a reason for each row that cannot be read."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_jsonl

from adapters.data import csv_text
from adapters.data.rows import BAD_ROW, column_names, read_file, read_records, survey
from adapters.errors import UserError
from adapters.files import sha256

UNCLOSED = """id,funding_statement
d0,"Paid by the Sample Trust, case 0."
d1,"Paid by the Sample Trust, case 1.
d2,Paid by the Sample Trust; case 2.
d3,"Paid by the Sample Trust, case 3."
d4,Paid by the Sample Trust; case 4.
"""


def write(path: Path, rows: list[dict]) -> Path:
    """Rows in the format that the file's name says."""
    if path.suffix == ".jsonl":
        return write_jsonl(path, rows)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return path


def read_text(path: Path, text: str) -> list[tuple[int, dict]]:
    path.write_text(text, encoding="utf-8", newline="")
    return [(n, dict(row)) for n, row in read_file(path)]


def bad(rows: list[tuple[int, dict]]) -> dict[int, str]:
    return {n: row[BAD_ROW] for n, row in rows if BAD_ROW in row}


@pytest.mark.parametrize("end", ["jsonl", "json", "csv", "parquet"])
def test_formats_agree_on_rows_numbers_columns_and_count(tmp_path: Path, end: str) -> None:
    rows = [{"id": f"d{n}", "text": f'a "quoted",\nzweizeiliger é {n}'} for n in range(5000)]
    path = write(tmp_path / f"a.{end}", rows)
    numbered = list(enumerate(rows, 1))
    assert list(read_file(path)) == numbered
    assert list(read_records(path)) == numbered
    assert column_names(path) == ["id", "text"]
    assert survey(path) == (5000, sha256(path))
    third = list(read_records(path, lambda n: n % 3 == 1, ["text"]))
    assert [(n, row["text"]) for n, row in third] == [(n, row["text"]) for n, row in numbered[::3]]
    if end == "parquet":
        assert list(third[0][1]) == ["text"], "no other column is read"


def test_blank_lines_count_as_lines_and_not_as_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\n\n \r\n{"id": "\xff"}\n\xef\xbb\xbf{"id": 3}')
    bad_row = {BAD_ROW: "not valid UTF-8"}
    assert list(read_file(path)) == [(1, {"id": 1}), (4, bad_row), (5, {"id": 3})]
    assert list(read_records(path)) == [(1, {"id": 1}), (2, bad_row), (3, {"id": 3})]
    assert survey(path)[0] == 3
    assert column_names(path) == ["id"]


def test_an_unclosed_quote_costs_its_own_row(tmp_path: Path) -> None:
    rows = read_text(tmp_path / "a.csv", UNCLOSED)
    assert bad(rows) == {2: "line 3: a quote is not closed, or stands undoubled inside a quoted cell"}
    assert [row["id"] for _, row in rows if BAD_ROW not in row] == ["d0", "d2", "d3", "d4"]
    without_quotes_after = UNCLOSED.replace('"Paid by the Sample Trust, case 3."', "Paid.")
    assert list(bad(read_text(tmp_path / "a.csv", without_quotes_after))) == [2]
    assert survey(tmp_path / "a.csv")[0] == 5


def test_a_quote_that_swallows_too_much_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "LONGEST_CELL", 50)
    rows = read_text(tmp_path / "a.csv", 'id,text\n1,"open\n' + "2,two\n" * 30 + '3,"closed"\n')
    assert list(bad(rows)) == [1]
    assert len(rows) == 32


def test_cells_that_do_not_fit_the_header_are_a_bad_row_with_its_line(tmp_path: Path) -> None:
    rows = read_text(tmp_path / "a.csv", 'id,text\n\n1,"two\nlines"\n2\n3,x,y\n4,\n')
    assert bad(rows) == {
        2: "line 5: 1 cell, but the header has 2",
        3: "line 6: 3 cells, but the header has 2",
    }
    assert rows[3] == (4, {"id": "4", "text": ""})


@pytest.mark.parametrize("text", ['"id,text\n1,a\n2,b\n', "id,text,id\n1,a,2\n"])
def test_a_header_that_cannot_be_read_refuses_the_file(tmp_path: Path, text: str) -> None:
    for use in (column_names, read_records, read_file):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(UserError, match=r"a\.csv: cannot be read: (line 1: a quote|it has two columns 'id')"):
            list(use(tmp_path / "a.csv"))


WORD = st.text(st.characters(exclude_characters='",\r\n', exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=6), st.data())
def test_a_lost_quote_damages_one_row_at_most(rows: list[tuple[str, str]], draw: st.DataObject) -> None:
    import tempfile

    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("a", "b"), *rows])
    content = text.getvalue()
    places = [n for n, c in enumerate(content) if c == '"' and n > content.index("\n")]
    lost = draw.draw(st.sampled_from(places))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_text(content[:lost] + content[lost + 1 :], encoding="utf-8", newline="")
        found = list(read_records(path))
    damaged = content[:lost].count("\n")
    assert [n for n, _ in found] == list(range(1, len(rows) + 1))
    for n, row in found:
        if n != damaged:
            assert tuple(row.values()) == rows[n - 1]


def test_json_cells_are_decoded_only_in_columns_that_hold_structures(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    head = "id,gold,note,text,completion,prompt\n"
    message = '[{""role"": ""user"", ""content"": ""x""}]'
    rows = read_text(path, f'{head}[1],"[""a""]",[1] We thank,[2],[3],"{message}"\n2,,[4],{{}},[],"{message}"\n')
    assert [row["gold"] for _, row in rows] == [["a"], ""]
    assert [row["note"] for _, row in rows] == ["[1] We thank", "[4]"], "one of the cells is text"
    assert [row["id"] for _, row in rows] == ["[1]", "2"]
    assert [(row["text"], row["completion"]) for _, row in rows] == [("[2]", "[3]"), ("{}", "[]")]
    assert [row["prompt"] for _, row in rows] == [[{"role": "user", "content": "x"}]] * 2
    assert [row["gold"] for _, row in read_records(path)] == ['["a"]', ""], "a corpus stays as it is"
    assert next(read_file(path, texts=["gold"]))[1]["gold"] == '["a"]'


@pytest.mark.parametrize("end", ["jsonl", "csv"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, end: str) -> None:
    peaks = []
    for n in (500, 10_000):
        path = write(tmp_path / f"{n}.{end}", [{"id": i, "text": "x" * 200} for i in range(n)])
        tracemalloc.start()
        assert sum(1 for _ in read_file(path)) == n
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0] + 20_000, peaks


def test_arrow_adds_no_arguments_to_the_calls_of_a_tool(tmp_path: Path) -> None:
    """Its objects of a column have the keys of all rows."""
    import datasets

    def turns(**arguments: object) -> list[dict]:
        call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
        return [{"role": "user", "content": "?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]

    made = [{"prompt": turns(q="x", deep={"a": 1})}, {"prompt": turns(year=1999, deep={"b": None})}]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "a.parquet")
    datasets.Dataset.from_list(made).save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "a.parquet", tmp_path / "saved"):
        calls = [row["prompt"][1]["tool_calls"][0]["function"]["arguments"] for _, row in read_file(path)]
        assert calls == [{"q": "x", "deep": {"a": 1}}, {"year": 1999, "deep": {}}]
    assert next(read_file(tmp_path / "a.parquet"))[1]["prompt"][0]["tool_calls"] is None


def test_a_system_text_that_is_json_stays_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('system,meta\n"{""json"": true}","{""a"": 1}"\n')
    assert [row for _, row in read_file(tmp_path / "a.csv")] == [{"system": '{"json": true}', "meta": {"a": 1}}]
