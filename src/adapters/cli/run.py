"""`adapters run`, `eval` and `report`: plan, train and evaluate; evaluate a run; show a run as an HTML page."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from adapters.cli.errors import State, errors
from adapters.cli.options import (
    AllTables,
    AsJson,
    Overrides,
    RecipePath,
    RunPath,
    Trust,
    TrustCode,
    consent,
    plugin_consent,
)
from adapters.environment import LATER, LOG_LEVEL, PROCESSES, SILENT
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from adapters.backends.jobs import Backend
    from adapters.evaluation.evaluate import SetFigures
    from adapters.pipeline.plan import Plan
    from adapters.pipeline.run_folder import RunFolder, Stage
    from adapters.recipe.load import RecipeFile

app = Typer()


@app.command()
def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Show the plan and stop.")] = False,
    fresh: Annotated[bool, Option("--fresh", help="Start over; the old run folder is kept as NAME.1 …")] = False,
    fork: Annotated[bool, Option("--fork", help="Like --fresh, but keep the unchanged stages.")] = False,
    seeds: Annotated[
        str | None,
        Option(metavar="SEED SEED …", help="A run for each seed, and figures over all: --seeds 1 2 3."),
    ] = None,
    launch: Annotated[Path | None, Option(help="Start several processes with this accelerate config file.")] = None,
    launch_args: Annotated[
        str, Option(metavar="OPTIONS", help="Options of accelerate launch, beside the file's: '--num_processes 4'.")
    ] = "",
    trust_remote_code: TrustCode = False,
    all_tables: AllTables = False,
    as_json: AsJson = False,
) -> None:
    """Run a recipe: plan, train, evaluate. Run again, it continues where it stopped."""
    from adapters.console import console, is_main
    from adapters.recipe.load import load_recipe

    with errors() as state:
        consent(trust_remote_code)
        if fresh and fork:
            raise UserError("--fresh starts over and --fork keeps stages; give one of them.")
        settings, of_seeds = _seeds(seeds, overrides or [])
        state.file = file = load_recipe(recipe, settings)
        if launch_args and launch is None:
            raise UserError("--launch-args goes with --launch FILE.")
        if launch is not None and dry_run:
            os.environ[PROCESSES] = LATER
        elif launch is not None:
            flags = {"--fresh": fresh, "--fork": fork, "--all": all_tables, "--json": as_json}
            flags["--seeds=" + ",".join(map(str, of_seeds))] = bool(of_seeds)
            command = ["-m", "adapters", str(recipe), *settings, *(f for f, given in flags.items() if given)]
            _launch(launch, launch_args, command)
        screen = console(stderr=as_json)
        _list_code(file, screen)
        folders: dict[int, Path] = {}
        names = {seed: f"{file.recipe.name}-seed{seed}" for seed in of_seeds}
        for own in [[f"name={name}", f"seed={seed}"] for seed, name in names.items()] or [[]]:
            state.file = file = load_recipe(recipe, [*settings, *own])
            plan, backend = plan_recipe(file, screen, dry_run)
            if dry_run:
                _show_plan(plan, screen)
                continue
            report = train(plan, backend, screen, state, fresh=fresh, fork=fork, all_tables=all_tables)
            folders[file.recipe.seed] = plan.folder
        if of_seeds and not dry_run:
            report = _over_seeds(folders, screen)
        if as_json and not dry_run and is_main():
            print(json.dumps(report))


def _seeds(first: str | None, words: Sequence[str]) -> tuple[list[str], list[int]]:
    """The overrides and the seeds: of `--seeds 1 2 3` the shell's words 2 and 3 stand among the overrides."""
    from adapters.pipeline import seeds

    if first is None:
        return list(words), []
    settings = [word for word in words if "=" in word]
    if "seed" in [setting.partition("=")[0] for setting in settings]:
        raise UserError("--seeds and seed=… exclude each other.")
    return settings, seeds.parse([first, *(word for word in words if "=" not in word)])


def _over_seeds(folders: Mapping[int, Path], screen: Console) -> dict[str, Any]:
    """Print the figures of all seeds, store them in each run, and write the pages again, which show them."""
    from adapters.cli import tables
    from adapters.console import is_main
    from adapters.pipeline import seeds

    if not is_main():
        return {}
    summary = seeds.summarise(folders)
    for table in tables.seed_tables(summary) if summary.lines else ():
        screen.print()
        screen.print(table)
    pages = [_write_page(folder) for folder in folders.values()]
    screen.print("\nReports, each with the figures of all seeds:", *pages, sep="\n", soft_wrap=True, markup=False)
    return summary.model_dump()


