"""Deposits of extracted funders, valid by the schemas of Crossref and DataCite."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from test_extract import echo_adapter, invoke, lines
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli import main
from adapters.extraction import deposits
from adapters.extraction.deposits import FUNDREF

REGISTRY = [
    {"funder_id": "10.13039/100000001", "name": "National Science Foundation", "aliases": ["NSF"]},
    {"funder_id": "https://ror.org/0abcdef12", "name": "Sample Trust", "aliases": []},
    {"funder_id": "X-1", "name": "Own List Fund", "aliases": []},
]
SENDER = ("--depositor", "A & Sons", "--email", "a@example.org")


def award(*ids: str, title: str = "") -> dict:
    return {"award_ids": list(ids), "funding_scheme": [], "award_title": [title] if title else []}


def funder(name: str | None, *awards: dict) -> dict:
    return {"funder_name": name, "awards": list(awards)}


ROWS = [
    ("https://doi.org/10.5555/A", [funder("NSF", award("DMS-1", "DMS-2"))]),
    ("10.5555/a", [funder("the National Science Foundation", award("DMS-2", "<3> & 4\x01")), funder("Sample Trust")]),
    ("doi:10.5555/b", [funder("Own List Fund", award("5", title="Probes")), funder("Nobody Fund", award(title="T"))]),
    ("10.5555/c", [funder(None, award("9"))]),
    ("10.5555/d", []),
    (None, [funder("NSF")]),
    ("not a doi", [funder("NSF")]),
    ("10.5555/e", None),
]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """An extraction of these funders; a row without text has no record."""
    texts = [f"Statement {n}." for n in range(len(ROWS))]
    rows = [
        {"id": str(n), "funding_statement": t, "funders": f or []}
        for n, (t, (_, f)) in enumerate(zip(texts, ROWS, strict=True))
    ]
    known = echo_adapter(tmp_path / "adapter", rows)
    corpus = [{"funding_statement": None if f is None else t, "doi": d} for t, (d, f) in zip(texts, ROWS, strict=True)]
    out = tmp_path / "records.jsonl"
    source = write_jsonl(tmp_path / "corpus.jsonl", corpus)
    assert invoke(known, source, "-o", out, "--keep", "doi")[0] == 0
    return out


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "registry.jsonl", REGISTRY)


def export(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["export", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def schemas() -> Path:
    """The folder of schemas in the wheel of commonmeta-py, which need not be imported."""
    spec = find_spec("commonmeta")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("commonmeta-py, which holds the schemas, is not installed (pip install --no-deps commonmeta-py)")
    return Path(spec.submodule_search_locations[0]) / "resources"


def assertions(element: ElementTree.Element) -> list[Any]:
    """Assertions as name, text and what is in them."""
    return [[e.get("name"), e.text or "", *assertions(e)] for e in element]


def test_crossref_funding_data(tmp_path: Path, records: Path, registry: Path) -> None:
    out = tmp_path / "deposit.xml"
    code, said = export(records, "--as", "crossref", "-o", out, "--registry", registry, *SENDER)
    assert code == 0, said
    assert "2 works, 4 funders" in said
    assert "rows without a record: 1" in said
    assert "rows without a valid DOI: 2" in said
    assert "funders without a name: 1" in said
    assert "works without a funder: 2" in said
    body = ElementTree.parse(out).getroot()[1]
    namespace = "{http://www.crossref.org/doi_resources_schema/4.4.2}"
    assert [work.findtext(f"{namespace}doi") for work in body] == ["10.5555/a", "10.5555/b"]
    programs = [assertions(work.find(f"{{{FUNDREF}}}program")) for work in body]
    name = "National Science Foundation"
    identifier = ["funder_identifier", "https://doi.org/10.13039/100000001"]
    assert programs[0] == [
        [
            "fundgroup",
            "",
            ["funder_name", name, identifier],
            *(["award_number", n] for n in ("DMS-1", "DMS-2", "<3> & 4")),
        ],
        ["fundgroup", "", ["ror", "https://ror.org/0abcdef12"]],
    ]
    assert programs[1][0] == ["fundgroup", "", ["funder_name", "Own List Fund"], ["award_number", "5"]]


def test_what_crossref_gets_is_valid_by_its_schema(tmp_path: Path, records: Path, registry: Path) -> None:
    xmlschema = pytest.importorskip("xmlschema", reason="xmlschema is not installed")
    schema = xmlschema.XMLSchema(str(schemas() / "crossref" / "fundref.xsd"))
    out = tmp_path / "deposit.xml"
    assert export(records, "--as", "crossref", "-o", out, "--registry", registry, *SENDER)[0] == 0
    programs = list(ElementTree.parse(out).getroot().iter(f"{{{FUNDREF}}}program"))
    assert len(programs) == 2
    for program in programs:
        schema.validate(program)
    programs[0][0].set("name", "sponsor")
    assert not schema.is_valid(programs[0])


ARTICLE = """<doi_batch xmlns="http://www.crossref.org/schema/5.5.0" version="5.5.0"><head>
<doi_batch_id>batch</doi_batch_id><timestamp>20260101</timestamp><depositor><depositor_name>A</depositor_name>
<email_address>a@example.org</email_address></depositor><registrant>A</registrant></head><body><journal>
<journal_metadata><full_title>Journal</full_title></journal_metadata><journal_article><titles><title>T</title></titles>
<publication_date><year>2026</year></publication_date>{}<doi_data><doi>10.5555/a</doi>
<resource>https://example.org/a</resource></doi_data></journal_article></journal></body></doi_batch>"""


