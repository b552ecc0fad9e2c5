"""`adapters publish-data`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option, Typer

from adapters.cli.errors import complain, errors
from adapters.cli.options import AsJson
from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.publish.dataset import Found

app = Typer()


@app.command("publish-data")
@errors()
def publish_data(
    files: Annotated[list[Path], Argument(metavar="FILE...", help="Data files: made, noised or mined rows.")],
    repo: Annotated[str, Option(metavar="OWNER/NAME", help="The dataset repository on the Hub.")],
    licenses: Annotated[
        list[str] | None, Option("--license", metavar="SOURCE=ID", help="Licence of a source or file; may be repeated.")
    ] = None,
    without: Annotated[
        list[str] | None, Option(metavar="NAME", help="A source or a column to leave out; may be repeated.")
    ] = None,
    about: Annotated[str | None, Option(metavar="TEXT", help="What the rows are, for the card.")] = None,
    language: Annotated[str, Option(metavar="CODES", help="ISO 639 codes, comma-separated.")] = "en",
    public: Annotated[bool, Option("--public", help="Create the repository public; default: private.")] = False,
    out: Annotated[
        Path | None, Option("-o", "--out", help="The folder that --dry-run writes; default: the repository's name.")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Write the repository's folder, push nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish rows as a dataset repository with a card that says each source's licence.

    A row's source is its column `source`, else the file's name. A source whose licence is not known stops the command.
    """
    from adapters.publish import dataset
    from adapters.publish.hub import HubError, rights

    languages = tuple(language.split(","))
    _check("--repo", repo=repo)
    _check("--language", language=languages)
    wanted = dataset.Wanted(files, repo, _pairs(licenses or []), without or (), about, languages)
    pushed = None
    try:
        if dry_run:
            folder = out or Path(repo.partition("/")[2])
            found = dataset.make(wanted, folder)
            _show(found, f"Nothing was pushed. The folder: {folder}", as_json)
        else:
            if out:
                raise UserError("-o is the folder that --dry-run writes; give both.")
            if problems := rights(repo, kind="dataset"):
                raise UserError("; ".join(problems))
            with tempfile.TemporaryDirectory() as work:
                found = dataset.make(wanted, Path(work) / "dataset")
                pushed = dataset.push(Path(work) / "dataset", repo, private=not public)
            _show(found, f"{pushed['url']}: {'pushed' if pushed['new'] else 'already there, unchanged'}", as_json)
            if pushed["strangers"]:
                complain(f"Left alone, as they are not part of this dataset: {', '.join(pushed['strangers'])}")
    except HubError as error:
        complain(f"{error}\nThe same command repeats the push.")
        raise Exit(1) from None
    if as_json:
        sources = [{"source": s, "license": i, "rows": n} for (s, i), n in sorted(found.sources.items())]
        print(json.dumps({"sources": sources, "left_out": found.left_out, "pushed": pushed}, ensure_ascii=False))


def _pairs(given: list[str]) -> dict[str, str]:
    """SOURCE=ID as a mapping; a source may hold an equals sign, an id may not."""
    pairs = {}
    for text in given:
        source, sign, licence = text.rpartition("=")
        if not (sign and source and licence):
            raise UserError(f"--license {text}: write SOURCE=ID, such as statements=cc-by-4.0.")
        _check("--license", license=licence)
        pairs[source] = licence
    return pairs


def _check(option: str, **values: object) -> None:
    """Raise UserError for what a recipe's `publish:` section would not take either."""
    from pydantic import ValidationError

    from adapters.recipe.publish import Publish

    try:
        Publish.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{option}: {fault}{'' if fault.endswith('?') else '.'}") from None


def _show(found: Found, last: str, as_json: bool) -> None:
    from adapters.console import console, new_table

    screen = console(stderr=as_json)
    table = new_table("rows", ["source", "licence"], ["rows"])
    for (source, licence), rows in sorted(found.sources.items()):
        table.add_row(source, licence, f"{rows:,}")
    screen.print(table)
    for what, rows in sorted(found.left_out.items()):
        screen.print(f"left out: {what}, {rows:,} rows", markup=False)
    screen.print(last, soft_wrap=True)
