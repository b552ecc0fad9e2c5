"""The verbs that need no model: scoring files and making data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.exits import errors
from adapters.types import UserError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
app = typer.Typer()


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="JSONL: id and completion (the raw text).")],
    gold: Annotated[Path, typer.Argument(help="JSONL: gold rows with the same ids.")],
    task: Annotated[str, typer.Option("--task", help="The task that counts.")] = "funding",
    mode: Annotated[
        str | None, typer.Option("--mode", help="One matching mode of the task: permissive, balanced, strict …")
    ] = None,
    reading: Annotated[
        str | None,
        typer.Option("--reading", help="funding: compatible (as the published harness; the default) or fixed."),
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the task, as in a recipe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a file of completions against a file of gold, without a model."""
    from adapters import display, recipe_file, scoring

    with errors():
        chosen = recipe_file.settings(params or [])
        result, warnings = scoring.score_files(predictions, gold, task=task, mode=mode, reading=reading, params=chosen)
        for warning in warnings:
            display.console(stderr=True).print(f"warning: {warning}", style="yellow")
        if as_json:
            print(json.dumps(result))
        else:
            for table in scoring.tables(result, predictions.name):
                display.console().print(table)


@app.command()
def synthesize(
    task: Annotated[str, typer.Argument(help="funding, agent, agent_pairs …")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same rows.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file; default: standard output.")] = None,
) -> None:
    """Make labelled training rows."""
    from adapters import data
    from adapters.schema import SynthesizedSource

    with errors():
        rows = data.read(SynthesizedSource(synthesize=task, n=n, seed=seed), Path())
        write_lines((row for _, row in rows), out)


@app.command()
def noise(
    file: Annotated[Path, typer.Argument(help="A data file: .jsonl, .json, .csv or .parquet.")],
    use: Annotated[str, typer.Option("--preset", help="ocr, latex, html, pdf, document, or a family.")] = "document",
    level: Annotated[str, typer.Option("--level", help="light, medium or heavy.")] = "medium",
    policy: Annotated[str, typer.Option("--policy", help="protect, follow or clean.")] = "protect",
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows to show.")] = 5,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write noised rows here instead.")] = None,
    variants: Annotated[int, typer.Option("--variants", min=1, help="Noisy variants of each row in the file.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same noise.")] = 0,
    task: Annotated[str, typer.Option("--task", help="The task whose labels are respected.")] = "funding",
) -> None:
    """Show what noise does to texts, or build a degraded test set."""
    from adapters import display, noisy_files

    with errors():
        rows = noisy_files.noised(file, use=use, level=level, policy=policy, seed=seed, task=task, variants=variants)
        if out is not None:
            write_lines((result.row for result in rows), out)
            return
        for result, _ in zip(rows, range(n), strict=False):
            display.console().print(noisy_files.before_and_after(result), end="\n\n")


def write_lines(rows: Any, out: Path | None) -> None:
    """Rows as JSON lines to standard output, or to a file that appears whole or not at all."""
    if out is None:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    temporary = out.with_name(f".{out.name}.partial")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}.") from None
