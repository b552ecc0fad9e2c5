"""`adapters score` and the verbs of `adapters data` that make rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.in_parts import ClusterOptions, Where
from adapters.cli.options import AsJson, MaxTokens, OutFile, Params, Seed, Server, TaskName, Temperature, grouped
from adapters.errors import UserError
from adapters.files import write_jsonl, write_text

if TYPE_CHECKING:
    from adapters.types import Message, Row

app = Typer()
data_app = Typer(help="Make, convert, mix and measure data files.")
SCORERS = {"published": "published", "corrected": "corrected", "compatible": "published", "fixed": "corrected"}
"""The scorers of the funding task, by their present and their old names."""


@app.command()
@errors()
def score(
    predictions: Annotated[Path, Argument(help="JSONL: id and completion (raw text).")],
    gold: Annotated[Path, Argument(help="Rows with labels and the same ids.")],
    task: TaskName = None,
    mode: Annotated[str | None, Option(help="One matching mode of the task: permissive, balanced, strict …")] = None,
    scorer: Annotated[str | None, Option(help="Funding: published (the default) or corrected.")] = None,
    params: Params = None,
    as_json: AsJson = False,
) -> None:
    """Score a file of completions against a file of gold, without a model."""
    from adapters.console import console
    from adapters.data.task_of_file import task_of_file
    from adapters.evaluation import score_files
    from adapters.recipe.load import parse_assignments

    if scorer and scorer not in SCORERS:
        raise UserError(f"--scorer is published or corrected, not {scorer!r}.")
    values = parse_assignments(params or []) | ({"scorer": SCORERS[scorer]} if scorer else {})
    task = task_of_file(gold, task)
    result, warnings = score_files.score_files(predictions, gold, task=task, mode=mode, params=values)
    for warning in warnings:
        console(stderr=True).print(f"warning: {warning}", style="yellow")
    if as_json:
        print(json.dumps(result))
    else:
        console().print(*score_files.tables(result, predictions.name), sep="\n")


@data_app.command()
@grouped
@errors()
def synthesize(
    server: Server,
    source: Annotated[str, Argument(metavar="KIND", help="funding, agent, agent_pairs …")],
    n: Annotated[int, Option("-n", min=1, help="How many rows.")] = 1000,
    seed: Seed = 0,
    out: OutFile = None,
    temperature: Temperature = 0.8,
    max_tokens: MaxTokens = 2048,
    as_json: AsJson = False,
) -> None:
    """Make labelled training rows.

    With --endpoint a language model writes the text of each row (funding only); a text is kept if the labels are exact
    in it. Its completions are kept in OUT.samples.jsonl: started again, or with a larger -n, the same command asks only
    for those that are missing.
    """
    from adapters.data.source_rows import read
    from adapters.recipe.fields import SynthesizedSource

    server.refuse_without_endpoint()
    rows: Iterable[Any] = (row for _, row in read(SynthesizedSource(synthesize=source, n=n, seed=seed), Path()))
    if server.endpoint is None:
        write_lines(rows, out)
        return
    if source != "funding":
        raise UserError(f"--endpoint: only funding statements can be written by a model, not {source}.")
    if out is None:
        raise UserError("--endpoint needs -o FILE; the model's completions are kept beside it.")
    from adapters.chat_client import sample
    from adapters.console import console, progress
    from adapters.data_aug.funding_statements import written

    connection, store = server.connect(), out.with_suffix(".samples.jsonl")
    with progress(f"asking {connection.model}") as bar:

        def ask(prompts: Mapping[str, tuple[Message, ...]]) -> list[Row]:
            return sample(connection, prompts, 1, store, bar, temperature=temperature, max_tokens=max_tokens)

        result = written.write(list(rows), ask)
    write_lines(result.rows, out)
    if as_json:
        print(json.dumps({"kept": len(result.rows), "refused": result.refused}))
    else:
        console().print(f"{out}: {result}", soft_wrap=True)
    if not result.rows:
        raise Exit(1)


@data_app.command()
@grouped
@errors()
def noise(
    file: Annotated[Path, Argument(help="A data file: .jsonl, .json, .csv, .tsv, .parquet, also .gz.")],
    cluster: ClusterOptions,
    use: Annotated[str, Option("--preset", help="ocr, latex, html, pdf, document, or a family.")] = "document",
    level: Annotated[str, Option(help="light, medium or heavy.")] = "medium",
    policy: Annotated[str, Option(help="protect, follow or clean.")] = "protect",
    n: Annotated[int, Option("-n", min=1, help="How many rows to show.")] = 5,
    out: Annotated[Path | None, Option("-o", "--out", help="Write the noisy rows here instead.")] = None,
    variants: Annotated[int, Option(min=1, help="Noisy variants of each row in OUT.")] = 1,
    seed: Seed = 0,
    task: TaskName = None,
    engine: Where = "local",
    fresh: Annotated[bool, Option("--fresh", help="With --engine ray: replace what OUT holds.")] = False,
) -> None:
    """Show what noise does to texts, or write a degraded test set."""
    from adapters.console import console
    from adapters.data import noise_files
    from adapters.data.task_of_file import task_of_file

    given: dict[str, Any] = {"use": use, "level": level, "policy": policy, "seed": seed, "variants": variants}
    cluster.refuse_without_ray(engine)
    if engine == "ray":
        _noised_in_parts(file, out, given, task, cluster, fresh=fresh)
        return
    task = task_of_file(file, task)
    rows = noise_files.noised(file, **given, task=task)
    if out is not None:
        if out.suffix != ".jsonl" or out.resolve() == file.resolve():
            raise UserError(f"-o {out}: the noisy rows go to another file, which ends in .jsonl.")
        count = write_lines((result.row for result in rows), out)
        console(stderr=True).print(f"{out}: {count:,} rows", soft_wrap=True)
        return
    for result, _ in zip(rows, range(n), strict=False):
        console().print(noise_files.before_and_after(result), end="\n\n")


def _noised_in_parts(
    file: Path, out: Path | None, given: dict[str, Any], task: str | None, cluster: ClusterOptions, *, fresh: bool
) -> None:
    from adapters.cluster.parts import shown
    from adapters.cluster.work import Noise, shared
    from adapters.console import console

    if out is None or cluster.part_format == "parquet":
        raise UserError("--engine ray: say with -o which folder the noisy rows go to; they are .jsonl.")

    counts = cluster.run(file, out, lambda _: Noise(given, task and shared(task)), fresh=fresh)
    console(stderr=True).print(f"{shown(out)}: {counts['rows']:,} rows in {counts['parts']:,} parts", soft_wrap=True)


def write_lines(rows: Iterable[Mapping[str, Any]], out: Path | None) -> int:
    """Rows as JSON lines to standard output, or to a file that appears whole or not at all. Returns how many."""
    if out is None:
        count = 0
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
            count += 1
        return count
    try:
        return write_jsonl(out, rows)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.") from None


def write_whole(out: Path, text: str) -> None:
    """Replace a file by a text. Raises UserError."""
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.") from None
