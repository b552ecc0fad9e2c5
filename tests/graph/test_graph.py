"""A graph of extracted records: the published vector, files that other readers agree about, provenance, odd names."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import networkx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rdflib
from test_ie_extract import echo_adapter
from test_ie_extract import invoke as extract
from tiny import ie_rows
from typer.testing import CliRunner

from adapters.cli import main
from adapters.data.rows import survey
from adapters.extraction.merge_shards import merge
from adapters.files import read_json, sha256, write_json
from adapters.graph.build import Options, build
from adapters.graph.facts import Text
from adapters.tasks.ie import IeTask
from adapters.tasks.mine import MineTask
from adapters.types import Attribute, Entity, Relation

RDF = rdflib.RDF
NIF = rdflib.Namespace("http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#")
D1 = "Ada Bell works for the Sample Institute. Ada Bell lives in Oslo."
D2 = "The  Sample Institute (Oslo) hired ADA BELL."
TEXTS = [("d1", D1), ("d2", D2), ("d3", "Nothing of note happened.")]
ADA, SAMPLE, OSLO, CARL = "n171b943f855f4afc", "nd1233cb3d2fec311", "n520789a9ef9a2398", "n95d28f4745d061f5"
FILES = ["edges.csv", "graph.graphml", "graph.nt", "manifest.json", "nodes.csv"]


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """Rows in ASCII: a lone surrogate is an escape of JSON."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def entity(label: str, text: str) -> dict[str, Any]:
    return {"label": label, "text": text, "head": None, "tail": None}


def relation(label: str, head: str, tail: str) -> dict[str, Any]:
    return {"label": label, "text": None, "head": head, "tail": tail}


RECORDS = [
    [
        *(entity("person", "Ada Bell"), entity("organization", "Sample Institute"), entity("location", "Oslo")),
        *(relation("works for", "Ada Bell", "Sample Institute"), relation("lives in", "Ada Bell", "Oslo")),
    ],
    [
        *(entity("person", "ADA BELL"), entity("organization", "Sample Institute"), entity("location", "Oslo")),
        relation("works for", "ADA BELL", "Sample Institute"),
        relation("works for", "Carl Weiss", "Sample Institute"),
    ],
    [],
]


