"""`adapters pairs`: preference pairs by corruption, from graded completions, and with a teacher model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from adapters.cli.data import write_lines
from adapters.cli.errors import complain, errors
from adapters.cli.options import (
    AsJson,
    MaxTokens,
    Params,
    RewardParams,
    Seed,
    Server,
    TaskName,
    Temperature,
    Trust,
    grouped,
    plugin_consent,
    reward_spec,
)
from adapters.errors import UserError
from adapters.types import Row, Task

if TYPE_CHECKING:
    from adapters.data_aug.agent.pairs import Rules
    from adapters.pairs.from_files import Limit
    from adapters.pairs.mine import Graded
    from adapters.plugins.trust import Consent
    from adapters.recipe.fields import RewardSpec

app = Typer(help="Preference pairs for DPO.")

Out = Annotated[Path, Option("-o", "--out", help="JSONL file of pairs.")]
RecipeOption = Annotated[Path | None, Option(help="Its DPO stage gives the task, the tokenizer and max_length.")]
MaxLength = Annotated[int, Option(min=8, help="Without --recipe: tokens of a pair, estimated.")]
RewardName = Annotated[str | None, Option(help="The reward that scores completions; default: that of the task.")]
Margin = Annotated[float, Option(min=0, help="Least difference of a pair's scores.")]
Floor = Annotated[float, Option(help="Least score of a chosen side.")]
PRESETS = {"card": 0.0, "control": 0.25}
"""Name -> share of control pairs."""


@app.command()
@errors()
def corrupt(
    file: Annotated[
        Path | None,
        Argument(help="Trajectories (env, messages) or turns (env, prompt, completion); default: synthetic."),
    ] = None,
    out: Out = Path("pairs.jsonl"),
    n: Annotated[int, Option("-n", min=1, help="How many pairs.")] = 157,
    preset: Annotated[str, Option(help="card, or control: a quarter has the longer side chosen.")] = "card",
    kinds: Annotated[str | None, Option(help="Only these kinds of corruption, comma-separated.")] = None,
    seed: Seed = 0,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    trust: Trust = False,
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

    if preset not in PRESETS:
        raise UserError(f"no preset is called {preset!r}.{hint(preset, list(PRESETS))}")
    names = [kind.strip() for kind in kinds.split(",")] if kinds else list(KINDS)
    for kind in names:
        if kind not in KINDS:
            raise UserError(f"no kind of corruption is called {kind!r}.{hint(kind, list(KINDS))}")
    limit = from_files.limit(recipe, max_length, plugin_consent(trust))
    pairs = from_files.corrupted(file, n, names, seed, control=PRESETS[preset])
    _finish(pairs, limit.task or from_files.task_of("agent"), limit, out, Rules(), as_json)


@app.command()
@errors()
def mine(
    source: Annotated[
        Path, Argument(help="A run with a GRPO stage, the output of `adapters sample`, or JSONL (id, completion).")
    ],
    out: Out = Path("pairs.jsonl"),
    rows: Annotated[Path | None, Option(help="For JSONL of another origin: the rows with their ids.")] = None,
    task: TaskName = None,
    params: Params = None,
    reward: RewardName = None,
    reward_params: RewardParams = None,
    margin: Margin = 0.2,
    floor: Floor = 0.5,
    per_prompt: Annotated[int, Option(min=1, help="Most pairs of a prompt.")] = 1,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Take pairs from completions that a run's rewards scored, or score samples of any model.

    The output of `adapters sample` brings its rows, its task and its rewards along; --reward scores it anew.
    """
    from adapters.pairs import from_files
    from adapters.pairs.mine import pairs, rollouts

    consent = plugin_consent(trust)
    limit, spec = from_files.limit(recipe, max_length, consent), reward_spec(reward, reward_params)
    if not source.exists():
        raise UserError(f"there is no run folder and no file {source}.")
    if source.is_dir() and spec is not None:
        raise UserError("--reward scores samples; the completions of a run are taken with the rewards of its training.")
    if source.is_dir():
        reader, completions = rollouts(source, consent)
    else:
        reader, completions = _samples(source, rows, limit, task, params or [], spec, consent)
    best = pairs(completions, reader, margin=margin, floor=floor, per_prompt=per_prompt)
    _finish(best, reader, limit, out, None, as_json)


