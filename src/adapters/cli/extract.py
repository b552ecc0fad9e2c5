"""`adapters extract` and `adapters extract-merge`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adapters.cli.errors import errors
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer()
AsJson = Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")]


@app.command()
def extract(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_ADAPTER", help="A run, a stage, a bundle, or a Hub id.")],
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="The corpus: .jsonl, .csv or .parquet.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The records: .jsonl or .parquet.")],
    text: Annotated[str | None, typer.Option("--text", help="Column of the texts; default: as in training.")] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="A column to carry over; may be repeated.")] = None,
    shard: Annotated[str, typer.Option("--shard", help="i/n: only this machine's share of the rows.")] = "1/1",
    normalize: Annotated[bool, typer.Option("--normalize", help="Add tidy names and ids beside the record.")] = False,
    registry: Annotated[Path | None, typer.Option("--registry", help="JSONL of funders to match names with.")] = None,
    engine: Annotated[
        Literal["transformers", "vllm"], typer.Option("--engine", help="What runs the model here.")
    ] = "transformers",
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", help="Ask this OpenAI-compatible server instead, such as …/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model's name at the endpoint.")] = None,
    api_key_env: Annotated[str | None, typer.Option("--api-key-env", help="Variable with the endpoint's key.")] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests at a time.")] = 16,
    constrain: Annotated[
        bool, typer.Option("--constrain/--no-constrain", help="Allow only the task's JSON, if the engine can.")
    ] = True,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Default: 64 (GPU) or 32.")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = 2048,
    task: Annotated[str | None, typer.Option("--task", help="For an adapter that does not name its task.")] = None,
    params: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the task: schema=[person,place] for ie."),
    ] = None,
    base: Annotated[str | None, typer.Option("--base", help="Base model, when it lies elsewhere than named.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Of an adapter on the Hub.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Drop what OUT holds and start over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a finished adapter over a corpus. Started again, it continues where it stopped."""
    with errors() as state:
        if endpoint is None and (given := _given(model=model, api_key_env=api_key_env)):
            raise UserError(f"{given} is for an --endpoint.")
        from adapters.console import console, phase, progress, quiet
        from adapters.extraction import adapter_source, engines
        from adapters.extraction.engine import Engine, Options
        from adapters.extraction.extract import finished, open_or_resume, prepare, run
        from adapters.recipe import load

        screen = console(stderr=True)
        name = "endpoint" if endpoint else engine
        found = adapter_source.find(
            source, task=task, base=base, revision=revision, params=load.parse_assignments(params or [])
        )
        settings = {"engine": name, "endpoint": endpoint, "max_new_tokens": max_new_tokens, "constrain": constrain}
        work = prepare(
            found,
            input,
            out,
            text=text,
            keep=keep or (),
            shard=shard,
            normalise=normalize,
            registry=registry,
            engine=settings,
        )
        options = Options(max_new_tokens, batch_size, constrain, endpoint, model, api_key_env, concurrency)
        with open_or_resume(work, fresh=fresh):
            counts = finished(work)
            if counts is not None:
                screen.print(f"{out} is complete already; --fresh would do it again.", soft_wrap=True)
            else:
                state.log = out.with_name(f"{out.name}.log")
                with quiet(state.log), progress(out.name, "starting the engine") as moved:

                    def start() -> Engine:
                        made = engines.make(
                            name,
                            found,
                            options,
                            lambda note: console(stderr=True).print(f"note: {note}", soft_wrap=True),
                        )
                        phase("extracting")
                        return made

                    counts = run(work, start, moved)
        _say(screen, out, counts, as_json)


@app.command("extract-merge")
def extract_merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART…", help="The outputs of all shards.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The whole: .jsonl or .parquet.")],
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace OUT.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge the outputs of all shards into one, in the order of the input, if nothing is missing."""
    from adapters.console import console
    from adapters.extraction import merge_shards

    with errors():
        _say(console(stderr=True), out, merge_shards.merge(parts, out, fresh=fresh), as_json)


def _given(**options: Any) -> str | None:
    return next((f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None), None)


def _say(screen: Console, out: Path, counts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(counts))
        return
    failed = counts["rows"] - counts["records"]
    lines = [f"{out}: {counts['rows']:,} rows, {counts['records']:,} records ({counts['empty']:,} of them empty)"]
    if failed:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts["errors"].items())
        lines.append(f"{failed:,} rows have no record, and say why in `error`: {kinds}")
    if counts.get("rows_per_second"):
        again = f" ({counts['resumed']:,} rows were there before)" if counts["resumed"] else ""
        lines.append(f"{counts['seconds']:,.0f} s, {counts['rows_per_second']:,.1f} rows/s{again}")
    for line in lines:
        screen.print(line, soft_wrap=True)
