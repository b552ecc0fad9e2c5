"""`adapters extract` and `adapters data merge-shards`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option, Typer

from adapters.cli.data import data_app
from adapters.cli.errors import errors
from adapters.cli.in_parts import ClusterOptions, refuse_shard
from adapters.cli.options import (
    AsJson,
    Fresh,
    HowConstrained,
    MaxTokens,
    Params,
    Server,
    Trust,
    grouped,
    plugin_consent,
)
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from adapters.extraction.adapter_source import Source
    from adapters.extraction.chunks import Cutter
    from adapters.extraction.session import Session
    from adapters.plugins.trust import Consent

app = Typer()


@dataclass(frozen=True)
class CorpusOptions:
    """The options about the corpus and its columns."""

    documents: Annotated[
        Literal["jats", "tei", "pdf", "text"] | None,
        Option("--from", help="INPUT is a document or a folder of them; default: guessed, where it is certain."),
    ] = None
    text: Annotated[str | None, Option(help="Column of the texts; default: as in training.")] = None
    keep: Annotated[list[str] | None, Option(help="A column to carry over; may be repeated.")] = None
    shard: Annotated[str, Option(metavar="I/N", help="Only this share of the rows.")] = "1/1"
    normalise: Annotated[bool, Option("--normalize", help="Add normalized names and ids beside the record.")] = False
    registry: Annotated[Path | None, Option(help="Funders to match names with: ROR, Funder Registry, JSONL.")] = None
    grounded: Annotated[
        Literal["strict", "flag", "off"], Option(help="Refuse, or flag, a record that says more than the text.")
    ] = "flag"
    min_confidence: Annotated[
        float | None, Option(metavar="P", min=0, max=1, help="Leave out values that are less sure: `calibrate` first.")
    ] = None


@dataclass(frozen=True)
class AdapterOptions:
    """The options that complete what an adapter's folder says about it."""

    task: Annotated[str | None, Option(help="For an adapter that does not name its task.")] = None
    params: Params = None
    base: Annotated[str | None, Option(help="Base model, if it is not where the adapter says.")] = None
    revision: Annotated[str | None, Option(help="Of an adapter on the Hub.")] = None

    def find(self, source: str, consent: Consent, *, any_task: bool = False) -> Source:
        """The adapter, of a task that extracts unless `any_task`. Raises UserError, and Refused without consent."""
        from adapters.extraction import adapter_source

        find = adapter_source.find_any if any_task else adapter_source.find
        return find(source, **self.as_found, consent=consent)

    @property
    def as_found(self) -> dict[str, Any]:
        """The options as `adapter_source.find` takes them. Raises UserError."""
        from adapters.recipe.load import parse_assignments

        return {**vars(self), "params": parse_assignments(self.params or [])}


@dataclass(frozen=True)
class PickOptions:
    """The options that answer a row several times."""

    samples: Annotated[int, Option(min=1, help="Answer each row so often, and pick one answer.")] = 1
    pick: Annotated[
        Literal["vote", "likelihood"], Option(help="The answer that agrees most with the others, or the likeliest.")
    ] = "vote"
    temperature: Annotated[float, Option(metavar="X", min=0, help="Of all samples but the first.")] = 0.8

    def checked(self) -> dict[str, Any]:
        """The options by name. Raises UserError for samples that are all alike, and for options without samples."""
        if self.samples > 1 and self.temperature < 0.01:
            raise UserError("--temperature 0 gives the same answer each time; raise it, or leave --samples out.")
        if self.samples == 1 and self.temperature != PickOptions.temperature:
            raise UserError("--temperature is that of --samples; a single answer is the likeliest one.")
        if self.samples == 1 and self.pick != PickOptions.pick:
            raise UserError(f"--pick {self.pick} chooses among --samples, of which there is one; give --samples 8.")
        return vars(self)


@dataclass(frozen=True)
class LongTextOptions:
    """The options about texts that are asked about in parts."""

    window: Annotated[
        int | None, Option(metavar="TOKENS", min=16, help="Cut longer texts; default: what the context can hold.")
    ] = None
    passes: Annotated[int, Option(min=1, max=4, help="Read texts again in smaller windows, to find more.")] = 1