def _launch(config: Path, options: str, command: Sequence[str]) -> None:
    """Replace this process by accelerate's launcher, which starts several of them."""
    if not config.is_file():
        raise UserError(f"{config}: no such accelerate config file; see recipes/accelerate/.")
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise UserError(f"--launch-args: {error}.") from None
    os.environ.setdefault(LOG_LEVEL, SILENT)  # one sentence of the launcher says what torch's stack traces say
    launcher = [sys.executable, "-P", "-m", "adapters.cli.launch", "--quiet", "--config_file", str(config), *words]
    os.execv(sys.executable, [*launcher, *command])  # noqa: S606 - a list, which no shell reads


def _list_code(file: RecipeFile, screen: Console) -> None:
    """Print the files that the recipe's own plug-ins are, before they are imported."""
    from adapters.plugins import source_files, trust

    if own := trust.own_code(source_files.of_recipe(file.recipe, file.folder)):
        screen.print("The recipe's own code:", *trust.listing(own), sep="\n", markup=False, soft_wrap=True)


def plan_recipe(file: RecipeFile, screen: Console, dry_run: bool) -> tuple[Plan, Backend]:
    """Make the plan; warn when the Hub may refuse the bundle later."""
    from rich.markup import escape

    from adapters.console import is_main, phase, progress, quiet

    with quiet(None), progress("plan", "loading libraries"):
        from adapters.backends import backend as make_backend
        from adapters.pipeline.plan import check_first, make_plan
        from adapters.publish.hub import ask_hub

        check_first(file)
        backend = make_backend(file.recipe)
        plan = make_plan(file, backend, tokenizer_needed=not dry_run)
        phase("asking the Hub")
        warning = ask_hub(file) if is_main() and not dry_run else None
    if warning:
        screen.print(f"[yellow]warning:[/] {escape(warning)}")
    return plan, backend


def _show_plan(plan: Plan, screen: Console) -> None:
    from adapters.cli import tables
    from adapters.pipeline.plan import check_dropped_share

    screen.print(tables.plan_table(plan))
    check_dropped_share(plan)


def train(
    plan: Plan, backend: Backend, screen: Console, state: State, *, fresh: bool, fork: bool, all_tables: bool
) -> dict[str, Any]:
    """Train and evaluate what a plan names, print the results, and return the report."""
    from adapters.cli import tables
    from adapters.console import is_main, progress, quiet
    from adapters.pipeline import run as running

    with running.lock(plan.folder) if is_main() else nullcontext():
        if is_main():
            _keep_old_run(plan, screen, fresh=fresh, fork=fork)
        _show_plan(plan, screen)
        if is_main():
            running.open_or_resume(plan)
        state.log = plan.folder / "run.log"
        with quiet(state.log):
            report = running.run_plan(plan, backend)
            with progress("report", "writing the page"):
                page = _write_page(plan.folder) if is_main() else ""
            if is_main() and plan.recipe.report_to and plan.recipe.trainer == "local":
                from adapters.backends.local import tracking

                tracking.send_report(plan.recipe, plan.jobs[-1].folder, plan.folder / "report.html")
    tables.print_results(screen, report, plan.folder, everything=all_tables)
    screen.print(f"\nAdapter: {plan.jobs[-1].folder}\nReport: {page}", soft_wrap=True, markup=False)
    screen.print(tables.next_commands(plan.folder, plan.recipe), soft_wrap=True, markup=False)
    return report


def _keep_old_run(plan: Plan, screen: Console, *, fresh: bool, fork: bool) -> None:
    from adapters.pipeline import run as running

    if fork:
        old, stages = running.fork(plan)
    else:
        old, stages = running.set_aside(plan.folder) if fresh else None, []
    if old:
        screen.print(f"The old run is kept in {old}.", soft_wrap=True)
        if fork:
            screen.print(f"Taken over from it: {', '.join(stages) or 'nothing, the first stage differs'}.")


def _write_page(folder: Path) -> str:
    """Write the page at the end of a run and return its path. An error is logged, as the run itself is complete."""
    try:
        from adapters.report import write_report

        return str(write_report(folder))
    except Exception as error:
        logging.getLogger(__name__).exception("the HTML report could not be written")
        return f"not written ({error}); adapters report {folder} tries again"


