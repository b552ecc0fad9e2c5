"""`adapters view`: the records of an extraction in their texts, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from adapters.cli.errors import errors

app = Typer()


@app.command()
@errors()
def view(
    records: Annotated[Path, Argument(metavar="OUT", help="A finished output of `adapters extract`.")],
    out: Annotated[Path | None, Option("-o", "--out", help="The page; default: OUT.html.")] = None,
    corpus: Annotated[Path | None, Option(help="Where the corpus is now, if it was moved.")] = None,
    show: Annotated[bool, Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Write extracted records as one HTML page, marked in their texts, to check and correct.

    Accepted and corrected rows can be exported from the page as training rows.
    """
    from adapters.cli.run import open_in_browser
    from adapters.report import write_view

    page = write_view(records, out, corpus)
    print(page)
    if show:
        open_in_browser(page)
