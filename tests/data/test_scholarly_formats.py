"""JATS, TEI and Crossref become funding rows: text, funders and awards, and nothing that XML can do to a reader."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_formats import converted, read, run
from tiny import write_jsonl

from adapters.data.formats import FORMATS, Source, detect
from adapters.data.formats.xml_files import marked, parse
from adapters.data_aug.ie.sentences import Options
from adapters.tasks.funding import FundingTask

DOCTYPE = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE article PUBLIC "-//NLM//DTD JATS (Z39.96) Journal Archiving and '
    'Interchange DTD v1.3 20210610//EN" "JATS-archivearticle1-3.dtd">\n'
)
JATS = (
    DOCTYPE
    + """<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>
<article-id pub-id-type="doi">10.5555/abc</article-id>
<funding-group>
  <award-group id="a1"><funding-source><institution-wrap>
      <institution-id institution-id-type="doi">10.13039/501100000266</institution-id>
      <institution>Sample&nbsp;Trust</institution></institution-wrap></funding-source>
    <award-id>EP/F5/1, EP/F5/2 and EP/F5/3</award-id>
    <principal-award-recipient><name><surname>Holt</surname></name></principal-award-recipient></award-group>
  <award-group id="a2"><funding-source>Institut f&uuml;r Proben
      <named-content content-type="funder-id">10.13039/1</named-content></funding-source>
    <award-id>S 17</award-id><award-id>S 18</award-id><award-name>Probes</award-name></award-group>
  <award-group id="a3"><funding-source>Unnamed Fund</funding-source></award-group>
  <funding-statement>Supported by the <funding-source>Sample&#160;Trust</funding-source>
    (EP/F5/1, <italic>EP/F5/2</italic>; EP/F5/3) and the Institut f&#xfc;r
    Proben (S 17, S&#160;18).</funding-statement>
</funding-group></article-meta></front></article>"""
)
TEI = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><fileDesc><titleStmt>
  <title level="a" type="main">T</title>
  <funder ref="#_g1 #_g2"><orgName type="full">Sample Trust</orgName><orgName type="abbreviated">ST</orgName>
    <idno type="DOI" subtype="crossref">10.13039/1</idno></funder>
  <funder ref="#_g3"><orgName type="full">unknown</orgName></funder>
  <funder><orgName type="abbreviated">DFG</orgName></funder>
</titleStmt><sourceDesc><biblStruct><idno type="DOI">10.5555/x</idno></biblStruct></sourceDesc></fileDesc></teiHeader>
<text><back>
<div type="acknowledgement"><div><head>Thanks</head><p>We thank Mira Holt.</p></div></div>
<div type="funding"><div><head>Funding</head><p><s>By <rs type="funder">Sample Trust</rs>
  (<rs type="grantNumber">S-1</rs>, S-2),</s><s>the DFG, grant X9 (<rs type="programName">Probes</rs>).</s></p></div>
</div>
<listOrg type="funding">
  <org type="funding" xml:id="_g1"><idno type="grant-number">S-1</idno></org>
  <org type="funding" xml:id="_g2"><idno type="grant-number">S-2</idno>
    <orgName type="program" subtype="full">Probes</orgName></org>
  <org type="funding" xml:id="_g3"><idno type="grant-number">X9</idno></org>
</listOrg></back></text></TEI>"""
TRAINING = """<fundings>
  <funding>No <individual>Mira</individual>, by grant <grantNumber>A 1</grantNumber> of the
   <funder>Sample Trust</funder> (<grantNumber>A 2</grantNumber>) and
   <funder>R&amp;D Fund</funder>, <programName>Probes</programName>.</funding>
  <funding>The authors received no funding.</funding>
</fundings>"""


def text_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def award(ids: list[str], scheme: list[str] | None = None, title: list[str] | None = None) -> dict[str, Any]:
    return {"award_ids": ids, "funding_scheme": scheme or [], "award_title": title or []}


def test_jats(tmp_path: Path) -> None:
    [row], said = converted(text_file(tmp_path / "download", JATS))
    assert (said["format"], said["read"], said["to"]) == ("jats", 1, "funding")
    assert row["id"] == "doi:10.5555/abc"
    assert row["funding_statement"] == (
        "Supported by the Sample\u00a0Trust (EP/F5/1, EP/F5/2; EP/F5/3) and the Institut für Proben (S 17, S\u00a018)."
    )
    assert row["funders"] == [
        {"funder_name": "Sample\u00a0Trust", "awards": [award(["EP/F5/1", "EP/F5/2", "EP/F5/3"])]},
        {"funder_name": "Institut für Proben", "awards": [award(["S 17", "S 18"], title=["Probes"])]},
        {"funder_name": "Unnamed Fund", "awards": []},
    ]
    assert said["notes"] == {"names and ids that the statement does not hold": 1}, "Unnamed Fund"
    assert FundingTask().example(row).completion


def test_jats_without_statement_or_groups(tmp_path: Path) -> None:
    group = "<award-group><funding-source>A</funding-source></award-group>"
    meta = "<article><front><article-meta>{}</article-meta></front><back>{}</back></article>"
    articles = {
        "ack": (f"<funding-group>{group}</funding-group>", "<ack><title>Thanks</title><p>By A.</p><p>And B.</p></ack>"),
        "fn": (group, '<fn-group><fn fn-type="financial-disclosure"><label>1</label><p>By A.</p></fn></fn-group>'),
        "no text": (f"<funding-group>{group}</funding-group>", ""),
        "no groups": ("<funding-group><funding-statement>By A.</funding-statement></funding-group>", ""),
        "nothing": ("", ""),
        "old": ("<contract-sponsor>A</contract-sponsor><contract-num>1</contract-num>", "<ack><p>By A, 1.</p></ack>"),
    }
    for name, parts in articles.items():
        text_file(tmp_path / f"{name}.nxml", meta.format(*parts))
    rows, said = converted(tmp_path)
    assert said["read"] == 6
    assert {row["funding_statement"] for row in rows} == {"By A. And B.", "By A.", "By A, 1."}
    assert [row["funders"][0]["awards"] for row in rows if "1" in row["funding_statement"]] == [[award(["1"])]]
    assert said["left_out"] == {
        "articles without a funding statement": 1, "statements without award groups": 1, "articles without funding": 1
    }  # fmt: skip


def test_tei_of_grobid(tmp_path: Path) -> None:
    path = text_file(tmp_path / "download", TEI)
    [row], said = converted(path)
    assert (said["format"], row["id"]) == ("tei", "doi:10.5555/x")
    assert row["funding_statement"] == "By Sample Trust (S-1, S-2), the DFG, grant X9 (Probes)."
    assert row["funders"] == [
        {"funder_name": "Sample Trust", "awards": [award(["S-1"]), award(["S-2"], scheme=["Probes"])]},
        {"funder_name": None, "awards": [award(["X9"])]},
        {"funder_name": "DFG", "awards": []},
    ]
    [row], said = converted(path, "--to", "ie", "--drop-empty")
    assert row["gold"] == {"funder": ["Sample Trust"], "grantNumber": ["S-1"], "programName": ["Probes"]}
    assert all(row["text"][a:b] in row["gold"][label] for a, b, label in row["spans"])
    moved = TEI.replace("We thank Mira Holt.", "We thank the DFG.").replace("the DFG, grant", "grant")
    [row], _ = converted(text_file(tmp_path / "moved", moved))
    assert row["funding_statement"].startswith("We thank the DFG. By Sample Trust"), "a funder of the acknowledgement"


def test_tei_for_training_grobid(tmp_path: Path) -> None:
    path = text_file(tmp_path / "all.tei.xml", TRAINING)
    rows, said = converted(path)
    assert rows[0]["funding_statement"].startswith("No Mira, by grant A 1 of the Sample Trust (A 2) and R&D Fund")
    assert rows[0]["funders"] == [
        {"funder_name": "Sample Trust", "awards": [award(["A 1", "A 2"])]},
        {"funder_name": "R&D Fund", "awards": [award([], scheme=["Probes"])]},
    ]
    assert rows[1]["funders"] == []
    rows, said = converted(path, "--to", "ie", "--rename", "individual=")
    assert rows[0]["gold"]["grantNumber"] == ["A 1", "A 2"]
    assert said["empty"] == {"NER": 1}
    done = run(path, "-o", tmp_path / "o.conll", "--to", "conll")
    assert done.exit_code == 0, done.output


def test_crossref(tmp_path: Path) -> None:
    funder = {"name": "Sample Trust", "DOI": "10.13039/1", "doi-asserted-by": "publisher", "award": ["S-1", " S-2 "]}
    again = {"name": "Sample Trust", "award": ["S-3"]}
    work = {"DOI": "10.5555/A", "publisher": "X", "type": "article", "funder": [funder, again, {"name": "DFG"}]}
    empty = {"DOI": "10.5555/b", "publisher": "X"}
    wanted = [
        {"funder_name": "Sample Trust", "awards": [award(["S-1", "S-2", "S-3"])]},
        {"funder_name": "DFG", "awards": []},
    ]
    for name, value in {
        "works": {"status": "ok", "message-type": "work-list", "message": {"items": [work, empty]}},
        "work": {"status": "ok", "message": work},
        "dump": {"items": [work, empty]},
        "list": [empty, work],
    }.items():
        rows, said = converted(text_file(tmp_path / name, json.dumps(value)))
        assert (said["format"], said["to"]) == ("crossref", "funding")
        assert [(row["id"], row["funders"]) for row in rows] == [("doi:10.5555/a", wanted)]
        assert said["left_out"] == ({} if name == "work" else {"works without funders": 1})
        assert FundingTask().gold(rows[0])
    rows, said = converted(write_jsonl(tmp_path / "lines", [work, empty]))
    assert (said["read"], len(rows)) == (2, 1)
    done = run(text_file(tmp_path / "broken", json.dumps([work, {"DOI": "1", "member": 1, "funder": "x"}])), "-o", "o")
    assert "record 2: 1: funder is no list of objects" in done.stderr


# ----------------------------------------------------------------------------------------------------------------- XML

ENTITIES = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
LAUGHS = f'<!DOCTYPE a [<!ENTITY l0 "ha">{ENTITIES}]><article><p>&l9;</p></article>'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (LAUGHS, "line 1: declares the entity l0, and such files are not read"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><article>&x;</article>', "declares the entity x"),
        ('<!DOCTYPE a [<!ENTITY % x SYSTEM "http://127.0.0.1:9/x">%x;]><article/>', "declares the entity x"),
        (DOCTYPE + "<article>&unheard;</article>", "line 3: the entity &unheard; is not known"),
        ("<article>\n<p></article>", "line 2: is not XML: mismatched tag"),
        ("<article>" + "<p>" * 300, "line 1: more than 200 elements stand inside each other"),
        ("<article/>", "no row is left; left out: {'articles without funding': 1}"),
    ],
)
def test_xml_that_is_refused(tmp_path: Path, text: str, wanted: str) -> None:
    done = run(text_file(tmp_path / "a.xml", text), "-o", tmp_path / "o", "--from", "jats")
    assert (done.exit_code, wanted in done.stderr) == (2, True), done.output
    assert not (tmp_path / "o").exists()


