"""`adapters report`: a run as an HTML page."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.errors import errors

app = typer.Typer()


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or still running.")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The page; default: RUN/report.html.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write a run as one HTML page.

    It shows the stages, curves, figures with intervals, samples, rollouts, data and versions.
    """
    with errors():
        from adapters.report import write_report

        path = write_report(run_folder, out)
        print(path)
        if show:
            import webbrowser

            if not webbrowser.open(path.resolve().as_uri()):
                print(f"No browser was found; open {path} in one.")


def after_run(folder: Path) -> str:
    """Write the page at the end of a run and return its path. An error is logged, as the run itself is complete."""
    try:
        from adapters.report import write_report

        return str(write_report(folder))
    except Exception as error:
        logging.getLogger(__name__).exception("the HTML report could not be written")
        return f"not written ({error}); adapters report {folder} tries again"
