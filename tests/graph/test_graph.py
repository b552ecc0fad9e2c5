"""A graph of extracted records: the published vector, files that other readers agree about, provenance, odd names."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rdflib
from graphs import (
    ADA,
    CARL,
    FILES,
    OSLO,
    RECORDS,
    SAMPLE,
    agree,
    entity,
    made,
    of,
    output,
    relation,
    small,
    table,
    write_jsonl,
)
from test_ie_extract import echo_adapter
from test_ie_extract import invoke as extract
from tiny import ie_rows

from adapters.extraction.merge_shards import merge
from adapters.files import read_json, sha256, write_json

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
