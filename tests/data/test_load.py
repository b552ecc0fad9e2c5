"""Sources, selections and the splits that keep variants of a statement on one side."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import funding_rows, ie_rows, write_jsonl

from adapters.data.examples import text_key
from adapters.data.load import load_examples
from adapters.data.row_to_example import example_of
from adapters.data.source_rows import split_keys
from adapters.data_aug import receipts
from adapters.data_aug.agent import synthesize
from adapters.errors import UserError
from adapters.recipe.fields import HubSource, PathSource, Split, SynthesizedSource
from adapters.tasks.agent import AgentTask
from adapters.tasks.chat import ChatTask
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
        (PathSource(path="a.jsonl", mend="funding_lniks"), "Did you mean funding_links"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, source, text: str) -> None:  # type: ignore[no-untyped-def]
    write_jsonl(tmp_path / "a.jsonl", funding_rows(4))
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=text):
        load(source, root=tmp_path)


def test_rows_are_mended_before_the_task_reads_them(tmp_path: Path) -> None:
    text = "By grant A-1 of the Elm Fund, the National Key Plan for Soils and, with others, B-1."
    funders = [
        {"funder_name": "Elm Fund", "awards": [{"award_ids": [], "funding_scheme": [], "award_title": []}]},
        {"funder_name": "National Key Plan for Soils",
         "awards": [{"award_ids": ["A-1", "B-1"], "funding_scheme": [], "award_title": []}]},
    ]  # fmt: skip
    write_jsonl(tmp_path / "a.jsonl", [{"id": "1", "funding_statement": text, "funders": funders}])
    [example] = load(PathSource(path="a.jsonl", mend="funding_links"), root=tmp_path).examples
    assert [funder["funder_name"] for funder in example.gold] == ["Elm Fund", None]
    assert [funder["awards"][0]["award_ids"] for funder in example.gold] == [["A-1"], ["B-1"]]
    assert example.gold[1]["uncertain"] == ["B-1"]
    assert [example.completion[a:b] for a, b in example.masked] != []


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
        ('{"id": "x", "funding_statement": 5, "funders": []}', "is a value of type int, not a text"),
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
    with pytest.raises(UserError, match="cannot be read: line 1: the key 'id' stands in one object twice"):
        load(PathSource(path="a.json"), root=tmp_path)


TASKS = {"funding": FundingTask(), "ie": IeTask(), "agent": AgentTask(), "records": RecordsTask(), "chat": ChatTask()}
GOOD = {
    "funding": funding_rows(1)[0],
    "ie": ie_rows(1)[0],
    "agent": next(iter(synthesize(1, 0))),
    "records": next(receipts.synthesize(1, 0)),
    "chat": ChatTask().example_row,
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
    example, reason = example_of(TASKS[task], row, "made", 1)
    assert (example is None) == bool(reason)


STATEMENT = "Paid by the Sample Trust."


def funder(name: object = "Sample Trust", **award: object) -> list[dict]:
    return [{"funder_name": name, "awards": [award]}]


@pytest.mark.parametrize(
    ("funders", "ids"),
    [
        (
            funder(float("nan"), award_ids=[1613002.0, 7000000000000000.0, float("nan"), None]),
            "1613002 7000000000000000",
        ),
        (funder(award_ids="007", funding_scheme=float("nan")), "007"),
        (funder(award_ids=12), "12"),
        ([{"funder_name": "A", "awards": [None], "award_ids": ["x"]}], "x"),
        ([{"funder_name": "A", "awards": float("nan"), "award_ids": [3.0]}], "3"),
    ],
)
def test_labels_are_the_texts_that_they_were(tmp_path: Path, funders: list, ids: str) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "n", "funding_statement": STATEMENT, "funders": funders}])
    (example,) = load(PathSource(path="a.jsonl"), root=tmp_path).examples
    assert "nan" not in (example.completion or "").lower()
    assert [i for award in example.gold[0]["awards"] for i in award["award_ids"]] == ids.split()


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ('{"funder_name": true}', "funder_name: 'True' is of type bool, not text"),
        ('{"funder_name": ["A"]}', "funder_name: .* is of type list"),
        ('{"funder_name": "A", "awards": [{"award_ids": [false]}]}', "award_ids: 'False' is of type bool"),
        ('{"funder_name": "A", "awards": [{"award_ids": [1e3]}]}', "award_ids: '1000.0' is of type float"),
        ('{"funder_name": "A", "awards": [{"award_ids": [1.5, Infinity]}]}', "award_ids: '1.5' is of type float"),
        ('{"funder_name": "A", "awards": [{"award_ids": [1e16]}]}', "award_ids: '1e.16' is of type float"),
        ('{"funder_name": "A", "awards": [{"award_ids": [{"n": 1}]}]}', "award_ids: .* is of type dict"),
        ('{"funder_name": "A", "awards": ["ST-1"]}', "awards must be a list of objects"),
        ('{"funder_name": "A", "awards": {"award_ids": "1"}, "award_ids": [[1]]}', "award_ids: .* is of type list"),
    ],
)
def test_labels_whose_text_is_lost_are_refused(tmp_path: Path, written: str, reason: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"id": 1, "funding_statement": "{STATEMENT}", "funders": [{written}]}}\n')
    with pytest.raises(UserError, match=reason):
        load(PathSource(path="a.jsonl"), root=tmp_path)


def test_arrow_types_in_labels(tmp_path: Path) -> None:
    import datetime
    from decimal import Decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    def ids(value: object) -> list[dict]:
        return [{"id": 1.0, "funding_statement": STATEMENT, "funders": funder(award_ids=[value])}]

    for value, text in (
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (Decimal("12"), "12"),
        (7.0, "7"),
        (2**62, str(2**62)),
    ):
        pq.write_table(pa.Table.from_pylist(ids(value)), tmp_path / "a.parquet")
        (example,) = load(PathSource(path="a.parquet"), root=tmp_path).examples
        assert example.gold[0]["awards"][0]["award_ids"] == [text]
        assert example.id == "1"
    for value in (datetime.datetime(2020, 1, 2), b"ab", True, datetime.time(3)):
        pq.write_table(pa.Table.from_pylist(ids(value)), tmp_path / "a.parquet")
        with pytest.raises(UserError, match=r"award_ids: .* not text"):
            load(PathSource(path="a.parquet"), root=tmp_path)


@pytest.mark.parametrize("names", [("2020-01-01", "2020-01-02"), ("2020-01-01", "007", "NA", "1e3", "True")])
@pytest.mark.parametrize("end", ["jsonl", "json", "csv"])
def test_texts_of_a_dataset_are_not_taken_for_dates_and_numbers(
    tmp_path: Path, end: str, names: tuple[str, ...]
) -> None:
    rows = [
        {"id": f"0{n}", "funding_statement": STATEMENT, "funders": funder("NA", award_ids=[t])}
        for n, t in enumerate(names)
    ]
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / f"train.{end}"
    if end == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "funders": json.dumps(row["funders"])} for row in rows)
    else:
        path.write_text(json.dumps(rows) if end == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    examples = load(HubSource(hub="set"), root=tmp_path).examples
    assert [e.gold[0]["awards"][0]["award_ids"] for e in examples] == [[name] for name in names]
    assert {e.gold[0]["funder_name"] for e in examples} == {"NA"}
    assert [e.id for e in examples] == [row["id"] for row in rows]


def test_a_dataset_with_options_of_its_own_is_left_to_the_library(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.json").write_text(json.dumps({"data": funding_rows(2)}))
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: train.json\n  field: data\n---\n"
    )
    assert [e.id for e in load(HubSource(hub="set"), root=tmp_path).examples] == ["r0", "r1"]


def test_a_saved_dataset_as_path_and_as_hub(tmp_path: Path) -> None:
    import datasets

    made = datasets.Dataset.from_list(funding_rows(5))
    datasets.DatasetDict({"train": made, "test": made.select([2])}).save_to_disk(tmp_path / "both")
    made.save_to_disk(tmp_path / "one")
    for source, ids in (
        (PathSource(path="one"), "r0 r1 r2 r3 r4"),
        (PathSource(path="both/test"), "r2"),
        (HubSource(hub="both", hub_split="test"), "r2"),
        (HubSource(hub="one"), "r0 r1 r2 r3 r4"),
    ):
        assert [e.id for e in load(source, root=tmp_path).examples] == ids.split()
    with pytest.raises(UserError, match="has no split 'dev', but test, train"):
        load(HubSource(hub="both", hub_split="dev"), root=tmp_path)
    with pytest.raises(UserError, match="a folder of data files is a source `hub: FOLDER`"):
        load(PathSource(path="."), root=tmp_path)


def test_columns_that_nothing_reads_are_counted(tmp_path: Path) -> None:
    rows = [{**row, "note": "x", "lang": "en", "part": n, "reasoning": None} for n, row in enumerate(funding_rows(4))]
    rows[0] |= {"tools": [], "note": None}
    write_jsonl(tmp_path / "a.jsonl", rows)
    split = Split(name="a", fractions={"a": 1.0}, key="part")
    source = PathSource(path="a.jsonl", where={"lang": "en"}, split=split)
    assert load(source, root=tmp_path).ledger[0]["unread"] == {"note": 3, "tools": 1}
    renamed = PathSource(path="a.jsonl", columns={"id": "note"}, max_rows=3)
    assert load(renamed, root=tmp_path, max_bad_rows=1).ledger[0]["unread"].keys() - {"tools"} == {"lang", "part"}


def test_a_task_that_copies_its_row_may_read_all_of_it(tmp_path: Path) -> None:
    class Copying(FundingTask):
        def example(self, row, **names):  # type: ignore[no-untyped-def]
            return super().example({**row, "copied": True}, **names)

    write_jsonl(tmp_path / "a.jsonl", [{**row, "note": "x"} for row in funding_rows(2)])
    loaded = load_examples([PathSource(path="a.jsonl")], Copying(), root=tmp_path, seed=1)
    assert loaded.ledger[0]["unread"] == {}


def test_rows_of_another_tool_are_told_apart_from_broken_ones(tmp_path: Path) -> None:
    for task, row, found in (
        (TASK, {"tokens": ["a"], "ner_tags": [0]}, "tokens and ner_tags"),
        (IeTask(), {"tokenized_text": ["a"], "ner": []}, "tokenized_text and ner"),
        (IeTask(), {"text": "a b", "label": [[0, 1, "x"]]}, "label"),
        (IeTask(), {"text": "a b", "spans": [{"start": 0}]}, "spans"),
    ):
        write_jsonl(tmp_path / "a.jsonl", [row])
        with pytest.raises(UserError, match=f"it has {found}: `adapters data convert` makes text and gold"):
            load_examples([PathSource(path="a.jsonl")], task, root=tmp_path, seed=1)


def test_labels_as_json_text_are_the_same_labels_for_noise(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from adapters.data.noise import make_row_noiser
    from adapters.recipe.fields import NoiseSpec

    rows = funding_rows(6)
    pq.write_table(
        pa.Table.from_pylist([{**r, "funders": json.dumps(r["funders"])} for r in rows]), tmp_path / "a.parquet"
    )
    write_jsonl(tmp_path / "a.jsonl", rows)
    noiser = make_row_noiser(NoiseSpec(use="document", level="medium"), seed=1, folder=tmp_path, at=())
    first, second = (
        load(PathSource(path=f"a.{end}"), root=tmp_path, noiser=noiser).examples for end in ("jsonl", "parquet")
    )
    assert first == second


@pytest.mark.parametrize(
    "content", ["[{'funder_name': 'A'}]", "[{'funder_name': 'A', 'awards': array([], dtype=object)}]"]
)
def test_pythons_repr_in_a_table_is_named(tmp_path: Path, content: str) -> None:
    rows = "".join(f'{n},{STATEMENT},"{content}"\n' for n in range(4))
    (tmp_path / "a.csv").write_text(f"id,funding_statement,funders\n{rows}")
    with pytest.raises(UserError, match=r"\n  row 1: .*Python's repr .* json\.dumps \(and 3 more rows\)$"):
        load(PathSource(path="a.csv"), root=tmp_path)


def test_sides_of_pairs_in_a_table_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'id,prompt,best,rejected\n1,Who paid?,"[{""funder_name"":""Sample Trust""}]","{""funder"":""Sample Trust""}"\n'
    )
    source = PathSource(path="a.csv", columns={"chosen": "best"})
    (example,) = load(source, root=tmp_path).examples
    assert (example.completion, example.rejected) == ('[{"funder_name":"Sample Trust"}]', '{"funder":"Sample Trust"}')


def test_a_dataset_that_was_downloaded_before_is_read_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    folder = tmp_path / "datasets--me--rows" / "snapshots" / commit
    folder.mkdir(parents=True)
    (tmp_path / "datasets--me--rows" / "refs").mkdir()
    (tmp_path / "datasets--me--rows" / "refs" / "main").write_text(commit)
    write_jsonl(folder / "train.jsonl", funding_rows(2))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert [e.id for e in load(HubSource(hub="me/rows"), root=tmp_path).examples] == ["r0", "r1"]
    with pytest.raises(UserError, match="Couldn't reach 'me/others'"):
        load(HubSource(hub="me/others"), root=tmp_path)


def test_rows_whose_samples_hardly_differ_may_be_left_out(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", funding_rows(4))
    first, second, third, unsampled = (e.id for e in load(PathSource(path=path.name), root=tmp_path).examples)
    earned = {first: (0.5, 0.54), second: (0.06, 0.01), third: (1.0, None)}  # .06 - .01 is a little less than .05
    lines = [{"id": id, "greedy": False, "reward": reward} for id, both in earned.items() for reward in both]
    write_jsonl(tmp_path / "samples.jsonl", [*lines, {"id": first, "greedy": True, "reward": 0.0}])
    source = PathSource(path=path.name, spread={"samples": "samples.jsonl"})
    loaded = load(source, root=tmp_path)
    assert [e.id for e in loaded.examples] == [second, unsampled]
    assert loaded.ledger[0]["left_out_flat"] == 2
    write_jsonl(path, funding_rows(1))
    with pytest.raises(UserError, match="no row is left: spread leaves out 1, whose samples hardly differ"):
        load(source, root=tmp_path)
    write_jsonl(tmp_path / "samples.jsonl", [{"id": "rows:1", "reward": reward} for reward in (0.5, 0.5)])
    with pytest.raises(UserError, match="none of these rows is among the samples: their ids are such as 'rows:1', and"):
        load(source, root=tmp_path)
    for name, fault in (("rows.jsonl", "holds no graded sample"), ("none.jsonl", "does not exist")):
        with pytest.raises(UserError, match=f"{name} {fault}"):
            load(PathSource(path=path.name, spread={"samples": name}), root=tmp_path)


def test_rows_with_nothing_to_find_may_be_left_out(tmp_path: Path) -> None:
    rows = [{"id": str(n), "funding_statement": f"We thank nobody {n}.", "funders": []} for n in range(200)]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, *funding_rows(9)])
    found = {e.id for e in load(PathSource(path=path.name), root=tmp_path).examples if e.gold}
    for share in (0.0, 0.1):
        loaded = load(PathSource(path=path.name, keep_empty=share), root=tmp_path)
        assert found <= {e.id for e in loaded.examples}
        kept = len(loaded.examples) - len(found)
        assert abs(kept - 200 * share) <= 12
        assert loaded.ledger[0]["left_out_empty"] + kept >= 200
    again = load(PathSource(path=path.name, keep_empty=0.1), root=tmp_path)
    assert [e.id for e in again.examples] == [e.id for e in loaded.examples]
    write_jsonl(path, rows)
    with pytest.raises(UserError, match="keep_empty leaves out every row"):
        load(PathSource(path=path.name, keep_empty=0), root=tmp_path)
