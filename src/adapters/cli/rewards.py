"""`adapters rewards`: list, show, write and test rewards, and score files with them."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import keyword
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.options import AsJson, OutFile
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adapters.plugins.reward_bench import RewardTest
    from adapters.plugins.rewards import NamedReward

TEMPLATES = Path(__file__).parent / "templates"
app = Typer(help="List, show, test, score and write rewards.")

RewardName = Annotated[str, Argument(metavar="NAME", help="A reward's name, module:Class or ./file.py:Class.")]
TaskName = Annotated[str | None, Option(help="The task that reads the rows; default: the reward's `task` or name.")]
Params = Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="A reward parameter; may be repeated.")]


@app.command("list")
def list_rewards(as_json: AsJson = False) -> None:
    """Installed rewards, and where they come from."""
    from adapters.plugins.registry import names

    known = names("rewards")
    print(json.dumps(known) if as_json else "\n".join(f"{name:<20} {where}" for name, where in known.items()))


@app.command()
@errors()
def show(name: RewardName, as_json: AsJson = False) -> None:
    """A reward's documentation, parameters and source files."""
    from adapters.console import console
    from adapters.plugins.source_files import files_of_plugin
    from adapters.recipe.fields import PluginSpec

    named = _reward(name, [])
    reward: Any = named.reward
    files = files_of_plugin("rewards", PluginSpec(use=name), Path())
    fields = dataclasses.fields(reward) if dataclasses.is_dataclass(reward) else ()
    parameters = {f.name: {"type": str(f.type), "default": getattr(reward, f.name)} for f in fields}
    text = inspect.getdoc(reward if inspect.isfunction(reward) else type(reward)) or "(no docstring)"
    if as_json:
        print(json.dumps({"doc": text, "parameters": parameters, "score_hash": named.score_hash, **files.as_json()}))
        return
    lines = [f"{name}: {type(reward).__module__}", "", text, ""]
    lines += [f"  {key}: {p['type']} = {p['default']!r}" for key, p in parameters.items()]
    lines += ["", f"files: {', '.join(map(str, files.files))}"]
    lines += [f"score hash: {named.score_hash}  (code and parameters)"]
    console().print("\n".join(lines), markup=False, soft_wrap=True)


@app.command("test")
@errors()
def try_out(
    name: RewardName,
    parameters: Annotated[list[str] | None, Argument(hidden=True)] = None,
    params: Params = None,
    data: Annotated[Path | None, Option(help="Rows with gold; default: synthetic rows of the task.")] = None,
    task: TaskName = None,
    n: Annotated[int, Option("-n", min=1, help="At most this many rows.")] = 60,
    limit: Annotated[float, Option(min=0.1, help="Seconds a call may take.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Test a reward on gold, wrong and absurd answers: order, range, determinism, speed. Exit code 1: unfit."""
    from adapters import testing
    from adapters.console import console
    from adapters.plugins.registry import resolve
    from adapters.plugins.reward_bench import try_reward
    from adapters.recipe.fields import PluginSpec

    named = _reward(name, [*(parameters or []), *(params or [])])
    reader = testing.reward_task(named.reward, name, task)
    shared = testing.shared_parameters(named.reward)
    rows = testing.examples(reader, data, n=n, params=shared)
    try:
        of_rows = resolve("tasks", PluginSpec.model_validate({"use": reader, **shared}))
        result = try_reward(named, rows, of_rows, limit=limit)
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
    rows = score_files.score_rewards(named, file, task=reader, params=shared)
    write_lines(rows, out)
    scores = [row["reward"] for row in rows if row["reward"] is not None]
    if scores:
        console(stderr=True).print(f"{name}: mean {sum(scores) / len(scores):.4f} over {len(scores)} rows")


@app.command()
@errors()
def new(
    name: Annotated[str, Argument(metavar="NAME", help="A Python name; the files are NAME.py and test_NAME.py.")],
    task: Annotated[str | None, Option(help="The task whose answers it scores; default: the task called NAME.")] = None,
) -> None:
    """Write a reward to start from, and its test."""
    from adapters import testing

    if not name.isidentifier() or name.startswith("_"):
        raise UserError(f"{name!r} is not a Python name; use letters, digits and _.")
    reader = testing.reward_task(None, name, task)
    testing.examples(reader, n=1)  # the test needs some
    paths = Path(f"{name}.py"), Path(f"test_{name}.py")
    if existing := [p for p in paths if p.exists()]:
        raise UserError(f"{existing[0]} exists already; nothing was written.")
    module = importlib.util.find_spec(name)  # a folder of that name has no origin
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or (module and module.origin):
        raise UserError(f"{name!r} is taken: a file {name}.py would hide a module of Python or of a package.")
    cls = "".join(word.capitalize() for word in name.split("_"))
    for path, template in zip(paths, ("reward.txt", "reward_test.txt"), strict=True):
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        path.write_text(text.format(name=name, cls=cls, task=json.dumps(reader)), encoding="utf-8")
    print(f"{paths[0]} and {paths[1]} written. In a recipe: rewards: [./{name}.py:{cls}]")
    print(f"Next:\n  python -m pytest {paths[1]}")
    print("  " + shlex.join(["adapters", "rewards", "test", f"./{name}.py:{cls}", "--task", reader]))


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
            "{calls_per_second:,.0f} calls/s on one core, p50 {p50_ms} ms, p99 {p99_ms} ms, 100 kB in {long_ms} ms"
        )
        yield figures.format(**result.speed)
    yield f"score hash {result.score_hash[:16]}"
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
    from adapters.integrations import named_reward
    from adapters.recipe.load import parse_assignments

    values = parse_assignments(parameters)
    try:
        return named_reward(name, **values)
    except UserError as error:
        key = error.at[-1] if error.at else ""
        raise UserError(f"{key}: {error}" if key in values else str(error)) from None
