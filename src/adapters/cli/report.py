"""The verb that shows a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.errors import errors

app = typer.Typer()


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or still at work.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Where to write; default: RUN/report.html.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Show a run as one HTML page: stages, curves, figures with intervals, samples, rollouts, data, versions."""
    with errors():
        from adapters.report import write_report

        path = write_report(run_folder, out)
        print(path)
        if show:
            import webbrowser

            if not webbrowser.open(path.resolve().as_uri()):
                print(f"No browser was found; open {path} in one.")


def after_run(folder: Path) -> str:
    """Write the page at the end of a run; says where it is. Never fails: the run is done, and its page is an extra."""
    try:
        from adapters.report import write_report

        return str(write_report(folder))
    except Exception as error:
        logging.getLogger(__name__).exception("the HTML report could not be written")
        return f"not written ({error}); adapters report {folder} tries again"