@app.command()
@grouped
def extract(
    source: Annotated[str, Argument(metavar="ADAPTER", help="A run, a stage, a bundle, or a Hub id.")],
    corpus: CorpusOptions,
    adapter: AdapterOptions,
    picks: PickOptions,
    long_texts: LongTextOptions,
    server: Server,
    cluster: ClusterOptions,
    input: Annotated[
        Path | None,
        Argument(help="The corpus: .jsonl, .json, .csv, .tsv, .parquet, also .gz; documents; - for standard input."),
    ] = None,
    out: Annotated[
        Path | None, Option("-o", "--out", help="The records: .jsonl or .parquet; - for standard output.")
    ] = None,
    one: Annotated[str | None, Option("--input", metavar="TEXT", help="One text, in the place of INPUT.")] = None,
    engine: Annotated[
        Literal["transformers", "vllm", "ray"],
        Option(help="What runs the model locally; ray: on many machines, from and to folders, s3://, gs:// …."),
    ] = "transformers",
    constrain: HowConstrained = None,
    batch_size: Annotated[int | None, Option(min=1, help="Default: 64 on a GPU, 32 without.")] = None,
    max_tokens: MaxTokens = 2048,
    fresh: Fresh = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Run a finished adapter over a corpus. Started again, it continues where it stopped."""
    with errors() as state:
        server.refuse_without_endpoint()
        cluster.refuse_without_ray(engine)
        from adapters.cli.resuming import filled
        from adapters.console import console, note, phase
        from adapters.extraction import documents
        from adapters.extraction.confidence import stored
        from adapters.extraction.engine import Engine, Options
        from adapters.extraction.extract import prepare, run
        from adapters.extraction.session import Session

        if (input is None) == (one is None):
            raise UserError("give a corpus (INPUT), - for standard input, or one text with --input.")
        model = adapter.find(source, plugin_consent(trust))
        options = Options(max_tokens, batch_size, constrain, **vars(server))
        if engine == "ray":
            from adapters.cluster.work import Extraction, shared

            if input is None or out is None or "-" in (str(input), str(out)) or server.endpoint or corpus.documents:
                what = "a corpus in files (INPUT) and a folder for the records (-o OUT), without --endpoint and --from"
                raise UserError(f"--engine ray: give {what}.")
            refuse_shard(corpus.shard)
            columns = {name: getattr(corpus, name) for name in ("text", "normalise", "registry", "grounded")}
            columns |= {"keep": tuple(corpus.keep or ()), "registry": corpus.registry and corpus.registry.resolve()}
            places = {k: shared(v) if k in ("base", "task") and v else v for k, v in adapter.as_found.items()}
            told = options, picks.checked(), vars(long_texts), columns, corpus.min_confidence

            def make(fits: str) -> Extraction:
                own = "transformers" if model.tags_words else fits
                return Extraction(shared(source), model.weights, places, own, *told)

            counts = cluster.run(input, out, make, gpus=True, fresh=fresh)
            print_counts(console(stderr=True), out, counts, as_json)
            return
        session = Session.open(model, engine, options, **picks.checked())
        cutter = session.cutter(**vars(long_texts))
        if input is None or out is None or "-" in (str(input), str(out)):
            if as_json:
                raise UserError("--json prints the counts of a corpus; here every line is JSON already.")
            _stream(session, cutter, corpus, one, input, out, fresh=fresh)
            return
        given = {**vars(corpus), "keep": corpus.keep or ()}
        sure = session.confidence(given.pop("min_confidence"), grounded=corpus.grounded != "off")
        if sure is None and (ways := stored(model.adapter, model.weights)):
            note(
                f"no confidence: the adapter was calibrated for {', '.join(ways)}, and these answers are {session.way}."
            )
        made = documents.corpus(input, out, corpus.text or model.task.text_field, given.pop("documents"), fresh=fresh)
        given["keep"] = (*made.keep, *given["keep"])
        work = prepare(model, made.path, out, **given, sure=sure, engine={**session.of_corpus(cutter), **made.settings})

        def start() -> Engine:
            loaded = session.start(note, scored=sure is not None)
            phase("extracting")
            return loaded

        counts = filled(work, state, lambda bar: run(work, start, bar, cutter), fresh=fresh)
        print_counts(console(stderr=True), out, counts, as_json)


def _stream(
    session: Session,
    cutter: Cutter,
    corpus: CorpusOptions,
    one: str | None,
    input: Path | None,
    out: Path | None,
    *,
    fresh: bool,
) -> None:
    """Extract from one text or standard input, or to standard output: nothing is kept to continue from."""
    from adapters.data.formats import documents
    from adapters.extraction.extractor import Extractor, rows_of_lines

    if one is not None and not one.strip():
        raise UserError("--input holds no text.")
    if one == "-":
        raise UserError("--input takes a text. Standard input is named by - alone: adapters extract ADAPTER -")
    given = vars(corpus)
    options = {"documents": "--from", "keep": "--keep", "shard": "--shard"}
    if used := [text for name, text in options.items() if given[name] != getattr(CorpusOptions, name)]:
        raise UserError(f"{used[0]} is for a corpus in a file and records in a file: INPUT and -o OUT.jsonl.")
    if out is None and one is None and str(input) != "-":
        raise UserError("say where the records go: -o OUT.jsonl, or -o - for standard output.")
    columns = {name: given[name] for name in ("text", "normalise", "registry", "grounded")}
    columns["sure"] = session.confidence(corpus.min_confidence, grounded=corpus.grounded != "off")
    extractor = Extractor(session, cutter, columns)
    if one is None and str(input) != "-" and documents.is_documents(Path(str(input))):
        raise UserError(f"{input} holds documents, whose sections are kept beside the records: give -o OUT.jsonl.")
    texts = [one] if one is not None else rows_of_lines(sys.stdin.buffer if str(input) == "-" else Path(str(input)))
    extractor.write(texts, None if str(out) == "-" else out, fresh=fresh)


@app.command()
@errors()
def export(
    source: Annotated[Path, Argument(metavar="RECORDS", help="A finished output of extract, of the task funding.")],
    form: Annotated[Literal["crossref", "datacite"], Option("--as", help="Who the deposit is for.")],
    out: Annotated[Path, Option("-o", "--out", help="The deposit: .xml for Crossref, .jsonl for DataCite.")],
    doi: Annotated[str, Option(metavar="COLUMN", help="Column of the works' DOIs.")] = "doi",
    registry: Annotated[Path | None, Option(help="Funders to match names with: ROR, Funder Registry, JSONL.")] = None,
    depositor: Annotated[str | None, Option(help="Crossref: who deposits.")] = None,
    email: Annotated[str | None, Option(metavar="ADDRESS", help="Crossref: where its report goes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a deposit of extracted funders: Crossref funding data, or DataCite funding references."""
    from adapters.console import console
    from adapters.extraction import deposits

    counts = deposits.write(source, out, form, doi=doi, registry=registry, depositor=depositor, email=email)
    if as_json:
        print(json.dumps(counts))
        return
    screen = console(stderr=True)
    screen.print(f"{out}: {counts['works']:,} works, {counts['funders']:,} funders", soft_wrap=True)
    for what, n in counts.items():
        if n and "without" in what:
            screen.print(f"left out: {what}: {n:,}", soft_wrap=True)


@data_app.command("merge-shards")
@errors()
def merge_shards(
    parts: Annotated[list[Path], Argument(metavar="PART", help="The outputs of all shards.")],
    out: Annotated[Path, Option("-o", "--out", help="The whole: .jsonl or .parquet.")],
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Merge the outputs of all shards of `adapters extract`, in the order of the input, if nothing is missing."""
    from adapters.console import console
    from adapters.extraction.merge_shards import merge

    print_counts(console(stderr=True), out, merge(parts, out, fresh=fresh), as_json)


def print_counts(screen: Console, out: Path, counts: Mapping[str, Any], as_json: bool) -> None:
    """Print what became of the rows of an extraction."""
    if as_json:
        print(json.dumps(counts))
        return
    from adapters.cluster.parts import shown

    of_all = f"{counts['rows']:,} rows, {counts['records']:,} records ({counts['empty']:,} of them empty)"
    lines = [f"{shown(out)}: {of_all}"]
    if matches := counts.get("matches"):
        lines.append(f"strings in the text: {', '.join(f'{n:,} {kind}' for kind, n in matches.items())}")
    if counts.get("cut"):
        asked = f"{counts['chunks']:,} prompts in all, {counts['tokens']:,} tokens of answers"
        lines.append(f"{counts['cut']:,} rows were asked about in parts; {asked}")
    if incomplete := counts["errors"].get("incomplete"):
        lines.append(f"{incomplete:,} rows have a record of some of their parts, and say in `error` which have none")
    if "unsure" in counts:
        lines.append(f"left out as unsure: {counts['unsure']:,} values, which stand in `unsure`")
    if failed := counts["rows"] - counts["records"]:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts["errors"].items() if kind != "incomplete")
        lines.append(f"{failed:,} rows have no record, and say why in `error`: {kinds}")
    if counts.get("rows_per_second"):
        resumed = f" ({counts['resumed']:,} rows were there before)" if counts["resumed"] else ""
        lines.append(f"{counts['seconds']:,.0f} s, {counts['rows_per_second']:,.1f} rows/s{resumed}")
    screen.print("\n".join(lines), soft_wrap=True)
