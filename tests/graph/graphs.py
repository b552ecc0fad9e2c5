"""Outputs and corpora of which graphs are made, and what is read of a graph."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import networkx
import rdflib
from typer.testing import CliRunner

from adapters.cli import main
from adapters.data.rows import survey
from adapters.files import read_json, sha256, write_json
from adapters.tasks.ie import IeTask

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