def test_a_broken_file_of_a_folder_is_named(tmp_path: Path) -> None:
    text_file(tmp_path / "a.xml", JATS)
    text_file(tmp_path / "b.xml", "<article>")
    done = run(tmp_path, "-o", tmp_path / "o")
    assert "b.xml, line 1: is not XML: no element found" in done.stderr


WORDS = st.text(st.sampled_from("aé😀\u0301&<>\"' \n\u00a0-1"), max_size=8)


@given(parts=st.lists(st.tuples(WORDS, st.sampled_from(["funder", "grantNumber", ""]), WORDS), min_size=1, max_size=6))
def test_marks_stand_where_their_text_is(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, str, str]]
) -> None:
    inner = "".join(
        f"{escape(before)}<{tag}>{escape(word)}</{tag}>" if tag else f"{escape(before)}{escape(word)}"
        for before, tag, word in parts
    )
    path = text_file(tmp_path_factory.mktemp("x") / "a.xml", f"<fundings><funding>{inner}</funding></fundings>")
    whole = "".join(before + word for before, _, word in parts)
    text, marks = marked(next(iter(parse(path))))
    assert text == " ".join(whole.replace("\n", " ").split(" ")).strip() or text.split(" ") == [
        word for word in whole.replace("\n", " ").split(" ") if word
    ]
    named = [text[start:end] for element, start, end in marks if element.tag in ("funder", "grantNumber")]
    assert named == [" ".join(w for w in word.replace("\n", " ").split(" ") if w) for _, tag, word in parts if tag]
    if text:
        sentences, _ = read("tei", path)
        assert Counter(e.surface(text) for e in sentences[0].entities) == Counter(name for name in named if name)
        rows = list(FORMATS["tei"].gives["funding"](Source(path), Options(), Counter()))
        assert rows[0]["funding_statement"] == text  # type: ignore[index]
        if any(tag == "funder" and word.strip() for _, tag, word in parts):
            ids = {i for f in rows[0]["funders"] for a in f["awards"] for i in a["award_ids"]}  # type: ignore[index]
            assert ids == {text[a:b] for e, a, b in marks if e.tag == "grantNumber" and b > a}


