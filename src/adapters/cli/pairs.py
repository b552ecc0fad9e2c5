"""`adapters pairs`: preference pairs by corruption, from graded completions, and with a teacher model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.data import write_lines
from adapters.cli.errors import complain, errors
from adapters.cli.options import AsJson, MaxTokens, Params, Seed, Server, TaskName, Temperature, grouped
from adapters.errors import UserError
from adapters.types import Row, Task

if TYPE_CHECKING:
    from adapters.data_aug.agent.pairs import Rules
    from adapters.pairs.from_files import Limit

app = typer.Typer(help="Preference pairs for DPO.")

Out = Annotated[Path, typer.Option("-o", "--out", help="JSONL file of pairs.")]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Its DPO stage gives the task, the tokenizer and max_length.")
]
MaxLength = Annotated[int, typer.Option("--max-length", min=8, help="Without --recipe: tokens of a pair, estimated.")]
RewardName = Annotated[
    str | None, typer.Option("--reward", help="The reward that scores completions; default: that of the task.")
]
Margin = Annotated[float, typer.Option("--margin", min=0, help="Least difference of a pair's scores.")]
Floor = Annotated[float, typer.Option("--floor", help="Least score of a chosen side.")]
PRESETS = {"card": 0.0, "control": 0.25}
"""Name -> share of control pairs."""


@app.command()
def corrupt(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="Trajectories (env, messages) or turns (env, prompt, completion); default: generated."
        ),
    ] = None,
    out: Out = Path("pairs.jsonl"),
    n: Annotated[int, typer.Option("-n", min=1, help="How many pairs.")] = 157,
    preset: Annotated[
        str, typer.Option("--preset", help="card: every kind in turn; control: a quarter has the longer side chosen.")
    ] = "card",
    kinds: Annotated[
        str | None, typer.Option("--kinds", help="Only these kinds of corruption, comma-separated.")
    ] = None,
    seed: Seed = 0,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    as_json: AsJson = False,
) -> None:
    """Make pairs from an agent's well-formed turns and corruptions of them.

    Half of the pairs come from each environment. A set in which length or content tells the sides apart is refused
    (exit code 3), and nothing is written.
    """
    from adapters.data_aug.agent.corruptions import KINDS
    from adapters.data_aug.agent.pairs import Rules
    from adapters.errors import hint
    from adapters.pairs import from_files

    with errors():
        if preset not in PRESETS:
            raise UserError(f"no preset is called {preset!r}.{hint(preset, list(PRESETS))}")
        chosen = [kind.strip() for kind in kinds.split(",")] if kinds else list(KINDS)
        for kind in chosen:
            if kind not in KINDS:
                raise UserError(f"no kind of corruption is called {kind!r}.{hint(kind, list(KINDS))}")
        limit = from_files.limit(recipe, max_length)
        made = from_files.corrupted(file, n, chosen, seed, control=PRESETS[preset])
        _finish(made, limit.task or from_files.task_of("agent"), limit, out, Rules(), as_json)


@app.command()
def mine(
    source: Annotated[Path, typer.Argument(help="A run with a GRPO stage, or JSONL samples (id, completion).")],
    out: Out = Path("pairs.jsonl"),
    rows: Annotated[Path | None, typer.Option("--rows", help="For samples: the rows with their ids.")] = None,
    task: TaskName = None,
    params: Params = None,
    reward: RewardName = None,
    margin: Margin = 0.2,
    floor: Floor = 0.5,
    per_prompt: Annotated[int, typer.Option("--per-prompt", min=1, help="Most pairs of a prompt.")] = 1,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    as_json: AsJson = False,
) -> None:
    """Take pairs from completions that a run's rewards scored, or score samples of any model."""
    from adapters.data.rows import read_file
    from adapters.pairs import from_files
    from adapters.pairs.mine import graded, pairs, rollouts

    with errors():
        limit = from_files.limit(recipe, max_length)
        if source.is_dir():
            reader, found = rollouts(source)
        else:
            if rows is None:
                raise UserError("samples need the rows they answer: add --rows FILE.")
            reader, scorer = from_files.readers(rows, limit, task, params or [], reward)
            examples = from_files.examples(rows, reader)
            found = graded((row for _, row in read_file(source)), examples, scorer)
        made = pairs(found, reader, margin=margin, floor=floor, per_prompt=per_prompt)
        _finish(made, reader, limit, out, None, as_json)


@app.command()
@grouped
def teach(
    server: Server,
    rows: Annotated[Path, typer.Argument(help="Rows of the task, as `data synthesize` makes them.")],
    out: Out = Path("pairs.jsonl"),
    n: Annotated[int, typer.Option("-n", min=1, help="Completions of each prompt.")] = 4,
    temperature: Temperature = 0.8,
    max_tokens: MaxTokens = 256,
    task: TaskName = None,
    params: Params = None,
    reward: RewardName = None,
    margin: Margin = 0.2,
    floor: Floor = 0.9,
    corrupt_rest: Annotated[
        bool, typer.Option("--corrupt/--no-corrupt", help="Corrupt good completions that have no worse one.")
    ] = True,
    seed: Seed = 0,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    as_json: AsJson = False,
) -> None:
    """Make pairs from a served model's completions: the best against the worst, by the reward.

    Completions are kept in OUT.samples.jsonl; started again, only what is missing is asked for.
    """
    from adapters import console
    from adapters.chat_client import sample
    from adapters.pairs import from_files
    from adapters.pairs.mine import graded, pairs

    with errors():
        limit = from_files.limit(recipe, max_length)
        reader, scorer = from_files.readers(rows, limit, task, params or [], reward)
        examples = from_files.examples(rows, reader)
        connection = server.connect()
        prompts, store = {i: e.prompt for i, e in examples.items()}, out.with_suffix(".samples.jsonl")
        with console.progress(f"asking {connection.model}") as bar:
            samples = sample(connection, prompts, n, store, bar, temperature=temperature, max_tokens=max_tokens)
        found = graded(samples, examples, scorer)
        made = pairs(found, reader, margin=margin, floor=floor)
        if corrupt_rest:
            made += from_files.corrupted_rest(found, made, floor, seed)
        for pair in made:
            pair["meta"]["teacher"] = connection.model
        _finish(made, reader, limit, out, None, as_json)


def _finish(made: Sequence[Row], task: Task, limit: Limit, out: Path, rules: Rules | None, as_json: bool) -> None:
    from adapters import console
    from adapters.data_aug.agent.pairs import PairsError
    from adapters.pairs import from_files

    try:
        rows, figures = from_files.checked(made, task, limit, rules)
    except PairsError as error:
        complain(f"refused: {error}. Nothing was written.")
        raise typer.Exit(3) from None
    write_lines(rows, out)
    if as_json:
        print(json.dumps(figures))
    else:
        console.console().print(_table(figures, out))


def _table(figures: Mapping[str, Any], out: Path) -> Any:
    from rich.table import Table

    table = Table(title=f"{figures['pairs']} pairs in {out}", title_justify="left", show_header=False)
    for name, value in figures.items():
        if isinstance(value, Mapping):
            shown = ", ".join(f"{k} {v}" for k, v in value.items())
        else:
            shown = f"{value:.2f}" if isinstance(value, float) else str(value)
        table.add_row(name.replace("_", " "), shown)
    return table
