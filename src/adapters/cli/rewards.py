"""The reward workshop: list, show, try, score and write rewards."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import keyword
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.errors import errors
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from adapters.plugins.reward_bench import RewardTest

app = typer.Typer(help="The reward workshop.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RewardName = Annotated[str, typer.Argument(metavar="NAME", help="A reward's name, module:Class or ./file.py:Class.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="The task that reads the gold; default: the reward's own, or funding.")
]


@app.command("list")
def list_rewards(as_json: AsJson = False) -> None:
    """Installed rewards, and where they come from."""
    from adapters.plugins.registry import names

    known = names("rewards")
    print(json.dumps(known) if as_json else "\n".join(f"{name:<20} {where}" for name, where in known.items()))


@app.command()
def show(name: RewardName, as_json: AsJson = False) -> None:
    """What a reward does, its parameters, and the files it is made of."""
    from adapters.console import console
    from adapters.plugins.source_files import files_of_plugin
    from adapters.recipe.fields import PluginSpec

    with errors():
        made = _reward(name, [])
        reward, plug = made.reward, PluginSpec(use=name)
        files = files_of_plugin("rewards", plug, Path())
        fields = dataclasses.fields(reward) if dataclasses.is_dataclass(reward) else ()
        parameters = {f.name: (str(f.type), getattr(reward, f.name)) for f in fields}
        text = inspect.getdoc(reward if inspect.isfunction(reward) else type(reward)) or "(no docstring)"
        if as_json:
            types = {k: {"type": kind, "default": value} for k, (kind, value) in parameters.items()}
            print(json.dumps({"doc": text, "parameters": types, "score_hash": made.score_hash, **files.as_json()}))
            return
        screen = console()
        screen.print(f"{name}: {type(reward).__module__}\n\n{text}\n", markup=False)
        for key, (kind, value) in parameters.items():
            screen.print(f"  {key}: {kind} = {value!r}", markup=False)
        screen.print(f"\nfiles: {', '.join(map(str, files.files))}", soft_wrap=True)
        screen.print(f"score hash: {made.score_hash}  (code and parameters)", soft_wrap=True)


@app.command("test")
def try_out(
    name: RewardName,
    parameters: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="scorer=corrected …")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Rows with gold; default: rows made up.")] = None,
    task: TaskName = None,
    n: Annotated[int, typer.Option("-n", min=1, help="At most this many rows.")] = 60,
    limit: Annotated[float, typer.Option("--limit", min=0.1, help="Seconds a call may take.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Try a reward on gold, wrong and absurd answers: order, range, determinism, speed. Exits with 1 when it fails."""
    from adapters import testing
    from adapters.console import console
    from adapters.plugins.registry import resolve
    from adapters.plugins.reward_bench import try_reward
    from adapters.recipe.fields import PluginSpec

    with errors():
        made = _reward(name, parameters or [])
        reader = testing.reward_task(made.reward, name, task)
        rows = testing.examples(reader, data, n=n)
        try:
            result = try_reward(made, rows, resolve("tasks", PluginSpec(use=reader)), limit=limit)
        except ValueError as error:
            raise UserError(f"{data or 'the rows'}: {error}.") from None
        if as_json:
            print(json.dumps(dataclasses.asdict(result)))
        else:
            for part in report(result):
                console().print(part)
    if result.errors:
        raise typer.Exit(1)


@app.command("score")
def score_rows(
    name: RewardName,
    file: Annotated[Path, typer.Argument(help="JSONL: gold rows with a `completion` each.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file; default: standard output.")] = None,
    task: TaskName = None,
) -> None:
    """Score each row's completion against its own gold: reward and named parts."""
    from adapters import testing
    from adapters.cli.data import write_lines
    from adapters.console import console
    from adapters.evaluation import score_files

    with errors():
        made = _reward(name, [])
        rows = score_files.score_rewards(made, file, task=testing.reward_task(made.reward, name, task))
        write_lines(rows, out)
        scores = [row["reward"] for row in rows if row["reward"] is not None]
        if scores:
            console(stderr=True).print(f"{name}: mean {sum(scores) / len(scores):.4f} over {len(scores)} rows")


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A Python name; the files are NAME.py and test_NAME.py.")],
    task: Annotated[str, typer.Option("--task", help="The task whose examples the test uses.")] = "funding",
) -> None:
    """Write a reward to start from, and its test."""
    from adapters import testing

    with errors():
        if not name.isidentifier() or name.startswith("_"):
            raise UserError(f"{name!r} is not a Python name; use letters, digits and _.")
        testing.reward_task(None, name, task)  # type: ignore[arg-type]
        paths = Path(f"{name}.py"), Path(f"test_{name}.py")
        if there := [p for p in paths if p.exists()]:
            raise UserError(f"{there[0]} exists already; nothing was written.")
        found = importlib.util.find_spec(name)  # a folder of that name has no origin
        if keyword.iskeyword(name) or name in sys.stdlib_module_names or (found and found.origin):
            raise UserError(f"{name!r} is taken: a file {name}.py would stand in the way of Python's own or a package.")
        cls = "".join(part.capitalize() for part in name.split("_"))
        for path, text in zip(paths, (REWARD, TEST), strict=True):
            path.write_text(text.format(name=name, cls=cls, task=task), encoding="utf-8")
        print(f"{paths[0]} and {paths[1]} written. In a recipe: rewards: [./{name}.py:{cls}]")
        print(f"Try: python -m pytest {paths[1]}   or: adapters rewards test ./{name}.py:{cls}")


