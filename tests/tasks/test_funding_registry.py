"""Names and ids made tidy, and funders found in a registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import funding_rows, write_jsonl
from test_extract import echo_adapter, invoke, lines

from adapters.errors import UserError
from adapters.tasks.funding_registry import FundingNormaliser, tidy_id, tidy_name

REGISTRY = [
    {"funder_id": "10/1", "name": "National Science Foundation", "aliases": ["NSF"]},
    {"funder_id": "10/2", "name": "Wellcome Trust", "aliases": ["The Wellcome Trust", "Wellcome"]},
    {"funder_id": "10/3", "name": "Department of Energy", "aliases": ["DOE"]},
    {"funder_id": "10/4", "name": "Directorate of Energy", "aliases": ["DOE"]},
    {"funder_id": "10/5", "name": "NSF", "aliases": []},
    {"funder_id": "10/6", "name": "Österreichische Akademie der Wissenschaften", "aliases": None},
    {"funder_id": "10/7", "name": "Institute One", "aliases": []},
    {"funder_id": "10/8", "name": "Institute One", "aliases": []},
]


@pytest.fixture
def normaliser(tmp_path: Path) -> FundingNormaliser:
    return FundingNormaliser(write_jsonl(tmp_path / "funders.jsonl", REGISTRY))


def record(name: str | None, *ids: str) -> list[dict]:
    return [{"funder_name": name, "awards": [{"funding_scheme": [], "award_ids": list(ids), "award_title": []}]}]


@pytest.mark.parametrize(
    ("name", "funder", "match", "score"),
    [
        ("National Science Foundation", "10/1", "name", 1.0),
        ("the NATIONAL  science foundation,", "10/1", "name", 1.0),
        ("Foundation, National Science", "10/1", "name", 1.0),
        ("Wellcome", "10/2", "alias", 1.0),
        ("National Sciense Foundation", "10/1", "fuzzy", 0.963),
        ("Osterreichische Akademie der Wissenschaften", "10/6", "name", 1.0),
        ("National Science Foundation (NSF)", "10/1", "name", 1.0),
        ("(NSF)", "10/5", "name", 1.0),
        ("NSF", "10/5", "name", 1.0),
        ("NSE", None, None, None),
        ("Completely Different Body", None, None, None),
        ("DOE", None, "ambiguous", 1.0),
        ("Institute One", None, "ambiguous", 1.0),
        (None, None, None, None),
        ("***", None, None, None),
    ],
)
def test_names_are_matched(
    normaliser: FundingNormaliser, name: str, funder: str | None, match: str | None, score: float | None
) -> None:
    [[found]] = normaliser([record(name)])
    assert (found["funder_id"], found["match"]) == (funder, match)
    assert found["score"] == (None if score is None else pytest.approx(score, abs=2e-3))
    assert found["candidates"] == {"DOE": ["10/3", "10/4"], "Institute One": ["10/7", "10/8"]}.get(name, [])


def test_blocks_and_memory_change_nothing(normaliser: FundingNormaliser, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.tasks import funding_registry

    names = [f"Nationol Science Foundotion {n % 3 or ''}" for n in range(30)] + ["Wellcome Trusd", "unknown body"]
    records = [record(name) for name in names]
    whole = normaliser(records)
    monkeypatch.setattr(funding_registry, "_QUERIES", 1)
    monkeypatch.setattr(funding_registry, "_REMEMBERED", 0)
    fresh = FundingNormaliser(None)
    fresh.__dict__.update(normaliser.__dict__, _found={})
    assert [fresh([r])[0] for r in records] == whole
    assert fresh(records) == whole


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("Grant No. AB-12", "AB-12"),
        ("grant number: 12345", "12345"),
        ("No.123", "123"),
        ("#2019/1", "2019/1"),
        ("HR15- 166", "HR15-166"),
        ("EP/V 123 /1", "EP/V 123/1"),
        ("DMS‐1234567.", "DMS-1234567"),
        ("(R01 GM1)", "(R01 GM1)"),
        ("R01GM1)", "R01GM1"),
        ("NO123456", "NO123456"),
        ("Project Alpha", "Project Alpha"),
        ("ID 77", "77"),
        ("", ""),
    ],
)
def test_ids_are_made_tidy(raw: str, tidy: str) -> None:
    assert tidy_id(raw) == tidy
    assert tidy_id(tidy) == tidy


@pytest.mark.parametrize(
    ("raw", "tidy"),
    [
        ("The  Wellcome\nTrust,", "Wellcome Trust"),
        ("Research Foundation.", "Research Foundation"),
        ("Pfizer Inc.", "Pfizer Inc."),
        ("the U.S.", "U.S."),
        ("Fondation Léon", "Fondation Léon"),
        ("the", "the"),
    ],
)
def test_names_are_made_tidy(raw: str, tidy: str) -> None:
    assert tidy_name(raw) == tidy


def test_ids_that_differ_only_in_their_spelling_are_one(normaliser: FundingNormaliser) -> None:
    [[found]] = normaliser([record("X", "AB-1", "ab 1", "AB‑1", "AB-2")])
    assert found["awards"][0]["award_ids"] == ["AB-1", "AB-2"]


def test_extract_writes_them_beside_the_record(tmp_path: Path) -> None:
    rows = funding_rows(10)
    known = echo_adapter(tmp_path / "adapter", rows)
    registry = write_jsonl(tmp_path / "funders.jsonl", REGISTRY)
    corpus = write_jsonl(tmp_path / "in.jsonl", [*rows, {"id": "bad"}])
    for out in ("out.jsonl", "out.parquet"):
        assert invoke(known, corpus, "-o", tmp_path / out, "--normalize", "--registry", registry)[0] == 0
    found = lines(tmp_path / "out.jsonl")
    assert [f["funder_id"] for r in found[:2] for f in r["normalized"]] == ["10/1", "10/2"]
    assert found[0]["record"][0]["funder_name"] == "National Science Foundation", "the record stays as it was written"
    assert found[-1]["normalized"] is None
    import pyarrow.parquet as pq

    assert [r["normalized"] for r in pq.read_table(tmp_path / "out.parquet").to_pylist()] == [
        r["normalized"] for r in found
    ]
    assert invoke(known, corpus, "-o", tmp_path / "plain.jsonl", "--normalize")[0] == 0
    assert lines(tmp_path / "plain.jsonl")[0]["normalized"][0]["funder_id"] is None


@pytest.mark.parametrize("text", ["[1]", "{", json.dumps({"name": "x"})])
def test_a_bad_registry_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(UserError, match="every line is a JSON object with funder_id"):
        FundingNormaliser(tmp_path / "r.jsonl")
    with pytest.raises(UserError, match="No such file"):
        FundingNormaliser(tmp_path / "none.jsonl")
