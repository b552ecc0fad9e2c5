"""Where facts are found, what other tasks' records mean, and what is refused."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from graphs import (
    RECORDS,
    agree,
    entity,
    invoke,
    made,
    of,
    output,
    relation,
    small,
    table,
    write_jsonl,
)

from adapters.files import read_json, write_json
from adapters.graph.build import Options, build
from adapters.graph.facts import Text
from adapters.tasks.mine import MineTask
from adapters.types import Attribute, Entity, Relation

# --------------------------------------------------------------------------------------------------------- provenance


def test_the_pair_of_one_sentence_comes_first_then_the_smallest_extent(tmp_path: Path) -> None:
    text = "Ada, Ada, Ada. Oslo is far. Ada left a cold and rainy Oslo behind? Oslo Ada!"
    _, edges, _ = small(tmp_path, text, [relation("r", "Ada", "Oslo")])
    edge = next(edge for edge in edges if edge[":TYPE"] == "r")
    heads, tails = of(edge, "head_start:int", "head_end:int"), of(edge, "tail_start:int", "tail_end:int")
    assert (text[slice(*map(int, heads))], text[slice(*map(int, tails))]) == ("Ada", "Oslo")
    assert (heads[0], tails[0], edge["sentence_text"]) == (
        str(text.index("Ada!")),
        str(text.index("Oslo A")),
        "Oslo Ada!",
    )


def test_ends_in_two_sentences_have_places_and_no_sentence(tmp_path: Path) -> None:
    _, edges, _ = small(tmp_path, "Ada left. Oslo stayed.", [relation("r", "Ada", "Oslo")])
    edge = next(edge for edge in edges if edge[":TYPE"] == "r")
    assert of(edge, "head_start:int", "tail_start:int", "sentence:int", "found:boolean") == ("0", "10", "", "true")


def test_sentences_of_the_corpus_replace_the_rule(tmp_path: Path) -> None:
    text = "Dr. Ada saw Oslo. It rained."
    record = [relation("r", "Dr. Ada", "Oslo")]
    assert next(e for e in small(tmp_path, text, record)[1] if e[":TYPE"] == "r")["sentence:int"] == ""
    edges = (
        small(tmp_path / "given", text, record, sentences=[[0, 17], [18, 28]]) if (tmp_path / "given").mkdir() else []
    )
    edges = small(tmp_path / "given", text, record, sentences=[[0, 17], [18, 28]])[1]
    edge = next(e for e in edges if e[":TYPE"] == "r")
    assert of(edge, "sentence:int", "sentence_text") == ("0", "Dr. Ada saw Oslo.")


@pytest.mark.parametrize("given", [5, [5], [[1]], [[3, 2]], [[0, 99]], [["0", 1]], "[[0, 1]", [[True, 2]]], ids=str)
def test_sentences_that_the_text_lacks_are_refused(tmp_path: Path, given: Any) -> None:
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"id": "t", "text": "Oslo.", "sentences": given}])
    out = output(tmp_path / "o.jsonl", corpus, [[]])
    code, said = invoke(out, "--corpus", corpus, "-o", tmp_path / "g")
    assert (code, "row 1 of the corpus: its column sentences: " in said) == (2, True), said


def test_white_space_matches_any_and_words_are_whole(tmp_path: Path) -> None:
    text = "Sample\n  Institute, SampleInstitute, Sample Institutes, (Sample\u00a0Institute) XSample Institute"
    _, edges, _ = small(tmp_path, text, [entity("o", "Sample Institute")])
    assert [text[int(e["start:int"]) : int(e["end:int"])] for e in edges] == [
        "Sample\n  Institute",
        "Sample\u00a0Institute",
    ]


def test_a_place_does_not_cut_a_letter_from_its_accent(tmp_path: Path) -> None:
    _, edges, _ = small(tmp_path, "Jose\u0301 and Jose", [entity("p", "Jose")])
    assert [of(e, "start:int", "end:int") for e in edges] == [("10", "14")]


def test_an_entity_that_stands_nowhere_keeps_an_edge(tmp_path: Path) -> None:
    nodes, edges, folder = small(tmp_path, "Nobody.", [entity("person", "Ada")])
    assert [of(e, ":TYPE", "start:int", "found:boolean") for e in edges] == [("mentions", "", "false")]
    assert of(nodes[0], "name", "mentions:int", "documents:int") == ("Ada", "0", "1")
    agree(folder)


def test_an_end_of_two_types_has_none(tmp_path: Path) -> None:
    record = [entity("person", "Paris"), entity("place", "paris"), relation("r", "PARIS", "Oslo")]
    nodes, _, _ = small(tmp_path, "Paris", record)
    assert [n["type"] for n in nodes if n["name"].lower() == "paris"] == ["entity", "person", "place"]


def test_documents_with_one_id_stay_apart(tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "same.jsonl", [{"id": "x", "text": "Oslo"}] * 3)
    out = output(tmp_path / "o.jsonl", corpus, [[entity("place", "Oslo")]] * 3)
    folder = made(tmp_path, corpus, out)
    agree(folder)
    assert [n["name"] for n in table(folder / "nodes.csv")] == ["Oslo", "x", "x#2", "x#3"]
    assert read_json(folder / "manifest.json")["counts"]["repeated_ids"] == 2


def test_two_names_with_one_id_stop_the_work(tmp_path: Path) -> None:
    record = [entity("registry", "x"), {**entity("a", "b")}]
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"id": "t", "text": "x b"}])
    out = output(tmp_path / "o.jsonl", corpus, [record])
    registry = write_jsonl(tmp_path / "r.jsonl", [{"id": "x", "name": "b"}])
    code, said = invoke(out, "--corpus", corpus, "-o", tmp_path / "g", "--registry", registry)
    assert (code, "two names have one id" in said) == (2, True), said
    assert not list(tmp_path.glob("g*"))


# -------------------------------------------------------------------------------------------------------- other tasks


def test_funders_awards_and_schemes(tmp_path: Path) -> None:
    text = "Funded by NSF (DMS-1, DMS-2; CAREER) and the National Science Foundation under X 9."
    awards = [{"award_ids": ["DMS-1", "DMS-2"], "funding_scheme": ["CAREER"], "award_title": []}]
    other = [{"award_ids": ["X 9"], "funding_scheme": [], "award_title": []}]
    record = [
        {"funder_name": "NSF", "awards": awards},
        {"funder_name": "National Science Foundation", "awards": other},
        {"funder_name": None, "awards": other},
    ]
    tidy = [{"funder_id": "10.13039/100000001", "awards": []}] * 2 + [{"funder_id": None, "awards": []}]
    corpus = write_jsonl(tmp_path / "c.jsonl", [{"id": "t", "text": text}])
    out = output(tmp_path / "o.jsonl", corpus, [record], task="funding", normalized=[tidy])
    folder = made(tmp_path, corpus, out)
    agree(folder)
    nodes = {n["id:ID"]: n["name"] for n in table(folder / "nodes.csv")}
    assert nodes["n463ff5a717127338"] == "NSF", "the more frequent, or the smaller, spelling"
    edges = [
        (nodes[e[":START_ID"]], e[":TYPE"], nodes[e[":END_ID"]])
        for e in table(folder / "edges.csv")
        if e[":TYPE"] != "mentions"
    ]
    assert edges == [
        *(("NSF", "has_award", "DMS-1"), ("NSF", "has_award", "DMS-2")),
        *(("DMS-1", "under_scheme", "CAREER"), ("DMS-2", "under_scheme", "CAREER")),
        ("NSF", "has_award", "X 9"),
    ]
    types = {n["type"] for n in table(folder / "nodes.csv")}
    assert types == {"funder", "award", "scheme", "document"}


def test_mined_records() -> None:
    from adapters.graph.mine_records import graph

    price = {"text": "$499", "start": 32, "end": 36}
    laptops = [{"text": "Swift 3", "start": 18, "end": 25, "price": price}, {"text": "Aero", "start": 45, "end": 49}]
    swift, dollars = Entity("laptop", "Swift 3", (18, 25)), Entity("price", "$499", (32, 36))
    record = {"kept": True, "positive": True, "positive_score": 0.9, "laptop": laptops, "first": None, "none": []}
    assert list(graph(record, {})) == [
        *(Attribute("positive", True), Attribute("positive_score", 0.9)),
        *(swift, dollars, Relation("price", swift, dollars), Entity("laptop", "Aero", (45, 49))),
    ]
    assert list(graph({"kept": False, "positive": False, "laptop": laptops}, {})) == [Attribute("positive", False)]


def test_answers_to_questions(tmp_path: Path) -> None:
    text = "Aspirin did not help against the headache."
    asked = {"id": "t", "text": text, "kind": "span", "instruction": "disease"}
    corpus = write_jsonl(tmp_path / "c.jsonl", [asked, {**asked, "kind": "label", "instruction": "medicine"}])
    spans = [{"text": "headache", "start": 33, "end": 41}, {"text": "Aspirin"}]
    records = [MineTask().record({"spans": spans}), MineTask().record({"label": True, "score": 0.9})]
    folder = made(tmp_path, corpus, output(tmp_path / "out.jsonl", corpus, records, task="mine"))
    nodes, edges = table(folder / "nodes.csv"), table(folder / "edges.csv")
    assert [of(n, "type", "name", "label_medicine:boolean") for n in nodes if n[":LABEL"] == "Entity"] == [
        ("disease", "Aspirin", ""),
        ("disease", "headache", ""),
    ]
    assert [of(n, "name", "label_medicine:boolean") for n in nodes if n[":LABEL"] == "Document"] == [
        ("t", ""),
        ("t#2", "true"),
    ]
    assert [of(e, "start:int", "end:int") for e in edges] == [("33", "41"), ("0", "7")]


# ---------------------------------------------------------------------------------------------------------- bad input


def test_what_is_refused(tmp_path: Path, corpus: Path) -> None:
    out = output(tmp_path / "out.jsonl", corpus, RECORDS)
    manifest = Path(f"{out}.manifest.json")
    told = read_json(manifest)

    def refused(*more: object, **settings: Any) -> str:
        write_json(manifest, {**told, "settings": {**told["settings"], **settings}})
        code, said = invoke(out, "--corpus", corpus, "-o", tmp_path / "g", *more)
        assert code == 2, said
        assert not list(tmp_path.glob("g*"))
        return said

    assert "made from another corpus than" in refused(input="0" * 64)
    assert "the task 'agent' makes no graph: it has no method graph." in refused(task={"use": "agent"})
    assert "code of a file" in refused(task={"use": "./task.py:Own"})
    assert "--formats json: choose from graphml, ntriples, csv." in refused("--formats", "json")
    assert "has no column 'txt'. Did you mean text?" in refused("--text", "txt")
    assert "give the folder a name" in invoke(out, "--corpus", corpus, "-o", ".")[1]
    assert "is no IRI" in refused("--base-iri", "a b")
    assert "there is no folder" in invoke(out, "--corpus", corpus, "-o", tmp_path / "no" / "g")[1]
    assert "there is no file" in invoke(out, "--corpus", tmp_path / "no.jsonl", "-o", tmp_path / "g")[1]
    write_json(manifest, {**told, "complete": False})
    code, said = invoke(out, "--corpus", corpus, "-o", tmp_path / "g")
    assert (code, f"{out} is not finished; run its command again." in said) == (2, True), said
    write_json(manifest, told)
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0].replace('"row": 1', '"row": 17'))
    assert f"row 17 of {out} is not in {corpus}." in refused()
    out.write_text(lines[0] * 2)
    assert f"row 1 stands twice: in {out}." in refused()
    out.write_text(lines[0].replace('"record": [', '"record": [1, '))
    assert f"row 1 of {out}: its record cannot be read" in refused()
    bad = write_jsonl(tmp_path / "r.jsonl", [{"id": "x", "name": "a", "aliases": "b"}])
    assert "row 1 is not like" in refused("--registry", bad)


def test_only_a_graph_is_replaced_and_only_when_asked(tmp_path: Path, corpus: Path) -> None:
    out = output(tmp_path / "out.jsonl", corpus, RECORDS)
    folder = made(tmp_path, corpus, out)
    code, said = invoke(out, "--corpus", corpus, "-o", folder)
    assert (code, "replace it with --fresh" in said) == (2, True)
    made(tmp_path, corpus, out, more=("--fresh", "--formats", "csv"))
    assert sorted(p.name for p in folder.iterdir()) == ["edges.csv", "manifest.json", "nodes.csv"]
    (folder / "manifest.json").write_text("{}")
    code, said = invoke(out, "--corpus", corpus, "-o", folder, "--fresh")
    assert (code, "holds something else than a graph" in said) == (2, True)


def test_the_summary(tmp_path: Path, corpus: Path) -> None:
    out = output(tmp_path / "out.jsonl", corpus, RECORDS)
    code, said = invoke(out, "--corpus", corpus, "-o", tmp_path / "g")
    assert code == 0
    assert "3 documents, 4 entities, 11 edges (1 not found in their text)" in said
    assert "7 mentions, 3 works for, 1 lives in" in said
    code, said = invoke(out, "--corpus", corpus, "-o", tmp_path / "h", "--json")
    assert json.loads(said.partition("{")[1] + said.partition("{")[2])["edges"]["mentions"] == 7


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.graph.store._BLOCK", 64)

    def peak(count: int) -> int:
        names = [(f"Ada{count}x{n} Bell", f"Sample{n % 300}", f"Oslo{count}x{n}") for n in range(count)]
        texts = (f"{ada} works for {sample}. {ada} lives in {oslo}." for ada, sample, oslo in names)
        records = ([Entity("person", a), Entity("place", c), Relation("works for", a, b)] for a, b, c in names)
        documents = (Text(n, f"d{n}", *both) for n, both in enumerate(zip(texts, records, strict=True), 1))
        gc.collect()  # what an earlier build left is reused otherwise, and counts for neither
        tracemalloc.start()
        try:
            build(documents, tmp_path / str(count), Options())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1100)  # loads modules, and fills what remembers names
    assert peak(3300) < 1.2 * peak(1100)
