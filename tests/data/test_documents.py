"""Whole documents become rows: funding statements and acknowledgements with their place, and a reason for the rest."""

from __future__ import annotations

import gzip
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.data.formats import documents
from adapters.data.formats.documents import find, rows
from adapters.data.rows import BAD_ROW
from adapters.errors import UserError

JATS = """<article><front><article-meta><article-id pub-id-type="doi">10.5555/abc</article-id><funding-group>
<award-group><funding-source>Sample Trust</funding-source></award-group>
<funding-statement>Supported by the <italic>Sample Trust</italic> (S&#8209;1).</funding-statement></funding-group>
</article-meta></front>
<body><sec><title>Methods</title><p>The study was funded by the reader.</p></sec></body>
<back><ack><title>Acknowledgements</title><p>We thank A. B.</p></ack>
<sec><title>Funding</title><p>Supported by the Sample Trust (S&#8209;1).</p></sec>
<sec><title>6. Financial Support:</title><sec><title>Grants</title><p>From the Second Trust.</p></sec></sec>
<fn-group><fn fn-type="con"><p>All wrote.</p></fn><fn fn-type="financial-disclosure"><p>None to say.</p></fn></fn-group>
</back></article>"""
TEI = """<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader><idno type="DOI">10.5555/tei</idno></teiHeader><text><back>
<div type="acknowledgement"><div><head>Acknowledgements</head><p>Thanks to B.</p></div></div>
<div type="funding"><div><p>By the Sample Trust.</p></div></div>
<div type="annex"><div><head>Funding statement</head><p>And by another.</p></div></div></back></text></TEI>"""
PAPER = """A title
Abstract. The hypothesis is supported by the data from two experiments.

1. Introduction
Funding is scarce. The claim is supported by theory.

5 Acknowledgments. We thank J. Doe for help. This work was
supported by the National Science Foundation (Grant No. DMS-123) and
by the DFG.

References
[1] Somebody. This work was supported by nobody.
"""


def read(path: Path, kind: documents.Kind | None = None) -> list[dict]:
    found, files = find(path, kind)
    return [dict(row) for row in rows(path, found, files, "text")]