NAMES = st.text(st.sampled_from("AÉé😀\u0301&<'x "), min_size=1, max_size=6).map(str.strip).filter(bool)
IDS = st.text(st.sampled_from("A1-/ ü"), min_size=1, max_size=6).map(str.strip).filter(bool)
AWARDS = st.dictionaries(
    NAMES.map(lambda name: " ".join(name.split())),
    st.lists(IDS.map(lambda i: " ".join(i.split())), unique=True, max_size=3),
    min_size=1,
    max_size=4,
)


@given(awards=AWARDS)
def test_funders_round_trip(tmp_path_factory: pytest.TempPathFactory, awards: dict[str, list[str]]) -> None:
    statement = " ".join(part for name, ids in awards.items() for part in (name, *ids))
    groups = "".join(
        f"<award-group><funding-source>{escape(name)}</funding-source>"
        + "".join(f"<award-id>{escape(i)}</award-id>" for i in ids)
        + "</award-group>"
        for name, ids in awards.items()
    )
    meta = f"<funding-group>{groups}<funding-statement>{escape(statement)}</funding-statement></funding-group>"
    inline = " ".join(
        " ".join([f"<funder>{escape(name)}</funder>", *(f"<grantNumber>{escape(i)}</grantNumber>" for i in ids)])
        for name, ids in awards.items()
    )
    work = {"DOI": "1", "member": "1", "funder": [{"name": name, "award": ids} for name, ids in awards.items()]}
    folder = tmp_path_factory.mktemp("x")
    wanted = [{"funder_name": name, "awards": [award(ids)] if ids else []} for name, ids in awards.items()]
    for kind, text in (
        ("jats", f"<article><front><article-meta>{meta}</article-meta></front></article>"),
        ("tei", f"<fundings><funding>{inline}</funding></fundings>"),
        ("crossref", json.dumps(work)),
    ):
        counts: Counter[str] = Counter()
        [row] = FORMATS[kind].gives["funding"](Source(text_file(folder / kind, text)), Options(), counts)
        assert row["funders"] == wanted  # type: ignore[index]
        assert row.get("funding_statement", statement) == statement  # type: ignore[union-attr]
        assert not +counts


def test_detection_reads_the_root(tmp_path: Path) -> None:
    for text, name in ((JATS, "jats"), (TEI, "tei"), (f"<?xml version='1.0'?><!-- <TEI> -->{TRAINING}", "tei")):
        assert detect(Source(text_file(tmp_path / "x", text)))[0] == name
        assert detect(Source(text_file(tmp_path / "x", f"\ufeff{text}")))[0] == name
