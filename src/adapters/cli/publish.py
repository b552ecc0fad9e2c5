"""`adapters publish` and `adapters merge`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.errors import complain, errors
from adapters.cli.options import AsJson, RunPath
from adapters.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from adapters.publish.finished_run import Finished
    from adapters.publish.release import Release

app = typer.Typer()


@app.command()
def publish(
    run_folder: RunPath,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="publish.KEY=VALUE", help="Such as publish.license=mit.")
    ] = None,
    repo: Annotated[str | None, typer.Option("--repo", metavar="OWNER/NAME", help="The repository on the Hub.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Create the repository public; default: private.")] = False,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag of the published commit.")] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="RUN", help="An earlier run, for the card's comparison.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make and verify the bundle, show it, push nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bundle a finished run's adapter, verify the bundle, and push it to the Hub.

    Called again, it only pushes.
    """
    from adapters.console import console, quiet
    from adapters.publish import finished_run, release

    flags = [f"publish.repo={json.dumps(repo)}"] if repo else []
    flags += ["publish.private=false"] if public else []
    flags += [f"publish.tag={json.dumps(tag)}"] if tag else []
    with errors() as state:
        done = finished_run.read(run_folder, [*(overrides or []), *flags])
        state.file, state.log = done.file, done.folder / "run.log"
        earlier = finished_run.read(compare) if compare else None
        screen = console(stderr=as_json)
        if not dry_run and done.settings.repo:
            _may_push(done.settings.repo)  # before the slow part
        with quiet(done.folder / "run.log"), screen.status("…") as status:
            made = release.prepare(done, earlier, status.update)
        _show(made, screen)
        if not made.passed:
            failed = next(check for check in made.checks if not check.passed)
            complain(f"The gate refuses this adapter: {failed.name}: {failed.detail}\nNothing was published.")
            _speak(as_json, made, None)
            raise typer.Exit(3)
        if dry_run:
            screen.print(f"Nothing was pushed. The bundle: {made.folder}")
        _speak(as_json, made, None if dry_run else _push(made, done, screen))


@app.command()
def merge(
    run_folder: RunPath,
    out: Annotated[Path, typer.Option("-o", "--out", help="The model's new folder; it must not exist.")],
    dtype: Annotated[
        str, typer.Option("--dtype", help="bfloat16, float16 or float32; auto: as the base is stored.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Merge base and adapter into one model, for servers without LoRA.

    The merged model is loaded again and its answers are compared with the adapter's.
    """
    from adapters.console import console, quiet
    from adapters.publish import finished_run

    with errors() as state:
        if dtype not in ("auto", "bfloat16", "float16", "float32"):
            raise UserError(f"--dtype {dtype}: one of auto, bfloat16, float16 and float32.")
        if out.exists():
            raise UserError(f"{out} exists already; nothing was written.")
        done = finished_run.read(run_folder)
        state.file, state.log = done.file, done.folder / "run.log"
        screen = console(stderr=as_json)
        with quiet(done.folder / "run.log"), screen.status("merging"):
            from adapters.publish import merge_adapter

            result = merge_adapter.merge(done, out, dtype)
        if not result["passed"]:
            complain(f"The merged model does not answer like the adapter: {result['detail']}\nNothing was written.")
            raise typer.Exit(3)
        screen.print(f"{out}: {result['detail']}")
        if as_json:
            print(json.dumps({"folder": str(out), **result}))


def _may_push(repo: str) -> None:
    from adapters.publish.hub import HubError, rights

    try:
        problems = rights(repo)
    except HubError as error:
        complain(f"{error}. Nothing was pushed; --dry-run makes and verifies the bundle without the Hub.")
        raise typer.Exit(1) from None
    if problems:
        raise UserError("\n".join(problems), at=("publish", "repo"))


def _push(made: Release, done: Finished, screen: Console) -> dict[str, Any]:
    from adapters.publish import release
    from adapters.publish.hub import HubError

    try:
        screen.print(f"pushing to {made.repo}")  # huggingface_hub draws the progress
        pushed = release.push(made, done, screen.print)
    except HubError as error:
        complain(f"{error}\nThe verified bundle is kept in {made.folder}; the same command only pushes it.")
        raise typer.Exit(1) from None
    what = "pushed" if pushed.new else "already there, unchanged"
    screen.print(f"{pushed.url}: {what}, tag {pushed.tag}, commit {pushed.commit[:12]}")
    if pushed.strangers:
        screen.print(f"Left alone, as they are not part of this bundle: {', '.join(pushed.strangers)}")
    return asdict(pushed)


def _show(made: Release, screen: Any) -> None:
    from rich.table import Table

    table = Table(title=f"gate{' (verified before)' if made.reused else ''}", title_justify="left")
    for column in ("check", "", "result"):
        table.add_column(column)
    for check in made.checks:
        table.add_row(check.name, "passed" if check.passed else "FAILED", check.detail)
    screen.print(table)
    table = Table(title=f"bundle for {made.repo}", title_justify="left")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, size in made.files.items():
        table.add_row(name, f"{size:,}")
    table.add_row("together", f"{sum(made.files.values()):,}")
    screen.print(table)
    for note in made.notes:
        screen.print(f"note: {note}", markup=False)


def _speak(as_json: bool, made: Release, pushed: dict[str, Any] | None) -> None:
    if as_json:
        checks = [check._asdict() for check in made.checks]
        print(json.dumps({"bundle": str(made.folder), "passed": made.passed, "checks": checks, "files": made.files,
                          "notes": made.notes, "pushed": pushed}))  # fmt: skip
