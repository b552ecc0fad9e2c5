"""The verbs that need no model: scoring files and making data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from adapters.cli.errors import errors
from adapters.errors import UserError

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
        typer.Option("--reading", hidden=True, help="Old spelling of --set scorer=published or corrected."),
    ] = None,
    params: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A parameter of the task, as in a recipe.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a file of completions against a file of gold, without a model."""
    from adapters import console
    from adapters.evaluation import score_files
    from adapters.recipe.load import parse_assignments

    with errors():
        chosen = parse_assignments(params or []) | ({"reading": reading} if reading else {})
        result, warnings = score_files.score_files(predictions, gold, task=task, mode=mode, params=chosen)
        for warning in warnings:
            console.console(stderr=True).print(f"warning: {warning}", style="yellow")
        if as_json:
            print(json.dumps(result))
        else:
            for table in score_files.tables(result, predictions.name):
                console.console().print(table)


@app.command()
def synthesize(
    task: Annotated[str, typer.Argument(help="funding, agent, agent_pairs …")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same rows.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file; default: standard output.")] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", help="OpenAI-compatible server (address up to /v1) that writes the texts."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The model's name there.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Environment variable with the key.", show_default="OPENAI_API_KEY")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", min=0, show_default="0.8")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, help="Requests at a time.", show_default="8")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Longest text.")] = 2048,
    as_json: AsJson = False,
) -> None:
    """Make labelled training rows.

    With --endpoint a language model writes the text of every row's structure (funding only); a text is kept if its
    labels are exact in it. What it wrote is in OUT.samples.jsonl: started again, or with a larger -n, only what is
    missing is asked for.
    """
    from adapters.data.load import read
    from adapters.recipe.fields import SynthesizedSource

    with errors():
        given = {"--model": model, "--key": key, "--temperature": temperature, "--parallel": parallel}
        if endpoint is None and (alone := next((name for name, value in given.items() if value is not None), None)):
            raise UserError(f"{alone} is for an --endpoint.")
        rows = (row for _, row in read(SynthesizedSource(synthesize=task, n=n, seed=seed), Path()))
        if endpoint is None:
            write_lines(rows, out)
            return
        if task != "funding":
            raise UserError(f"--endpoint: only funding statements can be written by a model, not {task}.")
        if model is None or out is None:
            raise UserError("--endpoint needs --model NAME, and -o FILE, beside which what it wrote is kept.")
        from adapters import console, writing
        from adapters.chat_client import Endpoint

        options: dict[str, Any] = {"key_variable": key, "temperature": temperature, "parallel": parallel}
        place = Endpoint(endpoint, model, max_tokens=max_tokens, **{k: v for k, v in options.items() if v is not None})
        with console.progress(f"asking {model}") as progress:
            result = writing.write(list(rows), place, out.with_suffix(".samples.jsonl"), progress)
        write_lines(result.rows, out)
        if as_json:
            print(json.dumps({"kept": len(result.rows), "refused": result.refused}))
        else:
            console.console().print(f"{out}: {writing.summary(result)}", soft_wrap=True)
        if not result.rows:
            raise typer.Exit(1)


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
    from adapters import console
    from adapters.data import noise_files

    with errors():
        rows = noise_files.noised(file, use=use, level=level, policy=policy, seed=seed, task=task, variants=variants)
        if out is not None:
            write_lines((result.row for result in rows), out)
            return
        for result, _ in zip(rows, range(n), strict=False):
            console.console().print(noise_files.before_and_after(result), end="\n\n")


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
