"""Sources, selections and the splits that keep variants of a statement on one side."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from conftest import funding_rows, ie_rows, write_jsonl
from hypothesis import given
from hypothesis import strategies as st

from adapters.data.load import _example, load_examples, split_keys, text_key
from adapters.data_aug import receipts
from adapters.data_aug.agent import synthesize
from adapters.errors import UserError
from adapters.recipe.fields import HubSource, PathSource, Split, SynthesizedSource
from adapters.tasks.agent import AgentTask
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask

TASK = FundingTask()


def load(*sources, root: Path, **options):  # type: ignore[no-untyped-def]
    return load_examples(sources, TASK, root=root, seed=1, **options)


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    rows = funding_rows(12)
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "funders": json.dumps(row["funders"])} for row in rows)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_pylist([{**row, "funders": json.dumps(row["funders"])} for row in rows]), tmp_path / "a.parquet"
    )
    loaded = [load(PathSource(path=f"a.{end}"), root=tmp_path).examples for end in ("jsonl", "json", "csv", "parquet")]
    assert all(examples == loaded[0] for examples in loaded)
    assert len(loaded[0]) == 12


def test_hub_dataset_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", funding_rows(5))
    write_jsonl(tmp_path / "set" / "test.jsonl", funding_rows(3, "t"))
    loaded = load(HubSource(hub="set", hub_split="test"), root=tmp_path)
    assert [e.id for e in loaded.examples] == ["t0", "t1", "t2"]
    assert loaded.ledger[0]["source"] == "set:test"
    assert loaded.examples[0].gold == load(PathSource(path="set/test.jsonl"), root=tmp_path).examples[0].gold
    with pytest.raises(UserError, match="split 'nope'"):
        load(HubSource(hub="set", hub_split="nope"), root=tmp_path)


def test_selection_in_the_documented_order(tmp_path: Path) -> None:
    rows = [
        {**row, "lang": "en" if n % 2 else "de", "text": row["funding_statement"]}
        for n, row in enumerate(funding_rows(20))
    ]
    write_jsonl(tmp_path / "a.jsonl", [{k: v for k, v in row.items() if k != "funding_statement"} for row in rows])
    source = PathSource(
        path="a.jsonl",
        name="mine",
        columns={"funding_statement": "text"},
        where={"lang": ("en", "fr")},
        max_rows=4,
        repeat=3,
    )
    loaded = load(source, root=tmp_path)
    assert len(loaded.examples) == 12
    assert len({e.id for e in loaded.examples}) == 4
    assert {e.source for e in loaded.examples} == {"mine"}
    assert loaded.ledger[0] | {"rows": 4, "repeat": 3, "used": 12} == loaded.ledger[0]
    assert load(source, root=tmp_path).fingerprint == loaded.fingerprint


def test_published_split_by_id() -> None:
    ids = [f"s{i}" for i in range(3847)]
    parts = {"sft": 0.7, "rl": 0.2, "eval": 0.1}
    found = {take: split_keys(ids, Split(name=take, fractions=parts)) for take in parts}
    assert {k: len(v) for k, v in found.items()} == {"sft": 2692, "rl": 769, "eval": 386}
    ordered = sorted(ids)
    random.Random(42).shuffle(ordered)
    assert found["sft"] == set(ordered[:2692])
    assert set.union(*found.values()) == set(ids)


def test_variants_stay_on_one_side(tmp_path: Path) -> None:
    rows = [
        {**row, "funding_statement": row["funding_statement"] + "!" * v} for row in funding_rows(30) for v in range(4)
    ]
    write_jsonl(tmp_path / "a.jsonl", rows)
    of = {"train": 0.8, "test": 0.2}
    sides = [load(PathSource(path="a.jsonl", split=Split(name=t, fractions=of)), root=tmp_path).examples for t in of]
    assert [len(s) for s in sides] == [96, 24]
    assert not {e.id for e in sides[0]} & {e.id for e in sides[1]}


def test_splits_of_one_file_agree_whatever_the_filter(tmp_path: Path) -> None:
    rows = [{**row, "origin": "real" if n % 3 else "made"} for n, row in enumerate(funding_rows(50))]
    write_jsonl(tmp_path / "a.jsonl", rows)
    of = {"train": 0.6, "test": 0.4}
    ids = {
        (origin, take): {
            e.id
            for e in load(
                PathSource(
                    path="a.jsonl", where={"origin": origin} if origin else {}, split=Split(name=take, fractions=of)
                ),
                root=tmp_path,
            ).examples
        }
        for origin in ("real", "made", None)
        for take in of
    }
    for take in of:
        assert ids["real", take] | ids["made", take] == ids[None, take]


def test_a_mapped_column_wins_over_its_namesake(tmp_path: Path) -> None:
    row = funding_rows(1)[0]
    for order in (["text", "funding_statement"], ["funding_statement", "text"]):
        both = {"funding_statement": "wrong", "text": row["funding_statement"]}
        write_jsonl(tmp_path / "a.jsonl", [{**{k: both[k] for k in order}, "funders": row["funders"]}])
        source = PathSource(path="a.jsonl", columns={"funding_statement": "text"})
        assert load(source, root=tmp_path).examples[0].meta["text"] == row["funding_statement"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.json"):
        (tmp_path / name).write_bytes(b"PAR1 nothing \xff")
        with pytest.raises(UserError, match="cannot be read"):
            load(PathSource(path=name), root=tmp_path)


def test_bad_rows_are_counted_and_bounded(tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in funding_rows(8)]
    lines += ["{broken", "[1]", json.dumps({"id": "x", "funding_statement": "", "funders": []})]
    lines += [
        json.dumps({"id": "y", "funding_statement": "text"}),
        "",
        json.dumps({"id": "z", "funding_statement": "t", "funders": ["a"]}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"5 of 13 rows cannot be used.*\n  row 9: not valid JSON"):
        load(PathSource(path="a.jsonl"), root=tmp_path)
    loaded = load(PathSource(path="a.jsonl"), root=tmp_path, max_bad_rows=0.5)
    assert len(loaded.examples) == 8
    assert [r.row for r in loaded.rejected] == [9, 10, 11, 12, 14]


@pytest.mark.parametrize(
    "selection", [{"where": {"lang": "en"}}, {"split": Split(name="train", fractions={"train": 0.5, "test": 0.5})}]
)
def test_a_selection_hides_no_unreadable_row(tmp_path: Path, selection: dict) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl", [{**row, "lang": "de" if n % 2 else "en"} for n, row in enumerate(funding_rows(8))]
    )
    with path.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError, match=r"1 of 5 rows cannot be used.*\n  row 9: not valid JSON"):
        load(PathSource(path="a.jsonl", **selection), root=tmp_path)
    loaded = load(PathSource(path="a.jsonl", **selection), root=tmp_path, max_bad_rows=0.5)
    assert [bad.row for bad in loaded.rejected] == [9]
    assert len(loaded.examples) == 4


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (PathSource(path="b.jsonl"), "no file .*Known: a.jsonl"),
        (PathSource(path="a.txt"), "ends in .jsonl"),
        (PathSource(path="a.jsonl", columns={"funding_statement": "statement"}), "no row has the column 'statement'"),
        (PathSource(path="a.jsonl", where={"langauge": "en"}), "no row has the column 'langauge'"),
        (PathSource(path="a.jsonl", where={"id": "nobody"}), "no row is left"),
        (
            PathSource(path="a.jsonl", split=Split(name="a", fractions={"a": 1.0}, key="doi")),
            "no row has the column 'doi'",
        ),
        (SynthesizedSource(synthesize="fundign", n=1), "Did you mean funding"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, source, text: str) -> None:  # type: ignore[no-untyped-def]
    write_jsonl(tmp_path / "a.jsonl", funding_rows(4))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=text):
        load(source, root=tmp_path)


def test_synthesized_source() -> None:
    loaded = load(SynthesizedSource(synthesize="funding", n=5, seed=3), root=Path())
    assert len(loaded.examples) == 5
    assert loaded.ledger[0]["source"] == "synthetic-funding"


def test_texts_are_the_same_up_to_case_and_spacing(tmp_path: Path) -> None:
    rows = funding_rows(6)
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(
        tmp_path / "b.jsonl",
        [{**rows[0], "id": "other", "funding_statement": rows[0]["funding_statement"].upper() + "  "}],
    )
    train, test = (load(PathSource(path=f"{n}.jsonl"), root=tmp_path) for n in "ab")
    assert test.by_source == {"b": [text_key(train.examples[0])]}
    assert test.texts < train.texts


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "x", "funding_statement": "cut', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("7", "a record is an object, not int"),
        ('{"id": "x", "funding_statement": "a", "funders": [], "id": "y"}', "the key 'id' stands in one object twice"),
        ('{"id": "x", "funding_statement": "a", "funders": [{"b": 1, "b": 2}]}', "the key 'b' stands in one object"),
        ('{"id": "x", "funding_statement": "a", "funders": [' + "9" * 5000 + "]}", "not valid JSON"),
        ('{"id": true, "funding_statement": "a", "funders": []}', "id must be text or a whole number, not bool"),
        ('{"id": "x", "funding_statement": "a", "funders": "' + "[" * 2000 + '"}', "funders is text, but not JSON"),
        ('{"id": "x", "funding_statement": "a", "funders": [{"funder_name": "\\udc00"}]}', "lone surrogate"),
        ('{"id": "x\\ud800", "funding_statement": "We thank A.", "funders": []}', "lone surrogate"),
        ('{"id": "x", "prompt": "a", "chosen": "b", "rejected": "c", "gold": ' + "[" * 500 + "]" * 500 + "}", "deeply"),
        ('{"id": "x", "funding_statement": "", "funders": []}', "funding_statement is missing or empty"),
        ('{"id": "x", "funding_statement": 5, "funders": []}', "funding_statement is missing or empty"),
        ('{"id": ["x"], "funding_statement": "We thank A.", "funders": []}', "id must be text"),
        ('{"id": "x", "funding_statement": "a\\u0000b", "funders": []}', "holds NUL"),
        ('{"id": "x", "funding_statement": "a\\ud800b", "funders": []}', "lone surrogate"),
        ('{"id": "x", "funding_statement": "' + "long " * 200_000 + '", "funders": []}', "1,000,000 characters"),
        (json.dumps(funding_rows(1)[0]), "the same as row 1"),
    ],
)
def test_every_bad_row_has_its_reason(tmp_path: Path, line: str, reason: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", funding_rows(20))
    with path.open("a") as file:
        file.write(line + "\n")
    loaded = load_examples([PathSource(path="rows.jsonl")], FundingTask(), root=tmp_path, seed=1, max_bad_rows=0.1)
    assert len(loaded.examples) == 20
    (bad,) = loaded.rejected
    assert (bad.source, bad.row) == ("rows", 21)
    assert reason in bad.reason
    with pytest.raises(UserError, match="1 of 21 rows cannot be used"):
        load_examples([PathSource(path="rows.jsonl")], FundingTask(), root=tmp_path, seed=1, max_bad_rows=0.01)


def test_bytes_that_are_no_text_cost_one_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", funding_rows(4))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b'{"id": "x", "funding_statement": "caf\xe9"}\n')
    loaded = load(PathSource(path="a.jsonl"), root=tmp_path, max_bad_rows=0.5)
    assert (len(loaded.examples), [r.reason for r in loaded.rejected]) == (4, ["not valid UTF-8"])


def test_tables_with_ambiguous_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    cell = '"[{""funder_name"": ""A"", ""funder_name"": ""B""}]"'
    path.write_text(f"id,funding_statement,funders\n1,We thank A.,{cell}\n2,We thank A.,[],more\n3,We thank A.,[]\n")
    loaded = load(PathSource(path="a.csv"), root=tmp_path, max_bad_rows=0.7)
    assert [(r.row, r.reason) for r in loaded.rejected] == [
        (1, "funders: the key 'funder_name' stands in one object twice"),
        (2, "line 3: 4 cells, but the header has 3"),
    ]
    path.write_text("id,funding_statement,funders,id\n1,We thank A.,[],2\n")
    with pytest.raises(UserError, match="two columns 'id'"):
        load(PathSource(path="a.csv"), root=tmp_path)
    (tmp_path / "a.json").write_text('[{"id": 1, "id": 2}]')
    with pytest.raises(UserError, match="cannot be read: the key 'id' stands in one object twice"):
        load(PathSource(path="a.json"), root=tmp_path)


TASKS = {"funding": FundingTask(), "ie": IeTask(), "agent": AgentTask(), "records": RecordsTask()}
GOOD = {
    "funding": funding_rows(1)[0],
    "ie": ie_rows(1)[0],
    "agent": next(iter(synthesize(1, 0))),
    "records": next(receipts.synthesize(1, 0)),
}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(TASKS)), st.booleans(), st.data())
def test_a_row_of_any_shape_is_an_example_or_a_reason(task: str, pair: bool, draw: st.DataObject) -> None:
    row = {"meta": {}, **json.loads(json.dumps(GOOD[task]))}
    if pair:
        row |= {"chosen": "yes", "rejected": [{"role": "assistant", "content": "no"}]}
    where: list = [(row, key) for key in row]
    for node, key in where:
        inner = node[key]
        pairs = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else ()
        where += [(inner, k) for k, _ in pairs]
    for node, key in draw.draw(st.lists(st.sampled_from(where), min_size=1, max_size=3)):
        node[key] = draw.draw(JUNK)
    example, reason = _example(TASKS[task], row, "made", 1)
    assert (example is None) == bool(reason)
