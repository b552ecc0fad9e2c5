"""`adapters rewards`: list, show, write and test rewards, and score files with them."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from adapters.cli import plugin_verbs
from adapters.cli.errors import errors
from adapters.cli.options import AsJson, OutFile
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adapters.plugins.reward_bench import RewardTest
    from adapters.plugins.rewards import NamedReward

app = Typer(help="List, show, test, score and write rewards.")

RewardName = Annotated[str, Argument(metavar="NAME", help="A reward's name, module:Class or ./file.py:Class.")]
TaskName = Annotated[str | None, Option(help="The task that reads the rows; default: the reward's `task` or name.")]
Params = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="A reward parameter; may be repeated.")]


@app.command("list")
def list_rewards(as_json: AsJson = False) -> None:
    """Installed rewards, and where they come from."""
    plugin_verbs.print_names("rewards", as_json=as_json)


@app.command()
@errors()
def show(name: RewardName, as_json: AsJson = False) -> None:
    """A reward's documentation, parameters and source files."""
    named = _reward(name, [])
    plugin_verbs.print_plugin("rewards", name, named.reward, named.score_hash, as_json=as_json)


@app.command("test")
@errors()
def try_out(
    name: RewardName,
    parameters: Annotated[list[str] | None, Argument(hidden=True)] = None,
    params: Params = None,
    data: Annotated[Path | None, Option(help="Rows with gold; default: synthetic rows of the task.")] = None,
    task: TaskName = None,
    n: Annotated[int, Option("-n", min=1, help="At most this many rows.")] = 60,
    limit: Annotated[
        float | None, Option(min=0.1, help="Seconds a call may take; default: the reward's `timeout`, or 10.")
    ] = None,
    seconds: Annotated[
        float, Option(min=1, help="Seconds the test may take; a slow reward is tried on fewer rows.")
    ] = 180.0,
    as_json: AsJson = False,
) -> None:
    """Test a reward on gold, wrong and absurd answers: order, range, determinism, speed. Exit code 1: unfit."""
    from adapters import testing
    from adapters.console import console, progress
    from adapters.plugins.registry import resolve
    from adapters.plugins.reward_bench import try_reward
    from adapters.recipe.fields import PluginSpec

    named = _reward(name, [*(parameters or []), *(params or [])])
    reader = testing.reward_task(named.reward, name, task)
    shared = testing.shared_parameters(named.reward)
    rows = testing.examples(reader, data, n=n, params=shared)
    if limit and named.faults.timeout:
        raise UserError("--limit and timeout are the same; give one of them.")
    limit = limit or named.faults.timeout or 10.0
    try:
        with progress("test") as bar:
            of_rows = resolve("tasks", PluginSpec.model_validate({"use": reader, **shared}))
            result = try_reward(named, rows, of_rows, limit=limit, seconds=seconds, progress=bar)
    except ValueError as error:
        raise UserError(f"{data or 'the rows'}: {error}.") from None
    if as_json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        for paragraph in _report(result):
            console().print(paragraph)
    if result.errors:
        raise Exit(1)


@app.command("score")
@errors()
def score_rows(
    name: RewardName,
    file: Annotated[Path, Argument(help="JSONL: gold rows with a `completion` each.")],
    out: OutFile = None,
    task: TaskName = None,
    params: Params = None,
) -> None:
    """Score each row's completion against its own gold: reward and named parts."""
    from adapters import testing
    from adapters.cli.data import write_lines
    from adapters.console import console
    from adapters.evaluation import score_files

    named = _reward(name, params or [])
    reader = testing.reward_task(named.reward, name, task)
    shared = testing.shared_parameters(named.reward)
    scores = array("d")

    def rows() -> Iterator[dict[str, Any]]:
        for row in score_files.score_rewards(named, file, task=reader, params=shared):
            if row["reward"] is not None:
                scores.append(row["reward"])
            yield row

    write_lines(rows(), out)
    if scores:
        console(stderr=True).print(f"{name}: mean {sum(scores) / len(scores):.4f} over {len(scores)} rows")


@app.command()
@errors()
def new(
    name: plugin_verbs.NewName,
    task: Annotated[str | None, Option(help="The task whose answers it scores; default: the task called NAME.")] = None,
    package: plugin_verbs.AsPackage = False,
) -> None:
    """Write a reward to start from, and its test."""
    from adapters import testing

    plugin_verbs.check_module_name(name)
    reader = testing.reward_task(None, name, task)
    if package and ".py:" in reader:
        raise UserError(f"--task {reader}: the package would lack that file; name a task of an installed package.")
    try:
        testing.examples(reader, n=1)
    except UserError as error:
        raise UserError(f"the reward's test needs rows to be tested on, example_rows of the task {reader}.") from error
    new = plugin_verbs.write_templates(
        name, "reward", "rewards", package=package, in_recipe="rewards: [{}]", task=json.dumps(reader)
    )
    print(f"{new.file} and {new.test} written. In a recipe: rewards: [{new.use(name)}]")
    print(new.next_steps(["adapters", "rewards", "test", new.use(name), "--task", reader]))


def _report(result: RewardTest) -> Iterator[Table | str]:
    """A test's result: scores by answer, baselines, speed, problems, and the verdict last."""
    from rich.markup import escape

    from adapters.console import new_table

    ranks = new_table(
        f"{result.name} on {result.rows} rows", ["answer"], ("rows", "mean reward", "earns as much as gold")
    )
    for variant, v in sorted(result.variants.items(), key=lambda item: -item[1]["mean"]):
        ranks.add_row(variant, f"{v['n']:g}", f"{v['mean']:.3f}", "" if variant == "gold" else f"{v['as_gold']:.0%}")
    constant = new_table("constant answers", ["answers that do not depend on the input"], ["mean reward"])
    for baseline, mean in sorted(result.baselines.items(), key=lambda item: -item[1]):
        constant.add_row(baseline, f"{mean:.3f}")
    yield from (table for table in (ranks, constant) if table.row_count)
    if result.speed:
        figures = (
            "first answers {first_s:.2g} s each; {rate} calls/s if made one at a time; p50 {p50_ms} ms, "
            "p99 {p99_ms} ms, 100 kB in {long_ms} ms"
        )
        rate = result.speed["calls_per_second"]
        yield figures.format(**result.speed, rate=f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}")
    yield f"score hash {result.score_hash[:16]}"
    yield from (f"left out: {escape(text)}" for text in result.left_out)
    yield from (f"[yellow]warning:[/] {escape(warning)}" for warning in result.warnings)
    yield from (f"[red]error:[/] {escape(error)}" for error in result.errors)
    if result.errors:
        yield "[red]not fit to train on[/]"
    elif count := len(result.warnings):
        problems = "the warning" if count == 1 else f"the {count} warnings"
        yield f"[yellow]no errors; mend {problems}, or train knowing that the model may exploit them[/]"
    else:
        yield "[green]fit to train on[/]"


def _reward(name: str, parameters: list[str]) -> NamedReward:
    from adapters.integrations import single_reward
    from adapters.recipe.load import parse_assignments

    return single_reward(name, **parse_assignments(parameters))