def report(result: RewardTest) -> list[Table | str]:
    """What a bench found, for a person: ranks, baselines, speed, and last what is wrong."""
    from rich.table import Table

    ranks = Table(title=f"{result.name} on {result.rows} rows", title_justify="left")
    ranks.add_column("answer", no_wrap=True)
    for column in ("rows", "mean reward", "earns as much as gold"):
        ranks.add_column(column, justify="right")
    for variant, v in sorted(result.variants.items(), key=lambda item: -item[1]["mean"]):
        ranks.add_row(variant, f"{v['n']:g}", f"{v['mean']:.3f}", "" if variant == "gold" else f"{v['as_gold']:.0%}")
    constant = Table(title="answers that do not depend on the input", title_justify="left")
    constant.add_column("answer", no_wrap=True)
    constant.add_column("mean reward", justify="right")
    for baseline, mean in sorted(result.baselines.items(), key=lambda item: -item[1]):
        constant.add_row(baseline, f"{mean:.3f}")
    parts: list[Table | str] = [table for table in (ranks, constant) if table.row_count]
    if result.speed:
        parts.append(
            "{calls_per_second:,.0f} calls/s on one core, p50 {p50_ms} ms, p99 {p99_ms} ms, "
            "100 kB in {long_ms} ms".format(**result.speed)
        )
    parts.append(f"score hash {result.score_hash[:16]}")
    parts += [f"[yellow]warning:[/] {_escape(w)}" for w in result.warnings]
    parts += [f"[red]error:[/] {_escape(e)}" for e in result.errors]
    return [*parts, "[red]not fit to train on[/]" if result.errors else "[green]fit to train on[/]"]


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _reward(name: str, parameters: list[str]) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from adapters.integrations import named_reward

    values = {}
    for parameter in parameters:
        key, sign, text = parameter.partition("=")
        if not sign or not key:
            raise UserError(f"{parameter!r}: a parameter is written key=value, such as scorer=corrected.")
        try:
            values[key] = YAML(typ="safe", pure=True).load(text)
        except YAMLError:
            raise UserError(f"{parameter!r}: the value is not valid YAML; quote it if it is text.") from None
    try:
        return named_reward(name, **values)
    except UserError as error:
        wrong = error.at[-1] if error.at else ""
        raise UserError(f"{wrong}: {error}" if wrong in values else str(error)) from None


REWARD = '''"""A reward: what it pays for, in one sentence."""

import re
from dataclasses import dataclass

from rapidfuzz.distance import LCSseq

from adapters.types import Example, Scored


@dataclass(frozen=True)
class {cls}:
    """F1 of the words and signs that answer and target share in the same order. The fields are the YAML parameters."""

    ignore_case: bool = False

    def __call__(self, completion: str, example: Example) -> Scored:
        """A score in [0, 1] with its named parts. It must not raise, whatever the text."""
        if not example.completion:
            return Scored(None)  # nothing to compare with: the reward does not apply
        answer, target = self._tokens(completion), self._tokens(example.completion)
        shared = LCSseq.similarity(answer, target)
        precision = shared / len(answer) if answer else 0.0
        recall = shared / len(target) if target else 0.0
        f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
        return Scored(f1, {{"precision": precision, "recall": recall}})

    def _tokens(self, text: str) -> list[str]:
        return re.findall(r"\\w+|[^\\w\\s]", text.lower() if self.ignore_case else text)
'''

TEST = '''"""Tests of the reward in {name}.py."""

from adapters.testing import check_reward, examples
from {name} import {cls}

ROWS = examples("{task}")  # or examples("{task}", "my_rows.jsonl")


def test_{name}_is_fit_to_train_on() -> None:
    """Gold earns 1; empty, broken, cut and wrong answers earn less; same input, same score."""
    result = check_reward({cls}(), ROWS, "{task}")
    assert result.variants["empty"]["mean"] < 0.5


def test_{name}_gives_part_of_the_reward_for_a_part() -> None:
    """Half an answer earns something between nothing and everything."""
    target = ROWS[0].completion
    assert 0 < {cls}()(target[: len(target) // 2], ROWS[0]).score < 1
'''
