"""The verbs that need no model: scoring files, making data, the reward workshop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.exits import errors
from adapters.types import UserError

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
app = typer.Typer()
rewards_app = typer.Typer(help="The reward workshop.", no_args_is_help=True)
app.add_typer(rewards_app, name="rewards")


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="JSONL: id and completion (the raw text).")],
    gold: Annotated[Path, typer.Argument(help="JSONL: gold rows with the same ids.")],
    task: Annotated[str, typer.Option("--task", help="The task that counts.")] = "funding",
    mode: Annotated[
        str | None, typer.Option("--mode", help="One matching mode: permissive, balanced or strict.")
    ] = None,
    reading: Annotated[
        str, typer.Option("--reading", help="compatible (as the published harness) or fixed.")
    ] = "compatible",
    as_json: AsJson = False,
) -> None:
    """Score a file of completions against a file of gold, without a model."""
    from adapters import display, scoring

    with errors():
        result, warnings = scoring.score_files(predictions, gold, task=task, mode=mode, reading=reading)
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
        _write_lines((row for _, row in rows), out)


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
            _write_lines((result.row for result in rows), out)
            return
        for result, _ in zip(rows, range(n), strict=False):
            display.console().print(noisy_files.before_and_after(result), end="\n\n")


@rewards_app.command("list")
def rewards_list(as_json: AsJson = False) -> None:
    """Installed rewards, and where they come from."""
    from adapters.plugins import names

    known = names("rewards")
    print(json.dumps(known) if as_json else "\n".join(f"{name:<20} {where}" for name, where in known.items()))


@rewards_app.command("score")
def rewards_score(
    name: Annotated[str, typer.Argument(help="A reward's name, module:Class or ./file.py:Class.")],
    file: Annotated[Path, typer.Argument(help="JSONL: gold rows with a `completion` each.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file; default: standard output.")] = None,
    task: Annotated[str, typer.Option("--task", help="The task that reads the gold.")] = "funding",
) -> None:
    """Score each row's completion against its own gold: reward and named parts."""
    from adapters import display, scoring

    with errors():
        rows = scoring.score_rewards(name, file, task=task)
        _write_lines(rows, out)
        scores = [row["reward"] for row in rows if row["reward"] is not None]
        if scores:
            display.console(stderr=True).print(f"{name}: mean {sum(scores) / len(scores):.4f} over {len(scores)} rows")


def _write_lines(rows: Any, out: Path | None) -> None:
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
