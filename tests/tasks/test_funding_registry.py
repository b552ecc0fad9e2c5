"""Names and ids made tidy, and funders found in a registry."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_extract import echo_adapter, invoke, lines
from tiny import funding_rows, write_jsonl

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
        ("National Sci-\nence Foundation", "10/1", "name", 1.0),
        ("National Science Foundation of China", None, None, None),
        ("Department of the Energy", "10/3", "fuzzy", 0.909),
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


def test_a_long_word_in_common_makes_no_match(tmp_path: Path) -> None:
    names = ["Ohio University", "Nanjing Municipal Health Bureau"]
    rows = [{"funder_id": str(n), "name": name} for n, name in enumerate(names)]
    found = FundingNormaliser(write_jsonl(tmp_path / "funders.jsonl", rows))
    for other in ("Kochi University", "Tianjin Municipal Health Bureau"):
        assert found([record(other)])[0][0]["match"] is None
    assert found([record("Nanjing Municipal Helth Bureau")])[0][0]["funder_id"] == "1"


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


MINISTRIES = [
    {"funder_id": "1", "name": "Ministry of Samples", "aliases": ["MoS"], "country": "Spain"},
    {"funder_id": "2", "name": "Ministry of Samples", "aliases": [], "country": "CHN"},
    {"funder_id": "3", "name": "Ministry of Samples", "aliases": [], "country": "us"},
    {"funder_id": "4", "name": "National Sample Foundation", "aliases": ["NSAF"], "country": "US"},
    {"funder_id": "5", "name": "Sample Council Norway", "country": "NO"},
    {"funder_id": "6", "name": "University of Sampling, Georgia", "country": "US"},
    {"funder_id": "7", "name": "Placeless Fund"},
    {
        "funder_id": "8",
        "name": "Example Trust",
        "aliases": ["National Sample Foundation"],
        "country": "Republic of Korea",
    },
]


@pytest.mark.parametrize(
    ("name", "funder"),
    [
        ("Ministry of Samples", "ambiguous"),
        ("Ministry of Samples (Spain)", "1"),
        ("Ministry of Samples, China", "2"),
        ("Ministry of Samples, P.R. China.", "2"),
        ("Ministry of Samples, People's Republic of China", "2"),
        ("Ministry of Samples of China", None),
        ("Ministry of Samples - USA", "3"),
        ("Ministry of Samples, the United States of America", "3"),
        ("MINISTRY OF SAMPLES, U.S.", "3"),
        ("Ministry of Samples us", None),
        ("Ministry of Samples España", "1"),
        ("MoS (Spain)", "1"),
        ("MoS, China", None),
        ("Ministry of Samples (Italy)", None),
        ("Ministry of Sampels (Italy)", None),
        ("Ministry of Sampels (Spain)", "1"),
        ("Ministry of Samples, Italy", None),
        ("National Sample Foundation", "4"),
        ("National Sample Foundation, China", None),
        ("National Sample Foundation (China)", None),
        ("National Sample Foundation (NSAF), USA", "4"),
        ("National Sample Foundation, South Korea", "8"),
        ("Sample Council Norway", "5"),
        ("Sample Council (Norway)", "5"),
        ("University of Sampling, Georgia", "6"),
        ("Placeless Fund (Chile)", "7"),
        ("Placeless Fund, Chile", None),
    ],
)
def test_a_country_at_the_end_decides_between_equal_names(tmp_path: Path, name: str, funder: str | None) -> None:
    registry = FundingNormaliser(write_jsonl(tmp_path / "funders.jsonl", MINISTRIES))
    [[found]] = registry([record(name)])
    assert (found["funder_id"] or found["match"]) == funder
    assert found["match"] != "ambiguous" or found["candidates"] == ["1", "2", "3"]
    assert found["funder_name"] == tidy_name(name), "the name stays as the text has it"


def placed_ror(country: str) -> dict:
    names = [{"types": ["ror_display"], "value": "Sample Fund"}]
    return {"id": country, "names": names, "locations": [{"geonames_details": {"country_code": country}}]}


def placed_concept(country: str) -> str:
    label = "<prefLabel><Label><literalForm>Sample Fund</literalForm></Label></prefLabel>"
    address = f"<s:PostalAddress><s:addressCountry>{country}</s:addressCountry></s:PostalAddress>"
    return f"<Concept about='http://dx.doi.org/10/{country}'>{label}<s:address>{address}</s:address></Concept>"


def placed_answer(country: str) -> dict:
    return {"uri": f"https://doi.org/10/{country}", "name": "Sample Fund", "location": country}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ror.json", json.dumps([placed_ror("DE"), placed_ror("CN")])),
        ("api.json", json.dumps({"message": {"items": [placed_answer("Germany"), placed_answer("China")]}})),
        ("registry.rdf", f"<RDF xmlns:s='s'>{placed_concept('deu')}{placed_concept('chn')}</RDF>"),
    ],
)
def test_registries_say_countries_in_their_own_way(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = FundingNormaliser(tmp_path / name)([record("Sample Fund"), record("Sample Fund, China")])
    assert found[0][0]["match"] == "ambiguous"
    assert found[1][0]["funder_id"] == found[0][0]["candidates"][1]


def test_countries_by_every_name_and_code() -> None:
    from adapters.tasks import countries

    assert countries.code("Côte d'Ivoire") == countries.code("civ") == "CI"
    assert countries.code("Atlantis") is countries.code(None) is None
    rows = countries._rows()
    assert len(rows) == 249
    for letters, _, *names in rows:
        for name in names:
            found = countries.ending(f"Fund of Samples, {name}")
            assert found is not None, name
            assert (found.name, found.country) == ("Fund of Samples", letters), name


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


ROR = {
    "id": "https://ror.org/021nxhr62",
    "status": "active",
    "types": ["funder", "government"],
    "names": [
        {"lang": None, "types": ["acronym"], "value": "NSF"},
        {"lang": "en", "types": ["alias"], "value": "National Science Foundation"},
        {"lang": "en", "types": ["label", "ror_display"], "value": "U.S. National Science Foundation"},
    ],
    "external_ids": [{"type": "fundref", "preferred": "100000001", "all": ["100000001"]}],
}
RDF = """<?xml version="1.0" encoding="utf-8"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:skos="http://www.w3.org/2004/02/skos/core#"
 xmlns:skosxl="http://www.w3.org/2008/05/skos-xl#" xmlns:dct="http://purl.org/dc/terms/">
