"""The output of an extraction as one HTML page: each text with its values marked, the record beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

from markupsafe import Markup

from adapters.errors import UserError
from adapters.files import replacing, sha256
from adapters.report.page import assets, environment
from adapters.report.view_rows import BLOCK, MATCHES, Index, embedded, write_blocks
from adapters.report.view_source import Extraction, opened

KEYS = {
    "j ↓ k ↑": "next, previous row",
    "Home End PgUp PgDn": "first, last row, a page",
    "n": "next row that is not decided",
    "a": "accept, and go on",
    "r": "reject, and go on",
    "e": "correct the record as JSON",
    "v, Tab": "to the values; Enter corrects one, an empty text removes it",
    "u": "undo the decision",
    "f": "to the filters; Escape goes back",
    "x": "export accepted and corrected rows",
    "?": "these keys",
}


def write_view(out: Path, page: Path | None = None, corpus: Path | None = None) -> Path:
    """Write the page of a finished extraction to `page`, or beside it. Raises UserError.

    `corpus` is where the corpus is now, if not where it was.
    """
    made = opened(out, corpus)
    page = page or out.with_name(f"{out.name}.html")
    if page.resolve() in {path.resolve() for path in (out, made.corpus) if path}:
        raise UserError(f"-o {page} would overwrite what the page is made of.")
    index = Index()
    try:
        # The rows come after their index in the page, and before it in time.
        with TemporaryFile() as rows, replacing(page) as temporary, temporary.open("wb") as file:
            write_blocks(made, index, rows)
            if not index.texts:
                raise UserError(_no_text(made))
            before, _, after = _shell(made, index).partition("<!--rows-->")
            file.write(before.encode("utf-8", "replace"))
            rows.seek(0)
            while part := rows.read(1 << 20):
                file.write(part)
            file.write(after.encode())
    except OSError as error:
        raise UserError(f"{page} cannot be written: {error.strerror}. Give another file with -o FILE.") from None
    return page


def _no_text(made: Extraction) -> str:
    where = made.corpus or made.out
    return f"no row of {where} has a text in the column {made.settings['text']!r}, so there is nothing to show."


def _shell(made: Extraction, index: Index) -> str:
    """The page around its rows."""
    head = {
        "name": made.out.name,
        "key": sha256(made.out)[:16],
        "form": made.form,
        "sure": "confidence" if index.confident else "score",
        "labels": list(index.labels),
        "matches": MATCHES,
        "facets": list(index.facets),
        "rows": index.rows,
        "flags": index.flags,
        "block": BLOCK,
    }
    words = {"rows": "rows", "records": "records", "empty": "of them empty"}
    facts = [(word, f"{made.counts[key]:,}") for key, word in words.items() if key in made.counts]
    return (
        environment()
        .get_template("view.html.j2")
        .render(
            **assets(("page.js", "marks.js", "view.js"), ("page.css", "view.css")),
            name=made.out.name,
            facts=[*facts, ("base", made.settings.get("base") or "?")],
            notes=list(_notes(made, index)),
            keys=KEYS.items(),
            gold=index.gold,
            head=Markup(embedded(head).decode()),  # noqa: S704 - JSON without "<"
            rows=Markup("<!--rows-->"),
        )
    )


def _notes(made: Extraction, index: Index) -> Iterator[str]:
    rows = len(index.rows)
    if not index.grounded:
        yield "Nothing is marked: this output has no offsets (the column spans), which `adapters extract` now adds."
    if index.texts < rows:
        yield f"Rows without a text in the column {made.settings['text']!r}: {rows - index.texts:,} of {rows:,}."
