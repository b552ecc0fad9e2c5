"""`adapters graph`: what extractions found, as a graph in files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.options import AsJson, grouped

if TYPE_CHECKING:
    from rich.console import Console

app = Typer()


@dataclass(frozen=True)
class GraphOptions:
    """The options about what the graph has."""

    formats: Annotated[str, Option(metavar="NAMES", help="Which files to write.")] = "graphml,ntriples,csv"
    base_iri: Annotated[str, Option(metavar="IRI", help="Start of all IRIs in graph.nt.")] = "urn:extraction:"
    registry: Annotated[Path | None, Option(help="JSONL of id, name, aliases, type: one id is one node.")] = None
    found_only: Annotated[bool, Option("--found-only", help="Leave out edges that stand nowhere in the text.")] = False
    no_mentions: Annotated[bool, Option("--no-mentions", help="Leave out the edges from documents.")] = False


@app.command()
@grouped
def graph(
    outs: Annotated[
        list[Path], Argument(metavar="OUT…", help="Finished outputs of `extract` or `mine` over one corpus.")
    ],
    folder: Annotated[Path, Option("-o", "--out", metavar="FOLDER", help="Where the graph's files go.")],
    corpus: Annotated[Path, Option(help="The corpus that the outputs were made from.")],
    options: GraphOptions,
    text: Annotated[str | None, Option(help="Column of the texts; default: as in the outputs.")] = None,
    fresh: Annotated[bool, Option("--fresh", help="Replace the graph that FOLDER holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a knowledge graph of extracted records: GraphML, N-Triples, CSV for Neo4j.

    Every edge says in which document it was found, and where.
    """
    with errors():
        from adapters.console import console, progress
        from adapters.extraction import graph_source
        from adapters.graph.build import Options, build, check_folder

        formats = tuple(name.strip() for name in options.formats.split(","))
        wanted = Options(formats, options.base_iri, options.found_only, not options.no_mentions)
        check_folder(folder, fresh=fresh)
        source = graph_source.prepare(outs, corpus, text=text, registry=options.registry)
        registry = graph_source.read_registry(options.registry) if options.registry else None
        with progress(folder.name, "reading records") as bar:
            counts = build(source.documents(bar), folder, wanted, registry, source.described)
        if as_json:
            print(json.dumps(counts))
        else:
            _print_counts(console(stderr=True), folder, counts)


def _print_counts(screen: Console, folder: Path, counts: Mapping[str, Any]) -> None:
    entities, edges = counts["entities"], counts["edges"]
    lines = [f"{folder}: {counts['documents']:,} documents, {sum(entities.values()):,} entities, "]
    lines[0] += f"{sum(edges.values()):,} edges ({counts['not_found']:,} not found in their text)"
    lines += [f"{what}: {_listed(kinds)}" for what, kinds in (("entities", entities), ("edges", edges)) if kinds]
    if counts["repeated_ids"]:
        lines.append(f"{counts['repeated_ids']:,} documents have the id of an earlier one, and were named ID#ROW")
    if counts["empty_names"]:
        lines.append(f"left out: names of punctuation and white space alone: {counts['empty_names']:,}")
    screen.print("\n".join(lines), soft_wrap=True)


def _listed(counts: Mapping[str, int], most: int = 12) -> str:
    largest = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{n:,} {name}" for name, n in largest) + (" …" if len(counts) > most else "")