<skos:ConceptScheme rdf:about="http://data.crossref.org/fundingdata/vocabulary"/>
<skos:Concept rdf:about="http://dx.doi.org/10.13039/100000001">
 <skosxl:prefLabel><skosxl:Label><skosxl:literalForm xml:lang="en">National Science Foundation</skosxl:literalForm>
 </skosxl:Label></skosxl:prefLabel>
 <skosxl:altLabel><skosxl:Label><skosxl:literalForm xml:lang="en">NSF</skosxl:literalForm></skosxl:Label>
 </skosxl:altLabel></skos:Concept>
<skos:Concept rdf:about="http://dx.doi.org/10.13039/100000002"><skosxl:prefLabel><skosxl:Label>
 <skosxl:literalForm>Old Fund</skosxl:literalForm></skosxl:Label></skosxl:prefLabel>
 <dct:isReplacedBy rdf:resource="http://dx.doi.org/10.13039/100000001"/></skos:Concept></rdf:RDF>"""
TABLE = """uri,primary_name_display,replaced
http://dx.doi.org/10.13039/100000001,National Science Foundation,
http://dx.doi.org/10.13039/100000002,Old Fund,http://dx.doi.org/10.13039/100000001
"""
API = {
    "id": "100000001",
    "uri": "https://doi.org/10.13039/100000001",
    "name": "National Science Foundation",
    "alt-names": ["NSF"],
    "replaced-by": [],
}


@pytest.mark.parametrize(
    ("name", "text", "funder", "alias"),
    [
        ("ror.json", json.dumps([ROR, {**ROR, "id": "https://ror.org/0x", "status": "withdrawn"}]), ROR["id"], True),
        ("ror.jsonl", json.dumps(ROR) + "\n", ROR["id"], True),
        ("registry.rdf", RDF, "10.13039/100000001", True),
        ("registry.csv", TABLE, "10.13039/100000001", False),
        ("api.json", json.dumps({"status": "ok", "message": {"items": [API]}}), "10.13039/100000001", True),
        ("one.json", json.dumps({"status": "ok", "message": API}), "10.13039/100000001", True),
        ("list.json", json.dumps([API, {**API, "id": "2", "replaced-by": ["100000001"]}]), "10.13039/100000001", True),
    ],
)
def test_registries_as_their_owners_publish_them(
    tmp_path: Path, name: str, text: str, funder: str, alias: bool
) -> None:
    (tmp_path / name).write_text(text)
    found = FundingNormaliser(tmp_path / name)
    assert [entry[0] for entry in found.funders] == [funder], "what is withdrawn or was replaced is left out"
    matches = [
        found([record(asked)])[0][0]["funder_id"] for asked in ("National Science Foundation", "NSF", "Old Fund")
    ]
    assert matches == [funder, funder if alias else None, None]


def test_a_record_of_the_real_dump(tmp_path: Path) -> None:
    spec = find_spec("commonmeta_schema")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("commonmeta-schema, which holds records of ROR, is not installed (pip install commonmeta-schema)")
    folder = Path(spec.submodule_search_locations[0], "fixtures", "ror")
    records = [json.loads((folder / name).read_text()) for name in ("ror_nsf.json", "ror_cambridge_university.json")]
    (tmp_path / "ror.json").write_text(json.dumps(records, indent=4))
    entry, other = FundingNormaliser(tmp_path / "ror.json").funders
    assert other[1] == "University of Cambridge"
    assert entry[:2] == (ROR["id"], "U.S. National Science Foundation")
    assert "NSF" in entry


def test_a_dump_of_another_version_is_refused(tmp_path: Path) -> None:
    old = {"id": "https://ror.org/021nxhr62", "name": "National Science Foundation", "aliases": [], "acronyms": ["NSF"]}
    (tmp_path / "old.json").write_text(json.dumps([old]))
    with pytest.raises(UserError, match=r"it is a ROR dump of schema 1; take the JSON of schema 2"):
        FundingNormaliser(tmp_path / "old.json")
    (tmp_path / "ror.csv").write_text("id,names.types.ror_display\nhttps://ror.org/021nxhr62,NSF\n")
    with pytest.raises(UserError, match=r"it is a ROR dump as CSV; take the JSON of schema 2"):
        FundingNormaliser(tmp_path / "ror.csv")
    (tmp_path / "ror.json").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(UserError, match="ZIP archive"):
        FundingNormaliser(tmp_path / "ror.json")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(UserError, match="holds no funder"):
        FundingNormaliser(tmp_path / "empty.json")


def test_a_dump_of_another_version_stops_the_command_with_one_sentence(tmp_path: Path) -> None:
    rows = funding_rows(3)
    known, corpus = echo_adapter(tmp_path / "adapter", rows), write_jsonl(tmp_path / "in.jsonl", rows)
    old = {"id": "https://ror.org/0x", "name": "Sample Fund", "labels": [], "country": {"country_code": "ES"}}
    (tmp_path / "old.json").write_text(json.dumps([old]))
    (tmp_path / "other.rdf").write_text("<RDF><Ding about='x'/></RDF>")
    before = sorted(tmp_path.iterdir())
    for name, said in (("old.json", "it is a ROR dump of schema 1"), ("other.rdf", "holds no funder")):
        out = ["-o", tmp_path / "out.jsonl", "--normalize", "--registry", tmp_path / name]
        code, output = invoke(known, corpus, *out)
        assert code == 2
        assert said in " ".join(output.split())
        assert "Traceback" not in output
    assert sorted(tmp_path.iterdir()) == before, "nothing is written"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "record 1 cannot be read: a record is an object, not int"),
        ("{", "every line is a JSON object with funder_id"),
        (json.dumps({"name": "x"}), "every line is a JSON object with funder_id"),
    ],
)
def test_a_bad_registry_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        FundingNormaliser(tmp_path / "r.jsonl")
    with pytest.raises(UserError, match="No such file"):
        FundingNormaliser(tmp_path / "none.jsonl")
