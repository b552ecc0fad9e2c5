"""The console command. Each verb is a thin call into one module, and imports it only when it is used."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.types import UserError

if TYPE_CHECKING:
    from adapters.recipe_file import RecipeFile

app = typer.Typer(
    help="From labelled text to a publishable LoRA adapter.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
rewards_app = typer.Typer(help="The reward workshop.", no_args_is_help=True)
app.add_typer(rewards_app, name="rewards")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def run_file(recipe: str) -> None:
    """Run a recipe with this process's remaining arguments; the door that `accelerate launch` comes through."""
    # Python put the recipe's folder first on the path; its folders must not shadow libraries.
    if sys.path and Path(sys.path[0] or ".").resolve() == Path(recipe).resolve().parent:
        sys.path.pop(0)
    app(["run", recipe, *sys.argv[1:]], prog_name="adapters")


@app.callback()
def _start() -> None:
    try:
        distribution("adapters")
    except PackageNotFoundError:
        return
    _complain(
        "AdapterHub's package `adapters` is installed in this environment and shares its import name with "
        "extraction-adapters; one overwrites the other's files. Use a separate environment, or: "
        "pip uninstall adapters && pip install --force-reinstall --no-deps extraction-adapters"
    )
    raise typer.Exit(2)


@app.command()
def run(
    recipe: RecipePath,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="stages.1.beta=0.01 …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over; the old run folder is kept as NAME.1 …")] = False,
    launch: Annotated[
        Path | None, typer.Option("--launch", help="Start several processes with this accelerate config file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: plan, train, evaluate. Started again, it continues where it stopped."""
    from adapters import display, recipe_file

    with _errors() as state:
        state.file = file = recipe_file.load(recipe, overrides or [])
        if launch is not None:
            _launch(launch, recipe, overrides or [], fresh=fresh, as_json=as_json)
        from adapters import plan as planning
        from adapters import run as running
        from adapters.backends import backend as make_backend

        folder = planning.run_folder(file.recipe)
        state.log = None if dry_run else folder / "run.log"
        if fresh and not dry_run and display.is_main() and (kept := running.set_aside(folder)):
            display.console().print(f"The old run is kept in {kept}.")
        with display.quiet(state.log):
            screen = display.console(stderr=as_json)
            with screen.status("reading data and checking the recipe"):
                backend = make_backend(file.recipe)
                if file.recipe.trainer == "local":
                    display.quiet_libraries()
                plan = planning.make(file, backend, tokenizer_needed=not dry_run)
            screen.print(display.plan_table(plan))
            if dry_run:
                return
            report = running.run(plan, backend)
            for table in display.result_tables(report, mode=None):
                screen.print(table)
            screen.print(f"Adapter: {plan.jobs[-1].folder}   report: {folder / 'report.json'}")
        if as_json and display.is_main():
            print(json.dumps(report))


@app.command("eval")
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or one of its stage folders.")],
    data: Annotated[list[Path] | None, typer.Option("--data", help="Test files instead of the recipe's sets.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a finished run's last adapter (or the given stage's) beside its base model."""
    from adapters import display, recipe_file

    with _errors() as state:
        stage = run_folder if (run_folder / "manifest.json").is_file() else None
        run_folder = run_folder.parent if stage else run_folder
        if not (run_folder / "recipe.yaml").is_file():
            raise UserError(f"{run_folder} is no run folder: it holds no recipe.yaml.")
        tree = json.loads((run_folder / "recipe.json").read_text(encoding="utf-8"))
        chosen = (
            [f"evaluate={json.dumps([{'name': p.stem, 'data': [{'path': str(p.resolve())}]} for p in data])}"]
            if data
            else []
        )
        root = [] if data or tree.get("data_root") else [f"data_root={tree.get('data_root') or '.'}"]
        file = recipe_file.load(run_folder / "recipe.yaml", [*_as_overrides(tree), *root, *chosen])
        state.file = file
        from adapters import plan as planning
        from adapters import run as running
        from adapters.backends import backend as make_backend
        from adapters.plugins import resolve

        with display.quiet(run_folder / "run.log"):
            backend = make_backend(file.recipe)
            display.quiet_libraries()
            finished = [stage] if stage else sorted(p.parent for p in run_folder.glob("*-*/manifest.json"))
            if not finished:
                raise UserError(f"{run_folder} holds no finished stage yet.")
            task = resolve("tasks", file.recipe.task, folder=run_folder, at=("task",))
            tests = planning.evaluations(file, backend, task)
            rewards = {r.name: r for stage in planning.stage_rewards(file) for r in stage}
            models = [("base", None), (finished[-1].name, finished[-1])]
            sets = running.evaluate_all(models, tests, task, list(rewards.values()), run_folder, backend)
        report = {"name": file.recipe.name, "sets": sets}
        for table in [] if as_json else display.result_tables(report):
            display.console().print(table)
        if as_json and display.is_main():
            print(json.dumps(report))


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

    with _errors():
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
    task: Annotated[str, typer.Argument(help="funding")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same rows.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSONL file; default: standard output.")] = None,
) -> None:
    """Make labelled training rows."""
    from adapters import data
    from adapters.recipe import SynthesizedSource

    with _errors():
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

    with _errors():
        rows = noisy_files.noised(file, use=use, level=level, policy=policy, seed=seed, task=task, variants=variants)
        if out is not None:
            _write_lines((result.row for result in rows), out)
            return
        for result, _ in zip(rows, range(n), strict=False):
            display.console().print(noisy_files.before_and_after(result), end="\n\n")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of your recipe; the file is NAME.yaml.")],
    source: Annotated[str, typer.Option("--from", help="A shipped recipe.")] = "quickstart",
) -> None:
    """Copy a shipped recipe to start one of your own."""
    from adapters.recipe_file import hint

    with _errors():
        shipped = {p.stem: p for p in _shipped_recipes().glob("*.yaml")}
        if source not in shipped:
            raise UserError(f"no shipped recipe is called {source!r}.{hint(source, sorted(shipped))}")
        target = Path(f"{name}.yaml")
        if target.exists():
            raise UserError(f"{target} exists already; nothing was written.")
        text = shipped[source].read_text(encoding="utf-8")
        target.write_text(text.replace(f"\nname: {source}\n", f"\nname: {name}\n"), encoding="utf-8")
        print(f"{target} written. Try: adapters run {target} --dry-run")


@app.command()
def schema() -> None:
    """Print the recipe's JSON schema, for editors."""
    from adapters.recipe import Recipe

    print(json.dumps(Recipe.model_json_schema(), indent=2, ensure_ascii=False))


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

    with _errors():
        rows = scoring.score_rewards(name, file, task=task)
        _write_lines(rows, out)
        scores = [row["reward"] for row in rows if row["reward"] is not None]
        if scores:
            display.console(stderr=True).print(f"{name}: mean {sum(scores) / len(scores):.4f} over {len(scores)} rows")


# --- shared -----------------------------------------------------------------------------------------------------


class _State:
    file: RecipeFile | None = None
    log: Path | None = None


@contextmanager
def _errors() -> Iterator[_State]:
    """One message and the right exit code, whatever goes wrong: 2 for the person's input, 1 for failed work."""
    state = _State()
    try:
        yield state
    except UserError as error:
        _complain(state.file.locate(error) if state.file else str(error))
        raise typer.Exit(2) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except (KeyboardInterrupt, typer.Exit):
        raise
    except Exception as error:
        if state.log is None or not state.log.parent.is_dir():
            raise
        with state.log.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        rank = os.environ.get("RANK")
        who = f"process {rank}: " if rank else ""
        print(f"{who}the run failed: {type(error).__name__}: {error}\nDetails: {state.log}", file=sys.stderr)
        print("What is finished is kept; the same command continues from there.", file=sys.stderr)
        raise typer.Exit(1) from None


def _complain(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(message, file=sys.stderr)


def _launch(config: Path, recipe: Path, overrides: list[str], *, fresh: bool, as_json: bool) -> None:
    if not config.is_file():
        raise UserError(f"{config}: no such accelerate config file; see recipes/accelerate/.")
    flags = (["--fresh"] if fresh else []) + (["--json"] if as_json else [])
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--quiet"]
    command = [*launcher, "--config_file", str(config), "-m", "adapters", str(recipe), *overrides, *flags]
    os.execv(sys.executable, command)  # noqa: S606 - arguments are passed as a list, no shell reads them


def _as_overrides(tree: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in tree.items() if not key.startswith("if ")]


def _shipped_recipes() -> Path:
    inside = Path(__file__).parent / "recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


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