@app.command("eval")
def evaluate(
    run_folder: RunPath,
    data: Annotated[list[Path] | None, Option(help="Test files instead of the recipe's sets.")] = None,
    compare: Annotated[
        list[Path] | None, Option(metavar="ADAPTER", help="Another run, or stage, to measure on the same test sets.")
    ] = None,
    trust: Trust = False,
    trust_remote_code: TrustCode = False,
    all_tables: AllTables = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate a run's last finished stage, or the given one, beside its base model.

    The teachers of a distilled stage are measured too. A test set given with --data is called NAME@HASH (of its
    content) and stands beside the recipe's own.
    """
    from adapters.cli import tables
    from adapters.console import console, is_main, quiet
    from adapters.pipeline.run_folder import RunFolder, given_name, refuse_links

    files = data or []
    with errors() as state:
        consent(trust_remote_code)
        run = RunFolder.open(run_folder)
        if missing := [str(path) for path in files if not path.is_file()]:
            raise UserError(f"--data: there is no file {missing[0]}.")
        stage = run.adapter_stage()
        stored = None if files or compare or trust or not run.names_unknown_code() else run.stored_figures(stage)
        if stored:
            note = "note: stored figures. The run names code that was not run here; --trust imports it and measures."
            console(stderr=True).print(note, soft_wrap=True)
            _show_figures({"name": run.name, "sets": stored}, run.path, all_tables=all_tables, as_json=as_json)
            return
        refuse_links(run.path)
        sets = [{"name": f"data{n}", "data": [{"path": str(path.resolve())}]} for n, path in enumerate(files)]
        overrides = [f"evaluate={json.dumps(sets)}"] if sets else ()
        state.file = file = run.recipe_file(overrides, consent=plugin_consent(trust))
        from adapters.pipeline.run import lock

        if not file.recipe.evaluate:
            raise UserError("the recipe names no test sets; give one with --data FILE.")
        with lock(run.path.absolute()) if is_main() else nullcontext():
            state.log = run.path / "run.log"
            with quiet(state.log):
                figures, asked = _measure(run, stage, file, files, compare or [])
            for path in files if not as_json else ():
                console().print(f"{given_name(path)}: {path}", markup=False, soft_wrap=True)
            report = {"name": file.recipe.name, "sets": figures}
            _show_figures(report, run.path, all_tables=all_tables, as_json=as_json, asked=asked)
            if not as_json:
                console().print(tables.next_commands(run.path, file.recipe), soft_wrap=True, markup=False)


def _show_figures(
    report: dict[str, Any], folder: Path, *, all_tables: bool, as_json: bool, asked: Sequence[str] = ()
) -> None:
    from adapters.cli import tables
    from adapters.console import console, is_main

    if not as_json:
        tables.print_results(console(), report, folder, everything=all_tables, asked=asked)
    elif is_main():
        print(json.dumps(report))


def _measure(
    run: RunFolder, stage: Stage, file: RecipeFile, data: Sequence[Path], others: Sequence[Path]
) -> tuple[dict[str, dict[str, SetFigures]], list[str]]:
    """Test set -> model -> figures, of the recipe's test sets or of `data`, which then stands in their place.

    `others` are measured beside the stage, as are its teachers; their labels are returned too. Raises UserError for one
    on another base.
    """
    from adapters.backends import backend as make_backend
    from adapters.console import console, is_main, progress
    from adapters.pipeline import distilling
    from adapters.pipeline.evaluations import evaluations
    from adapters.pipeline.run import evaluate_all, evaluated
    from adapters.pipeline.run_folder import given_name
    from adapters.plugins.registry import resolve
    from adapters.plugins.rewards import once_each, stage_rewards

    with progress("plan", "reading the test sets"):
        backend = make_backend(file.recipe)
        task = resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
        tests = evaluations(file, backend, task)
    if data:
        tests = tuple(replace(test, name=given_name(path)) for test, path in zip(tests, data, strict=True))
    names = (f"{n}-{one.kind}" for n, one in enumerate(file.recipe.stages, 1))
    rewards = once_each(zip(names, stage_rewards(file), strict=True))
    models: list[tuple[str, Path | None]] = [("base", None)] if file.recipe.evaluate_base else []
    teachers, notes = distilling.recorded(stage)
    if is_main():
        for note in notes:
            console(stderr=True).print(f"note: {note}", markup=False, soft_wrap=True)
    compared = distilling.others(others, file.recipe, backend, run)
    beside = teachers | compared
    models += [*beside.items(), (stage.name, stage.path)]
    earlier = {label: evaluated(path) for label, path in beside.items()}
    figures = evaluate_all(models, tests, task, rewards, run.path, backend, earlier)
    return figures, list(compared)


@app.command()
@errors()
def report(
    run_folder: Annotated[Path, Argument(metavar="RUN", help="A run folder, finished or still running.")],
    out: Annotated[Path | None, Option("-o", "--out", help="The page; default: RUN/report.html.")] = None,
    show: Annotated[bool, Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a run as one HTML page.

    It shows the stages, curves, figures with intervals, samples, rollouts, data and versions.
    """
    from adapters.report import write_report

    path = write_report(run_folder, out)
    print(path)
    if show:
        open_in_browser(path)


def open_in_browser(page: Path) -> None:
    """Open a page, or say that there is no browser."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        print(f"No browser was found; open {page} in one.")
