"""Documents straight into an extraction: their sections are the corpus, and a restart continues with the same one."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_extract import echo_adapter, invoke, lines
from tiny import write_jsonl

from adapters.extraction.documents import sections_path

STATEMENT = "Supported by the Sample Trust (S-1)."
GOLD = [{"funder_name": "Sample Trust", "awards": [{"award_ids": ["S-1"], "funding_scheme": [], "award_title": []}]}]


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return echo_adapter(tmp_path / "adapter", [{"id": "1", "funding_statement": STATEMENT, "funders": GOLD}])


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers" / "2024"
    folder.mkdir(parents=True)
    article = (
        "<article><article-meta><article-id pub-id-type='doi'>10.5555/{0}</article-id></article-meta>{1}</article>"
    )
    for n in range(3):
        body = f"<back><ack><p>We thank {n}.</p></ack><sec><title>Funding</title><p>{STATEMENT}</p></sec></back>"
        (folder / f"{n}.xml").write_text(article.format(n, body))
    (folder / "3.xml").write_text("<article>")
    (folder / "4.xml").write_text(article.format(4, "<p>Nothing.</p>"))
    return folder.parent


def test_a_folder_of_articles(tmp_path: Path, known: Path, papers: Path) -> None:
    out = tmp_path / "out.jsonl"
    code, said = invoke(known, papers, "-o", out)
    assert code == 0, said
    assert "8 rows, 6 records (3 of them empty)" in said
    assert "1 unreadable row, 1 no text" in said
    found = lines(out)
    assert [r["id"] for r in found][:2] == ["2024/0.xml#1", "2024/0.xml#2"]
    assert [r["record"] for r in found] == [[], GOLD] * 3 + [None, None]
    assert (found[1]["doi"], found[1]["xpath"], found[1]["section"]) == ("10.5555/0", "/article/back/sec", "funding")
    assert found[6]["id"] == found[6]["document"] == "2024/3.xml"
    assert found[6]["error"].startswith("unreadable row: 2024/3.xml: line 1: is not XML")
    assert [r["funding_statement"] for r in lines(sections_path(out))][:2] == ["We thank 0.", STATEMENT]
    assert invoke(known, papers, "-o", tmp_path / "out.parquet", "--from", "jats")[0] == 0


def test_a_restart_reads_the_documents_once(
    tmp_path: Path, known: Path, papers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapters.data.formats import documents
    from adapters.extraction import extract

    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    assert invoke(known, papers, "-o", whole)[0] == 0
    record = extract._record

    def killed(job: object, start: dict, answer: object) -> dict:
        if start["row"] == 4:
            raise KeyboardInterrupt
        return record(job, start, answer)

    with monkeypatch.context() as patch:
        patch.setattr(extract, "_record", killed)
        assert invoke(known, papers, "-o", out)[0] != 0
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(documents, "rows", lambda *_: pytest.fail("read again"))
        assert invoke(known, papers, "-o", out)[0] == 0
    assert out.read_bytes() == whole.read_bytes()

    (papers / "2024" / "0.xml").write_text("<article/>")
    before = sections_path(out).read_bytes()
    code, said = invoke(known, papers, "-o", out)
    assert code == 2
    assert "other documents" in said
    assert sections_path(out).read_bytes() == before, "nothing that belongs to the output is overwritten"
    assert invoke(known, papers, "-o", out, "--fresh")[0] == 0
    assert lines(out)[0]["error"].startswith("no text")


def test_all_broken_is_an_output_too(tmp_path: Path, known: Path) -> None:
    (tmp_path / "papers").mkdir()
    for n in range(120):
        (tmp_path / "papers" / f"{n:03}.xml").write_text("<article>")
    out = tmp_path / "out.jsonl"
    assert invoke(known, tmp_path / "papers", "-o", out, "--from", "jats")[0] == 0
    assert {r["error"][:14] for r in lines(out)} == {"unreadable row"}


def test_wrong_inputs_are_refused(tmp_path: Path, known: Path, papers: Path) -> None:
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"funding_statement": STATEMENT}])
    for given, says in (
        ((corpus, "--from", "jats"), "is a data file, not a document"),
        ((tmp_path / "no.xml",), "there is no file or folder"),
        ((papers, "--from", "text"), "holds no file that ends in .txt"),
        ((known,), "holds no documents"),
        ((tmp_path / "no.jsonl",), "there is no file"),
    ):
        code, said = invoke(known, *given, "-o", tmp_path / "out.jsonl")
        assert code == 2, said
        assert says in " ".join(said.split())
    assert not list(tmp_path.glob("out*"))
