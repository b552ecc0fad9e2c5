"""`adapters pairs`: preference pairs from disciplined turns, from graded completions, and with a teacher."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.data import write_lines
from adapters.cli.errors import complain, errors
from adapters.errors import UserError
from adapters.types import Row, Task

if TYPE_CHECKING:
    from adapters.data_aug.agent.pairs import Rules
    from adapters.pairs.from_files import Limit

app = typer.Typer(help="Preference pairs for DPO.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("-o", "--out", help="JSONL file of pairs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")]
RecipeOption = Annotated[
    Path | None,
    typer.Option("--recipe", help="A recipe with a DPO stage: its task, tokenizer and max_length are used."),
]
MaxLength = Annotated[int, typer.Option("--max-length", min=8, help="Without --recipe: about so many tokens a pair.")]
TaskName = Annotated[str, typer.Option("--task", help="The task that reads the rows.")]
RewardName = Annotated[str, typer.Option("--reward", help="The reward that grades completions.")]
Margin = Annotated[float, typer.Option("--margin", min=0, help="Least difference of a pair's scores.")]
Floor = Annotated[float, typer.Option("--floor", help="Least score of a chosen side.")]
PRESETS = {"card": 0.0, "control": 0.25}
"""Name -> share of control pairs."""


@app.command()
def corrupt(
    file: Annotated[
        Path | None,
        typer.Argument(help="JSONL of trajectories (env, messages) or turns (env, prompt, completion); default: ours."),
    ] = None,
    out: Out = Path("pairs.jsonl"),
    n: Annotated[int, typer.Option("-n", min=1, help="How many pairs.")] = 157,
    preset: Annotated[
        str, typer.Option("--preset", help="card: every kind in turn; control: a quarter with the longer side chosen.")
    ] = "card",
    kinds: Annotated[str | None, typer.Option("--kinds", help="Only these kinds, separated by commas.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same pairs.")] = 0,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    as_json: AsJson = False,
) -> None:
    """Pairs from disciplined turns and their seeded corruptions, half of each environment.

    A set that would teach length or content instead of discipline is refused (exit code 3), and nothing is written.
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
    task: TaskName = "agent",
    reward: RewardName = "agent",
    margin: Margin = 0.2,
    floor: Floor = 0.5,
    per_prompt: Annotated[int, typer.Option("--per-prompt", min=1, help="At most so many pairs a prompt.")] = 1,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    as_json: AsJson = False,
) -> None:
    """Pairs from completions that a run's rewards graded, or from samples of any model, graded here."""
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
            reader = limit.task or from_files.task_of(task)
            examples = from_files.examples(rows, reader)
            found = graded((row for _, row in read_file(source)), examples, from_files.reward_of(reward))
        made = pairs(found, reader, margin=margin, floor=floor, per_prompt=per_prompt)
        _finish(made, reader, limit, out, None, as_json)


@app.command()
def teach(
    rows: Annotated[Path, typer.Argument(help="Rows of the task, such as: adapters synthesize agent -n 200.")],
    endpoint: Annotated[str, typer.Option("--endpoint", help="Address up to /v1 of an OpenAI-compatible server.")],
    model: Annotated[str, typer.Option("--model", help="The model's name there.")],
    out: Out = Path("pairs.jsonl"),
    n: Annotated[int, typer.Option("-n", min=1, help="Completions of each prompt.")] = 4,
    key: Annotated[str, typer.Option("--key", help="Environment variable with the key.")] = "OPENAI_API_KEY",
    temperature: Annotated[float, typer.Option("--temperature", min=0)] = 0.8,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1)] = 256,
    task: TaskName = "agent",
    reward: RewardName = "agent",
    margin: Margin = 0.2,
    floor: Floor = 0.9,
    corrupt_rest: Annotated[
        bool, typer.Option("--corrupt/--no-corrupt", help="Corrupt good completions that found no worse one.")
    ] = True,
    seed: Annotated[int, typer.Option("--seed", help="For the corruptions.")] = 0,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    as_json: AsJson = False,
) -> None:
    """Pairs from a teacher's (or any served model's) completions: its best against its worst, by the reward.

    Completions are kept in OUT.samples.jsonl; started again, only what is missing is asked for.
    """
    from adapters import console
    from adapters.chat_client import Endpoint
    from adapters.pairs import from_files
    from adapters.pairs.mine import graded, pairs

    with errors():
        limit = from_files.limit(recipe, max_length)
        reader, named = limit.task or from_files.task_of(task), from_files.reward_of(reward)
        examples = from_files.examples(rows, reader)
        place = Endpoint(endpoint, model, key, temperature, max_tokens)
        with console.progress(f"asking {model}") as progress:
            store = out.with_suffix(".samples.jsonl")
            samples = place.ask({i: e.prompt for i, e in examples.items()}, n, store, progress)
        found = graded(samples, examples, named)
        made = pairs(found, reader, margin=margin, floor=floor)
        if corrupt_rest:
            made += from_files.corrupted_rest(found, made, floor, seed)
        for p in made:
            p["meta"]["teacher"] = model
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