def pdf(*pages: str, trailer: str = "") -> bytes:
    """A PDF of lines in Helvetica, each page a text."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
    parts = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>", font]
    for n, page in enumerate(pages):
        lines = [line.translate({ord(c): f"\\{c}" for c in "\\()"}) for line in page.split("\n")]
        body = "BT /F1 11 Tf 14 TL 50 780 Td " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        place = f"/Parent 2 0 R /MediaBox [0 0 600 800] /Contents {5 + 2 * n} 0 R"
        parts.append(f"<< /Type /Page {place} /Resources << /Font << /F1 3 0 R >> >> >>")
        parts.append(f"<< /Length {len(body)} >>\nstream\n{body}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{part}\nendobj\n".encode("cp1252")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n"
    end = f"{head}{table}trailer << /Root 1 0 R /Size {len(parts) + 1} {trailer}>>"
    return out + f"{end}\nstartxref\n{len(out)}\n%%EOF\n".encode()


ENCRYPTED = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'5a' * 32}> /U <{'a5' * 32}> /P -4 >> /ID [<00> <00>] "


# ---------------------------------------------------------------------------------------------------------------- XML


def test_the_sections_of_jats_are_rows_with_their_xpath(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(JATS)
    found = read(tmp_path)
    assert [(r["id"], r["section"], r["text"]) for r in found] == [
        ("a.xml#1", "funding", "Supported by the Sample Trust (S‑1)."),
        ("a.xml#2", "acknowledgement", "We thank A. B."),
        ("a.xml#3", "funding", "From the Second Trust."),
        ("a.xml#4", "funding", "None to say."),
    ], "a text that stands there twice is one row; a section in a section is one row"
    assert {r["doi"] for r in found} == {"10.5555/abc"}
    assert {r["document"] for r in found} == {"a.xml"}
    root = ElementTree.fromstring(JATS)
    places = [root.find("." + r["xpath"].removeprefix("/article")) for r in found]
    assert [place.tag for place in places] == ["funding-statement", "ack", "sec", "fn"]
    assert places[3].get("fn-type") == "financial-disclosure"


def test_a_paragraph_that_speaks_of_money_stands_for_a_section(tmp_path: Path) -> None:
    (tmp_path / "a.nxml").write_text(
        "<article><body><p>Text.</p><p>This work was supported by the Sample Trust.</p></body></article>"
    )
    [row] = read(tmp_path / "a.nxml")
    assert (row["section"], row["xpath"], row["doi"]) == ("phrase", "/article/body/p[2]", None)


def test_the_divisions_of_tei_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.tei").write_text(TEI)
    found = read(tmp_path)
    assert [(r["section"], r["text"], r["xpath"]) for r in found] == [
        ("acknowledgement", "Thanks to B.", "/TEI/text/back/div[1]"),
        ("funding", "By the Sample Trust.", "/TEI/text/back/div[2]"),
        ("funding", "And by another.", "/TEI/text/back/div[3]/div"),
    ]
    assert {r["doi"] for r in found} == {"10.5555/tei"}


def test_several_articles_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(
        f"<articles>{JATS}{JATS.replace('abc', 'xyz').replace('Sample', 'Third')}</articles>"
    )
    found = read(tmp_path, "jats")
    assert found[0]["xpath"].startswith("/articles/article[1]/")
    assert [(r["doi"], r["text"][:26]) for r in found if "Third" in r["text"]] == [
        ("10.5555/xyz", "Supported by the Third Tru")
    ]


def test_a_document_that_cannot_be_read_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 20))
    files = {
        "a.xml": JATS,
        "bomb.xml": f'<!DOCTYPE x [<!ENTITY l0 "lol">{lol}]><article>&l19;</article>',
        "broken.xml": JATS[:300],
        "deep.xml": "<a>" * 1000,
        "empty.xml": "",
        "local.xml": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><article><ack><p>&a;</p></ack></article>',
        "none.xml": "<article><body><p>No money.</p></body></article>",
        "other.xml": "<svg/>",
        "tei.xml": TEI,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "packed.xml").write_bytes(gzip.compress(b"<article>" + b" " * 200_000))
    monkeypatch.setattr(documents, "LARGEST", 100_000)
    found = {r["document"]: r for r in read(tmp_path, "jats")}
    reasons = {name: row[BAD_ROW].removeprefix(f"{name}: ") for name, row in found.items() if BAD_ROW in row}
    assert reasons == {
        "bomb.xml": "line 1: declares the entity l0, and such files are not read",
        "broken.xml": "line 4: is not XML: unclosed token",
        "deep.xml": "line 1: more than 200 elements stand inside each other",
        "empty.xml": "it is empty",
        "local.xml": "line 1: declares the entity a, and such files are not read",
        "other.xml": "its root is svg, not article",
        "packed.xml": "it is larger than 0 MiB",
        "tei.xml": "its root is TEI, not article; read it by --from tei",
    }
    assert found["none.xml"]["text"] is None
    assert found["none.xml"]["id"] == "none.xml"
    assert found["a.xml"]["id"] == "a.xml#4"


# ------------------------------------------------------------------------------------------------- plain text and PDF


@pytest.mark.parametrize(
    "heading", ["Acknowledgements\n", "FUNDING: ", "3. Funding Statement. ", "Financial support — "]
)
@pytest.mark.parametrize("after", ["References\n[1] X", "Conflict of interest: none", "Author contributions\nAll", ""])
def test_a_section_of_text_ends_where_the_next_begins(tmp_path: Path, heading: str, after: str) -> None:
    before = "Title é 😀\n\n"
    (tmp_path / "a.txt").write_text(
        f"{before}{heading}We thank the Sample\nTrust for grants.\n\n{after}", encoding="utf-8"
    )
    [row] = read(tmp_path)
    assert row["text"] == "We thank the Sample Trust for grants."
    assert (tmp_path / "a.txt").read_text(encoding="utf-8")[row["offset"] :].startswith("We thank")
    assert (row["page"], row["xpath"]) == (None, None)


def test_text_under_a_heading_and_sentences_by_phrases(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PAPER)
    (tmp_path / "b.txt").write_text(
        "Title. This research was supported by NSF grant No. 123. It was also made under contract number 7. The rest "
        "is about something else.\n\nAcknowledgements\nThanks to A and B for reading it.\nNotes\nNone."
    )
    (tmp_path / "c.txt").write_text("Contents\nAcknowledgements ........ 12\nReferences ..... 13\n")
    found = read(tmp_path)
    assert [(r["id"], r["section"], r["text"]) for r in found] == [
        (
            "a.txt#1",
            "acknowledgement",
            "We thank J. Doe for help. This work was supported by the National Science Foundation (Grant No. DMS-123) "
            "and by the DFG.",
        ),
        (
            "b.txt#1",
            "phrase",
            "This research was supported by NSF grant No. 123. It was also made under contract number 7.",
        ),
        ("b.txt#2", "acknowledgement", "Thanks to A and B for reading it."),
        ("c.txt", None, None),
    ]


def test_a_long_section_ends_with_a_sentence_and_time_is_linear(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Funding\n" + "The money came from the Sample Trust. " * 10_000)
    (tmp_path / "b.txt").write_text("Funding:\n" * 20_000 + "work " * 100_000)
    start = time.monotonic()
    found = read(tmp_path)
    assert time.monotonic() - start < 20, "about a second alone"
    assert len(found[0]["text"]) <= documents.LONGEST
    assert found[0]["text"].endswith("Sample Trust.")


@given(st.text(alphabet="Funding:.\n References[1]NoSupported by", max_size=200))
@settings(max_examples=100, deadline=None)
def test_places_of_any_text(text: str) -> None:
    for section in documents._of_pages([text], paged=False):
        assert section.offset is not None
        assert text[section.offset :].split()[0] == section.text.split()[0]


@pytest.mark.parametrize(("end", "mark"), [("\r\n", ""), ("\r", ""), ("\n", "\ufeff"), ("\r\n", "\ufeff")])
def test_line_ends_and_marks_of_other_systems(tmp_path: Path, end: str, mark: str) -> None:
    (tmp_path / "one.txt").write_text(PAPER, newline="")
    text = PAPER.replace("\n", end)
    (tmp_path / "other.txt").write_text(mark + text, newline="", encoding="utf-8")
    [one], [other] = read(tmp_path / "one.txt"), read(tmp_path / "other.txt")
    assert (other["text"], other["section"]) == (one["text"], "acknowledgement")
    assert text[other["offset"] :].startswith("We thank J. Doe")
    head = f"Acknowledgements{end}Supported by the DFG under grant 1.{end}"
    (tmp_path / "head.txt").write_text(mark + head, newline="", encoding="utf-8")
    assert [row["text"] for row in read(tmp_path / "head.txt")] == ["Supported by the DFG under grant 1."]


def test_funders_in_metadata_alone_are_said(tmp_path: Path) -> None:
    group = "<award-group><funding-source>Sample Trust</funding-source><award-id>S-1</award-id></award-group>"
    head = f"<front><article-meta><funding-group>{group}</funding-group></article-meta></front>"
    (tmp_path / "a.xml").write_text(f"<article>{head}<body><p>Text.</p></body></article>")
    [row] = read(tmp_path / "a.xml", "jats")
    assert row[BAD_ROW] == (
        "a.xml: it has no funding statement; its metadata name 1 funders, which `data convert` reads"
    )


def test_text_of_another_encoding_is_a_row_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("café au lait\n café noir\n".encode("cp1252"))
    [row] = read(tmp_path)
    assert "not UTF-8, probably Windows-1252" in row[BAD_ROW]


def test_pdf_pages_have_sections_and_bad_files_a_reason(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason="the extra `pdf` is not installed")
    good = pdf(
        "Title\nText (1) here.",
        "Acknowledgements\nWe thank the National Sci-\nence Foundation (DMS-\n123).\nReferences\nX",
    )
    files = {"a": good, "b": pdf(""), "c": good[:500], "d": pdf("x", trailer=ENCRYPTED), "e": b"", "f": b"\0" * 999}
    for name, data in files.items():
        (tmp_path / f"{name}.pdf").write_bytes(data)
    found = read(tmp_path)
    assert (found[0]["text"], found[0]["page"]) == ("We thank the National Science Foundation (DMS-123).", 2)
    assert found[0]["offset"] == len("Acknowledgements\n")
    reasons = [r[BAD_ROW].split(": ", 1)[1] for r in found[1:]]
    assert reasons[0].startswith("it holds no text")
    assert reasons[1] == reasons[4] == "Failed to load document (PDFium: Data format error)"
    assert reasons[2:4] == ["it is encrypted; save it without a password", "it is empty"]


def test_damaged_pdfs_give_a_row(tmp_path: Path) -> None:
    pytest.importorskip("pypdfium2", reason="the extra `pdf` is not installed")
    good = pdf("Acknowledgements\nWe thank the National Science Foundation.")
    for n in range(40):
        place = n * len(good) // 40
        (tmp_path / f"{n}.pdf").write_bytes(good[:place] + b"\xff" * 9 + good[place + 9 :])
    assert len({r["document"] for r in read(tmp_path)}) == 40


# ------------------------------------------------------------------------------------------------------- wrong inputs


def test_the_kind_is_guessed_only_where_it_is_certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="holds no documents"):
        find(tmp_path, None)
    with pytest.raises(UserError, match="there is no file or folder"):
        find(tmp_path / "none.pdf", None)
    (tmp_path / "a.xml").write_text(JATS)
    assert find(tmp_path, None)[0] == "jats"
    (tmp_path / "b.txt").write_text(PAPER)
    with pytest.raises(UserError, match=r"holds 1 .xml, 1 .txt; say what to read: --from jats, tei, pdf, text"):
        find(tmp_path, None)
    assert [file.name for file in find(tmp_path, "text")[1]] == ["b.txt"]
    with pytest.raises(UserError, match=r"holds no file that ends in .pdf"):
        find(tmp_path, "pdf")
    (tmp_path / "c.xml").write_text("<svg/>")
    with pytest.raises(UserError, match="say what to read"):
        find(tmp_path / "c.xml", None)
    monkeypatch.setattr(documents, "find_spec", lambda _: None)
    (tmp_path / "d.pdf").write_bytes(pdf("x"))
    with pytest.raises(UserError, match=r"pip install pypdfium2"):
        find(tmp_path / "d.pdf", None)