def output(
    path: Path, corpus: Path, records: list[Any], *, task: str = "ie", rows: range | None = None, **more: Any
) -> Path:
    """An output as `adapters extract` leaves it: of all rows of the corpus, or of the numbers of a shard."""
    ids = [json.loads(line).get("id") for line in corpus.read_text(encoding="utf-8").splitlines()]
    total, digest = survey(corpus)
    numbers = rows or range(1, total + 1)
    shard = f"{numbers.start}/{numbers.step}"
    settings = {"input": digest, "rows": total, "shard": shard, "task": {"use": task}, "text": "text", "keep": []}
    line = {"error": None, "tokens": 1, "completion": None}
    found = [{"row": n, "id": str(ids[n - 1] or n), "record": records[n - 1], **line} for n in numbers]
    if "normalized" in more:
        found = [{**row, "normalized": more["normalized"][row["row"] - 1]} for row in found]
    write_jsonl(path, found)
    properties = {"record": IeTask().record_schema(), "row": {}, "id": {}, "error": {}}
    counts = {"rows": len(found), "records": len(found), "empty": 0, "tokens": 1, "errors": {}}
    described = {"settings": settings, "paths": {}, "schema": {"properties": properties}}
    write_json(path.with_name(f"{path.name}.manifest.json"), {"complete": True, **described, "counts": counts})
    return path


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["graph", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", [{"id": i, "text": text} for i, text in TEXTS])


def made(tmp_path: Path, corpus: Path, *outs: Path, name: str = "g", more: tuple[object, ...] = ()) -> Path:
    code, said = invoke(*outs, "--corpus", corpus, "-o", tmp_path / name, *more)
    assert code == 0, said
    return tmp_path / name


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def of(edge: dict[str, str], *names: str) -> tuple[str, ...]:
    return tuple(edge[name] for name in names)


def small(
    tmp_path: Path, text: str, record: Any, **more: Any
) -> tuple[list[dict[str, str]], list[dict[str, str]], Any]:
    """Nodes, edges and folder of a graph of one text with one record."""
    corpus = write_jsonl(tmp_path / "one.jsonl", [{"id": "t", "text": text, **more}])
    folder = made(tmp_path, corpus, output(tmp_path / "one.out.jsonl", corpus, [record]), name="one")
    return table(folder / "nodes.csv"), table(folder / "edges.csv"), folder


# ------------------------------------------------------------------------------------------------------------- vector


def test_the_vector(tmp_path: Path, corpus: Path) -> None:
    folder = made(tmp_path, corpus, output(tmp_path / "out.jsonl", corpus, RECORDS))
    nodes, edges = table(folder / "nodes.csv"), table(folder / "edges.csv")
    entities = [of(n, "id:ID", "type", "name", "aliases:string[]", "mentions:int") for n in nodes[:4]]
    assert entities == [
        (CARL, "entity", "Carl Weiss", "Carl Weiss", "0"),
        (OSLO, "location", "Oslo", "Oslo", "2"),
        (SAMPLE, "organization", "Sample Institute", "Sample Institute", "2"),
        (ADA, "person", "Ada Bell", "Ada Bell;ADA BELL", "3"),
    ]
    assert [n["name"] for n in nodes[4:]] == ["d1", "d2", "d3"]
    assert nodes[4]["id:ID"] == "d38774597b725d625"
    by_id = {edge["id"]: edge for edge in edges}
    assert Counter(edge[":TYPE"] for edge in edges) == {"mentions": 7, "works for": 3, "lives in": 1}
    places = (
        "start:int",
        "end:int",
        "head_start:int",
        "head_end:int",
        "tail_start:int",
        "tail_end:int",
        "sentence:int",
    )
    wanted = {
        "e2919fcf0f548ecf7": ("0", "8", "", "", "", "", "0"),
        "e9ee0058aaa5e11f9": ("", "", "0", "8", "23", "39", "0"),
        "ebb6ee130d41f3fe5": ("", "", "41", "49", "59", "63", "1"),
        "e4fcc9f9addc5e83a": ("", "", "35", "43", "5", "21", "0"),
        "e1898314165a56f21": ("", "", "", "", "5", "21", ""),
    }
    assert {name: of(by_id[name], *places) for name in wanted} == wanted
    assert [edge["id"] for edge in edges if edge["found:boolean"] == "false"] == ["e1898314165a56f21"]
    assert by_id["ebb6ee130d41f3fe5"]["sentence_text"] == "Ada Bell lives in Oslo."
    support = {of(e, ":START_ID", ":END_ID"): e["support:int"] for e in edges if e[":TYPE"] == "works for"}
    assert support == {(ADA, SAMPLE): "2", (CARL, SAMPLE): "1"}
    counts = read_json(folder / "manifest.json")["counts"]
    assert (counts["documents"], counts["found"], counts["not_found"]) == (3, 10, 1)
    assert counts["merged_spellings"] == 1


def test_a_registry_merges_and_names_the_id(tmp_path: Path, corpus: Path) -> None:
    registry = write_jsonl(
        tmp_path / "registry.jsonl",
        [
            {"id": "10.13039/100000001", "name": "SAMPLE  institute", "aliases": ["Oslo"], "type": "organization"},
            *({"id": name, "name": "Ada Bell"} for name in ("a", "b")),
        ],
    )
    out = output(tmp_path / "out.jsonl", corpus, RECORDS)
    nodes = table(made(tmp_path, corpus, out, more=("--registry", registry)) / "nodes.csv")
    found = {n["name"]: (n["id:ID"], n["registry_id"]) for n in nodes if n[":LABEL"] == "Entity"}
    assert found["Sample Institute"] == ("n463ff5a717127338", "10.13039/100000001")
    assert found["Oslo"] == (OSLO, "")  # the type of the entry is another
    assert found["Ada Bell"] == (ADA, "")  # two ids fit


# -------------------------------------------------------------------------------------------------------------- files


def agree(folder: Path) -> None:
    """Three readers and the manifest tell of the same graph."""
    counts = read_json(folder / "manifest.json")["counts"]
    graph = networkx.read_graphml(folder / "graph.graphml", force_multigraph=True)
    assert isinstance(graph, networkx.MultiDiGraph)
    nodes, edges = table(folder / "nodes.csv"), table(folder / "edges.csv")
    assert graph.number_of_nodes() == len(nodes) == sum(counts["entities"].values()) + counts["documents"]
    assert graph.number_of_edges() == len(edges) == sum(counts["edges"].values())
    for node in nodes:
        data = graph.nodes[node["id:ID"]]
        names = ("label", ":LABEL"), ("type", "type"), ("name", "name"), ("aliases", "aliases:string[]")
        assert [data.get(a, "") for a, _ in names] == [node[b] for _, b in names]
    parallel = {key: (a, b, data) for a, b, key, data in graph.edges(keys=True, data=True)}
    rdf = rdflib.Graph().parse(folder / "graph.nt", format="nt")
    statements = set(rdf.subjects(RDF.type, RDF.Statement))
    assert {str(s).removeprefix("urn:extraction:") for s in statements} == {edge["id"] for edge in edges}
    for edge in edges:
        source, target, data = parallel[edge["id"]]
        assert of(edge, ":START_ID", ":END_ID", ":TYPE") == (source, target, data["type"])
        assert (edge["found:boolean"], edge["sentence_text"]) == (
            str(data["found"]).lower(),
            data.get("sentence_text", ""),
        )
        statement = rdflib.URIRef(f"urn:extraction:{edge['id']}")
        triple = tuple(rdf.value(statement, part) for part in (RDF.subject, RDF.predicate, RDF.object))
        assert triple in rdf
        assert str(triple[0]) == f"urn:extraction:{source}"
        assert str(rdf.value(statement, NIF.anchorOf) or "") == edge["sentence_text"]
        assert (rdf.value(statement, NIF.beginIndex) is not None) == (edge["found:boolean"] == "true")
    labels = {str(s).removeprefix("urn:extraction:"): str(o) for s, o in rdf.subject_objects(rdflib.RDFS.label)}
    assert labels == {node["id:ID"]: node["name"] for node in nodes}
    assert read_json(folder / "manifest.json")["files"] == {
        n: sha256(folder / n) for n in FILES if n != "manifest.json"
    }


def test_networkx_rdflib_the_tables_and_the_manifest_agree(tmp_path: Path, corpus: Path) -> None:
    agree(made(tmp_path, corpus, output(tmp_path / "out.jsonl", corpus, RECORDS)))


ODD = (
    *('Say "hi" & <go>', "two\nlines", "a\rb\tc", "\U0001f469\u200d\U0001f52c Lab", "n\0ul", "half \ud800 x", "a;b"),
    *(
        "\ufffe x",
        "back\\slash",
        "comma, too",
        "' quoted '",
        "next\x85line",
        "]]> end",
        "=1+1",
        "\u202eright",
        "e\u0301",
    ),
    *("\N{KELVIN SIGN} 5", "Straße", "\ufb01le", "x" * 5000),
)


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_an_odd_name_is_found_and_read_back(tmp_path: Path, name: str) -> None:
    record = [entity(name, name), relation(name, name, "Oslo"), entity("place", "Oslo")]
    nodes, edges, folder = small(tmp_path, f"In Oslo, {name} was. Then nothing.", record)
    agree(folder)
    plain = "".join("\ufffd" if c in "\0\ud800\ufffe" else c for c in name)
    assert plain in [node["name"] for node in nodes]
    found = [edge for edge in edges if edge[":TYPE"] == plain]
    assert [edge["found:boolean"] for edge in found] == ["true"]
    assert of(found[0], "head_start:int", "head_end:int") == ("9", str(9 + len(name)))


@pytest.mark.parametrize("name", [" .,;:!?\"' ", "", "\u3000"], ids=ascii)
def test_a_name_of_punctuation_alone_is_left_out_and_counted(tmp_path: Path, name: str) -> None:
    record = [entity("x", name), relation("r", "Oslo", name), entity("place", "Oslo")]
    nodes, _, folder = small(tmp_path, "Oslo.", record)
    assert [node["name"] for node in nodes] == ["Oslo", "t"]
    assert read_json(folder / "manifest.json")["counts"]["empty_names"] == 2


def test_a_graph_of_nothing(tmp_path: Path, corpus: Path) -> None:
    folder = made(tmp_path, corpus, output(tmp_path / "out.jsonl", corpus, [[], None, []]))
    agree(folder)
    assert [n["name"] for n in table(folder / "nodes.csv")] == ["d1", "d2", "d3"]
    assert table(folder / "edges.csv") == []


def test_two_runs_and_shards_give_the_same_bytes(tmp_path: Path, corpus: Path) -> None:
    whole = output(tmp_path / "out.jsonl", corpus, RECORDS)
    shards = [output(tmp_path / f"{n}.jsonl", corpus, RECORDS, rows=range(n, 4, 2)) for n in (1, 2)]
    merge(shards, tmp_path / "merged.jsonl")
    folders = [
        made(tmp_path, corpus, *outs, name=f"g{n}")
        for n, outs in enumerate([[whole], [whole], shards, shards[::-1], [tmp_path / "merged.jsonl"]])
    ]
    for file in FILES:
        first, *others = [sha256(folder / file) for folder in folders]
        assert set(others) == {first}, file
    assert sorted(p.name for p in folders[0].iterdir()) == FILES


def test_entities_of_one_output_and_relations_of_another(tmp_path: Path, corpus: Path) -> None:
    apart = [[[item for item in record if (item["text"] is None) == is_relation] for record in RECORDS]
             for is_relation in (False, True)]  # fmt: skip
    outs = [output(tmp_path / f"{n}.jsonl", corpus, records) for n, records in enumerate(apart)]
    for out in outs:  # two adapters
        manifest = read_json(Path(f"{out}.manifest.json"))
        manifest["settings"]["adapter"] = out.name
        write_json(Path(f"{out}.manifest.json"), manifest)
    one = made(tmp_path, corpus, output(tmp_path / "all.jsonl", corpus, RECORDS), name="one")
    two = made(tmp_path, corpus, *outs, name="two")
    assert table(one / "edges.csv") == table(two / "edges.csv")
    assert table(one / "nodes.csv") == table(two / "nodes.csv")


def test_options_choose_files_and_edges(tmp_path: Path, corpus: Path) -> None:
    out = output(tmp_path / "out.jsonl", corpus, RECORDS)
    more = ("--formats", "csv,ntriples", "--found-only", "--no-mentions", "--base-iri", "https://example.org/a%20b/")
    folder = made(tmp_path, corpus, out, more=more)
    assert sorted(p.name for p in folder.iterdir()) == ["edges.csv", "graph.nt", "manifest.json", "nodes.csv"]
    assert [of(e, ":TYPE", "document") for e in table(folder / "edges.csv")] == [
        *(("works for", "d1"), ("lives in", "d1"), ("works for", "d2"))
    ]
    assert "Carl Weiss" not in {n["name"] for n in table(folder / "nodes.csv")}
    counts = read_json(folder / "manifest.json")["counts"]
    assert (counts["found"], counts["not_found"]) == (3, 1)
    rdf = rdflib.Graph().parse(folder / "graph.nt", format="nt")
    works = rdflib.URIRef("https://example.org/a%20b/relation/works%20for")
    assert len(list(rdf.triples((None, works, None)))) == 1  # once, for both documents


def test_outputs_of_extract_in_jsonl_and_parquet(tmp_path: Path) -> None:
    rows = ie_rows(12)
    known = echo_adapter(tmp_path / "bundle", rows, {"use": "ie", "target": "compact", "missing_answer": "whole"})
    corpus = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([{k: row[k] for k in ("id", "text", "schema")} for row in rows]), corpus)
    for name, more in (("a.jsonl", ()), ("b.parquet", ()), ("1.parquet", ("1/2",)), ("2.parquet", ("2/2",))):
        extracted = [known, corpus, "-o", tmp_path / name, *(word for share in more for word in ("--shard", share))]
        assert extract(*extracted)[0] == 0
    outs = [["a.jsonl"], ["b.parquet"], ["1.parquet", "2.parquet"]]
    folders = [made(tmp_path, corpus, *(tmp_path / out for out in names), name=f"g{n}") for n, names in enumerate(outs)]
    agree(folders[0])
    for file in FILES:
        digests = [sha256(folder / file) for folder in folders]
        assert len({*digests[1:]}) == 1, file
        assert file == "manifest.json" or digests[0] == digests[1], file
    found = {(n["type"], alias) for n in table(folders[0] / "nodes.csv") for alias in n["aliases:string[]"].split(";")}
    assert {(label, text) for row in rows for label, texts in row["gold"].items() for text in texts} <= found


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
        tracemalloc.start()
        try:
            build(documents, tmp_path / str(count), Options())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1100)  # loads modules, and fills what remembers names
    assert peak(3300) < 1.2 * peak(1100)