def _samples(
    file: Path,
    rows: Path | None,
    limit: Limit,
    task: str | None,
    params: list[str],
    reward: RewardSpec | None,
    consent: Consent,
) -> tuple[Task, list[Graded]]:
    """The task of a file of samples, and the samples with their scores."""
    from adapters.data.rows import read_file
    from adapters.pairs import from_files
    from adapters.pairs.mine import graded

    drawn = None if task or params else from_files.sampled(file, rows, consent)
    if drawn is not None:
        scorer = from_files.readers(drawn.rows, limit, drawn.name, [], reward)[1] if reward else None
        rows, reader = drawn.rows, limit.task or drawn.task
    elif rows is None:
        raise UserError("samples need the rows they answer: add --rows FILE.")
    else:
        reader, scorer = from_files.readers(rows, limit, task, params, reward)
    return reader, graded((row for _, row in read_file(file)), from_files.examples(rows, reader), scorer)


@app.command()
@grouped
@errors()
def teach(
    server: Server,
    rows: Annotated[Path, Argument(help="Rows of the task, as `data synthesize` makes them.")],
    out: Out = Path("pairs.jsonl"),
    n: Annotated[int, Option("-n", min=1, help="Completions of each prompt.")] = 4,
    temperature: Temperature = 0.8,
    max_tokens: MaxTokens = 256,
    task: TaskName = None,
    params: Params = None,
    reward: RewardName = None,
    reward_params: RewardParams = None,
    margin: Margin = 0.2,
    floor: Floor = 0.9,
    corrupt: Annotated[bool, Option(help="Corrupt good completions that have no worse one.")] = True,
    seed: Seed = 0,
    recipe: RecipeOption = None,
    max_length: MaxLength = 2048,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Make pairs from a served model's completions: the best against the worst, by the reward.

    Completions are kept in OUT.samples.jsonl; started again, only what is missing is asked for.
    """
    from adapters.chat_client import sample
    from adapters.console import progress
    from adapters.pairs import from_files
    from adapters.pairs.mine import graded, pairs

    limit = from_files.limit(recipe, max_length, plugin_consent(trust))
    reader, scorer = from_files.readers(rows, limit, task, params or [], reward_spec(reward, reward_params))
    examples = from_files.examples(rows, reader)
    connection = server.connect()
    prompts, store = {i: e.prompt for i, e in examples.items()}, out.with_suffix(".samples.jsonl")
    with progress(f"asking {connection.model}") as bar:
        samples = sample(connection, prompts, n, store, bar, temperature=temperature, max_tokens=max_tokens)
    completions = graded(samples, examples, scorer)
    best = pairs(completions, reader, margin=margin, floor=floor)
    if corrupt:
        best += from_files.corrupted_rest(completions, best, floor, seed)
    for pair in best:
        pair["meta"]["teacher"] = connection.model
    _finish(best, reader, limit, out, None, as_json)


def _finish(pairs: Sequence[Row], task: Task, limit: Limit, out: Path, rules: Rules | None, as_json: bool) -> None:
    """Check the pairs as a set, write them and print the figures of the set."""
    from adapters.console import console, new_table
    from adapters.data_aug.agent.pairs import PairsError
    from adapters.pairs import from_files

    try:
        rows, figures = from_files.checked(pairs, task, limit, rules)
    except PairsError as error:
        complain(f"refused: {error}. Nothing was written.")
        raise Exit(3) from None
    write_lines(rows, out)
    if as_json:
        print(json.dumps(figures))
        return
    table = new_table(f"{figures['pairs']} pairs in {out}", ["figure", "value"])
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _shown(value))
    console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
