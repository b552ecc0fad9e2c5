"""`adapters data build-nte`: questions for proxies from rows of entities."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from adapters.cli.data import data_app, write_lines
from adapters.cli.errors import errors
from adapters.cli.options import AsJson, Seed, grouped
from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.data_aug.mine.nte import Settings


@dataclass(frozen=True)
class NteOptions:
    """What is asked of the texts, and how many rows are kept."""

    kind: Annotated[str, Option(help="span or label.")] = "span"
    question: Annotated[str | None, Option(help="Of spans: 'Which {label} is named?'; default: the label's name.")] = (
        None
    )
    statement: Annotated[str, Option(help="Of labels, with {label}.")] = "This text mentions a {label}"
    negatives: Annotated[float, Option(help="Share of rows with nothing to find, at most.")] = 0.5
    max_rows: Annotated[int | None, Option(min=1, help="At most so many rows, drawn by the seed.")] = None
    seed: Seed = 0

    def of(self) -> Settings:
        """The settings. Raises UserError."""
        from adapters.data_aug.mine.nte import Settings

        if self.kind not in ("span", "label"):
            raise UserError(f"--kind is span or label, not {self.kind!r}.")
        try:
            return Settings(**vars(self))
        except ValueError as error:
            raise UserError(f"--{error}.") from None


@data_app.command("build-nte")
@grouped
@errors()
def build_nte(
    files: Annotated[list[Path], Argument(metavar="IE_ROWS...", help="Rows of entities, as `data convert` writes.")],
    out: Annotated[Path, Option("-o", "--out", help="JSONL file to write.")],
    options: NteOptions,
    exclude: Annotated[list[Path] | None, Option(help="Test rows, whose texts are left out; may be repeated.")] = None,
    form: Annotated[str, Option("--as", help="rows of the task mine, or nte: published words and tags.")] = "rows",
    as_json: AsJson = False,
) -> None:
    """Make rows of the task mine: for each text and label of its schema one question.

    A label's own places in `spans` are kept; without them, every free-standing place of a gold string is one.
    """
    from adapters.data.examples import fold
    from adapters.data.rows import read_file
    from adapters.data_aug.mine import nte

    if form not in ("rows", "nte"):
        raise UserError(f"--as is rows or nte, not {form!r}.")
    settings = options.of()
    tests = {fold(str(row.get("text") or "")) for path in exclude or [] for _, row in read_file(path, strict=True)}
    try:
        rows = (row for path in files for _, row in read_file(path, strict=True))
        built = nte.build(rows, settings, lambda text: fold(text) in tests)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    if not built.rows:
        raise UserError(f"{files[0]}: no row is left: {built.summary()}.")
    write_lines(nte.as_nte(built.rows) if form == "nte" else built.rows, out)
    summary = built.summary()
    if as_json:
        print(json.dumps(summary))
        return
    print(
        f"{out}: {summary['rows']:,} rows, {summary['positives']:,} with something to find, {summary['empty']:,} empty"
    )
    for key, what in _LEFT_OUT.items():
        if summary[key]:
            print(f"left out: {summary[key]:,} {what}")
    for label, n in built.not_found.items():
        if n:
            print(f"not found in its text: {n:,} of {label}")


_LEFT_OUT = {
    "empty_left_out": "questions with nothing to find (--negatives)",
    "excluded": "texts of the test rows (--exclude)",
    "relations": "rows of relations",
    "repeated": "questions that were asked of the same text before",
}
