"""A graph of extracted records: documents/s and peak memory of `adapters graph`, beside networkx.

    python scripts/bench/bench_graph.py [-n 10000 100000] [--peer 10000] [--formats graphml]

The corpus is made up: each document has 3 entities of 4 types and 2 relations; a thousand names come again and again,
as many as a third of the documents have names of their own. Each size has a process of its own, whose peak memory is
read from /proc/self/status (VmHWM), as ru_maxrss of a child begins at its parent's. networkx gets the same edges from
the same reader, holds the graph, and writes GraphML alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import benchmarks

from adapters.data.rows import survey
from adapters.files import write_json, write_jsonl

TYPES = ("person", "organization", "location", "thing")
START = """
import json, sys, time
from pathlib import Path
from adapters.extraction import graph_source
corpus, out, folder, formats = sys.argv[1:]
start, work = time.perf_counter(), time.process_time()
source = graph_source.prepare([Path(out)], Path(corpus), text=None, registry=None)
documents = source.documents(lambda *_: None)
"""
OURS = (
    START
    + """
from adapters.graph.build import Options, build
build(documents, Path(folder), Options(tuple(formats.split(","))), None, source.described)
"""
)
PEER = (
    START
    + """
import networkx
from adapters.graph.elements import document_id
from adapters.graph.facts import Reader
graph = networkx.MultiDiGraph()
reader = Reader(None, found_only=False, mentions=True)
for document in documents:
    identity = document_id(document.id)
    graph.add_node(identity, label="Document", name=document.id)
    for edge in reader.edges(document, identity, document.id):
        data = {name: value for name, value in edge._asdict().items() if value is not None and name != "id"}
        graph.add_edge(edge.source, edge.target, edge.id, **data)
    for (key, kind, text), mentions in reader.spellings.items():
        graph.add_node(key.id, label="Entity", type=kind, name=text)
Path(folder).mkdir()
networkx.write_graphml(graph, Path(folder) / "graph.graphml")
"""
)
END = """
seconds, work = time.perf_counter() - start, time.process_time() - work
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
size = sum(path.stat().st_size for path in Path(folder).iterdir())
print(json.dumps({"seconds": seconds, "work": work, "peak_mb": int(peak) / 1000, "size_mb": size / 1e6}))
"""


def make(folder: Path, count: int) -> tuple[Path, Path]:
    """A corpus and its records."""
    rng = random.Random(1)
    corpus, out = folder / f"{count}.jsonl", folder / f"{count}.out.jsonl"

    def name(n: int) -> str:
        return f"Name{rng.randrange(1000)} {'Alpha' if rng.random() < 0.67 else f'Own{n}'}"

    def document(n: int) -> tuple[str, list[dict[str, str | None]]]:
        a, b, c = (name(3 * n + k) for k in range(3))
        text = (
            f"{a} has worked for {b} since last year. In the autumn both went to {c}, says {a}. Nothing else is known."
        )
        kinds = [rng.choice(TYPES) for _ in range(3)]
        record: list[dict[str, str | None]] = [
            {"label": kind, "text": own, "head": None, "tail": None}
            for kind, own in dict(zip(kinds, (a, b, c), strict=False)).items()
        ]
        record += [{"label": label, "text": None, "head": a, "tail": tail} for label, tail in (("for", b), ("in", c))]
        return text, record

    made = (document(n) for n in range(1, count + 1))
    records = out.with_suffix(".tmp")
    with records.open("w") as file:

        def rows():  # type: ignore[no-untyped-def]
            for n, (text, record) in enumerate(made, 1):
                file.write(json.dumps({"row": n, "id": f"d{n}", "record": record, "error": None}) + "\n")
                yield {"id": f"d{n}", "text": text}

        write_jsonl(corpus, rows())
    records.rename(out)
    total, digest = survey(corpus)
    settings = {"input": digest, "rows": total, "shard": "1/1", "task": {"use": "ie"}, "text": "text", "keep": []}
    write_json(out.with_name(f"{out.name}.manifest.json"), {"complete": True, "settings": settings, "counts": {}})
    return corpus, out


def measure(script: str, corpus: Path, out: Path, folder: Path, formats: str) -> dict[str, float]:
    """Seconds, peak memory and size of the files, of a process of its own."""
    arguments = [sys.executable, "-c", script + END, *map(str, (corpus, out, folder)), formats]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("-n", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument("--peer", type=int, default=10_000, help="documents for networkx; 0: it does not run")
    arguments.add_argument("--formats", nargs="+", default=["graphml", "graphml,ntriples,csv"])
    options = arguments.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in options.n:
            corpus, out = make(folder, count)
            contenders = [("adapters graph", formats, OURS) for formats in options.formats]
            contenders += [("networkx", "graphml", PEER)] * (count == options.peer)
            for k, (who, formats, script) in enumerate(contenders):
                found = measure(script, corpus, out, folder / f"{count}-{k}", formats)
                figures = (count / found["seconds"], count / found["work"], found["peak_mb"], found["size_mb"])
                lines.append((who, formats, f"{count:,}", *(f"{figure:,.0f}" for figure in figures)))
    benchmarks.markdown(
        "3 entities and 2 relations in each document",
        ("", "files", "documents", "documents/s", "in CPU time", "peak MB", "MB written"),
        lines,
    )
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