@pytest.mark.slow
def test_a_whole_record_with_it_is_valid_by_the_deposit_schema(tmp_path: Path, records: Path, registry: Path) -> None:
    xmlschema = pytest.importorskip("xmlschema", reason="xmlschema is not installed")
    folder = schemas() / "crossref"

    def local(address: str) -> str:
        """The wheel's copy of what a schema imports from the web."""
        near = sorted(folder.rglob(address.rpartition("/")[2])) if address.startswith("http") else []
        return str(near[0]) if near else address

    schema = xmlschema.XMLSchema11(str(folder / "crossref5.5.0.xsd"), uri_mapper=local, allow="local")
    out = tmp_path / "deposit.xml"
    assert export(records, "--as", "crossref", "-o", out, "--registry", registry, *SENDER)[0] == 0
    program = next(ElementTree.parse(out).getroot().iter(f"{{{FUNDREF}}}program"))
    schema.validate(ARTICLE.format(ElementTree.tostring(program, "unicode")))
    assert not schema.is_valid(ARTICLE.format("<program/>"))


def test_datacite_funding_references(tmp_path: Path, records: Path, registry: Path) -> None:
    out = tmp_path / "deposit.jsonl"
    code, said = export(records, "--as", "datacite", "-o", out, "--registry", registry, "--json")
    assert (code, json.loads(said)["works"]) == (0, 2)
    bodies = [json.loads(line)["data"] for line in out.read_text().splitlines()]
    assert [body["id"] for body in bodies] == ["10.5555/a", "10.5555/b"]
    first, second = (body["attributes"]["fundingReferences"] for body in bodies)
    nsf = {
        "funderName": "National Science Foundation",
        "funderIdentifier": "https://doi.org/10.13039/100000001",
        "funderIdentifierType": "Crossref Funder ID",
    }
    ror = {"funderIdentifier": "https://ror.org/0abcdef12", "funderIdentifierType": "ROR"}
    assert first[:2] == [{**nsf, "awardNumber": "DMS-1"}, {**nsf, "awardNumber": "DMS-2"}]
    assert first[3:] == [{"funderName": "Sample Trust", **ror}]
    own = {"funderName": "Own List Fund", "funderIdentifier": "X-1", "funderIdentifierType": "Other"}
    assert second == [
        {**own, "awardNumber": "5", "awardTitle": "Probes"},
        {"funderName": "Nobody Fund", "awardTitle": "T"},
    ]


def test_what_datacite_gets_is_valid_by_its_schema(tmp_path: Path, records: Path, registry: Path) -> None:
    schema = json.loads((schemas() / "datacite-v4.5.json").read_text())
    out = tmp_path / "deposit.jsonl"
    assert export(records, "--as", "datacite", "-o", out, "--registry", registry)[0] == 0
    part = {"$schema": schema["$schema"], "definitions": schema["definitions"]}
    check = jsonschema.Draft7Validator({**part, **schema["properties"]["fundingReferences"]})
    for line in out.read_text().splitlines():
        check.validate(json.loads(line)["data"]["attributes"]["fundingReferences"])
    assert not check.is_valid([{"funderIdentifierType": "ROR"}])


def test_without_a_registry_names_alone_and_ids_that_were_matched_before(tmp_path: Path, records: Path) -> None:
    out = tmp_path / "deposit.jsonl"
    assert export(records, "--as", "datacite", "-o", out)[0] == 0
    assert "funderIdentifier" not in out.read_text()
    matched = tmp_path / "matched.jsonl"
    registry = write_jsonl(tmp_path / "r.jsonl", REGISTRY)
    arguments = ("--keep", "doi", "--normalize", "--registry", registry)
    assert invoke(tmp_path / "adapter", tmp_path / "corpus.jsonl", "-o", matched, *arguments)[0] == 0
    assert export(matched, "--as", "datacite", "-o", out)[0] == 0
    assert "https://ror.org/0abcdef12" in out.read_text()


def test_a_record_of_a_part_of_its_text_is_deposited_and_counted(tmp_path: Path, records: Path) -> None:
    rows = lines(records)
    rows[0]["error"] = "incomplete: 1 of 3 parts have no record"
    write_jsonl(records, rows)
    counts = deposits.write(
        records, tmp_path / "out.jsonl", "datacite", doi="doi", registry=None, depositor=None, email=None
    )
    assert counts["texts in part without a record"] == 1
    assert counts["rows without a record"] == 1


def test_wrong_inputs_are_refused(tmp_path: Path, records: Path) -> None:
    out = tmp_path / "d.jsonl"
    for given, says in (
        ((records, "--as", "datacite", "-o", tmp_path / "d.xml"), "a deposit for datacite ends in .jsonl"),
        ((records, "--as", "crossref", "-o", tmp_path / "d.xml"), "needs --depositor NAME and --email ADDRESS"),
        ((records, "--as", "datacite", "-o", out, "--doi", "dio"), "has no column 'dio'. Did you mean doi?"),
        ((records, "--as", "datacite", "-o", out, "--doi", "error"), "no row with a funder has a DOI in the column"),
        ((records, "--as", "datacite", "-o", records), "the deposit would overwrite the records"),
        ((tmp_path / "corpus.jsonl", "--as", "datacite", "-o", out), "is no output of adapters extract"),
        ((records, "--as", "datacite", "-o", tmp_path / "no" / "d.jsonl"), "there is no folder"),
    ):
        code, said = export(*given)
        assert code == 2, said
        assert says in said
    assert not out.exists()
    assert not (tmp_path / "d.xml").exists()
    manifest = tmp_path / "records.jsonl.manifest.json"
    manifest.write_text(manifest.read_text().replace('"use": "funding"', '"use": "ie"'))
    assert "records of the task 'ie'" in export(records, "--as", "datacite", "-o", out)[1]
    manifest.write_text(manifest.read_text().replace('"complete": true', '"complete": false'))
    assert "is not finished" in export(records, "--as", "datacite", "-o", out)[1]
