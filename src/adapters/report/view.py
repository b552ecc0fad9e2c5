"""The output of an extraction as one HTML page: each text with its values marked, the record beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from filelock import FileLock, Timeout
from markupsafe import Markup

from adapters.data.row_forms import with_structures
from adapters.data.rows import BAD_ROW, read_records, survey
from adapters.errors import UserError
from adapters.evaluation import alignment
from adapters.extraction.extract import journal_path, manifest, manifest_path
from adapters.extraction.files import blocks
from adapters.files import json_line, replacing, sha256
from adapters.report.page import assets, environment, own_task
from adapters.types import Row

MATCHES = ("exact", "normalised", "fuzzy", "absent")
BLOCK = 500
"""Rows that the page reads at once."""
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
_GOLD = {"funding": "funders", "ie": "gold", "records": "object"}
"""Column of the labels in a training row of this project's tasks; `gold` in those of others."""
NO_RECORD, DIFFERS = 1, 4
"""Bits of a row's flags in the page."""


@dataclass(slots=True)
class _Index:
    """What the filters of the page need to know of all rows, without their texts."""

    labels: dict[str, int] = field(default_factory=dict)
    facets: dict[tuple[int, int, int | None], int] = field(default_factory=dict)
    """(label, match, confidence in percent) -> number."""
    rows: list[list[int]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    texts: int = 0
    grounded: int = 0
    confident: int = 0
    gold: int = 0


@dataclass(frozen=True, slots=True)
class _Extraction:
    """A finished output, with what its manifest says about it."""

    out: Path
    settings: Mapping[str, Any]
    counts: Mapping[str, Any]
    is_list: bool
    corpus: Path | None
    """Where the texts are read; None where the output has them."""
    task: Any
    """The task, if it is this project's."""

    @property
    def by_label(self) -> bool:
        """Whether gold is by label and a record is a list of labelled items, as in the task `ie`."""
        return self.settings["task"].get("use") == "ie"

    @property
    def form(self) -> dict[str, Any]:
        """How a record becomes a training row."""
        spec = self.settings["task"]
        return {
            "text": getattr(self.task, "text_field", self.settings["text"]),
            "gold": _GOLD.get(spec.get("use"), "gold"),
            "by_label": self.by_label,
            "list": self.is_list,
            "schema": list(spec.get("schema") or ()) if self.by_label else [],
            "kind": spec.get("kind"),
        }


def write_view(out: Path, page: Path | None = None, corpus: Path | None = None) -> Path:
    """Write the page of a finished extraction to `page`, or beside it. Raises UserError.

    `corpus` is where the corpus is now, if not where it was.
    """
    made = _opened(out, corpus)
    page = page or out.with_name(f"{out.name}.html")
    if page.resolve() in {path.resolve() for path in (out, made.corpus) if path}:
        raise UserError(f"-o {page} would overwrite what the page is made of.")
    index = _Index()
    try:
        # The rows come after their index in the page, and before it in time.
        with TemporaryFile() as rows, replacing(page) as temporary, temporary.open("wb") as file:
            _write_blocks(made, index, rows)
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


def _opened(out: Path, corpus: Path | None) -> _Extraction:
    value = manifest(out)
    if value is None or "schema" not in value:
        raise UserError(f"{out} is no output of adapters extract: {_what_is(out)}.")
    if not value.get("complete") or not out.is_file():
        raise UserError(f"{out} is not finished: {_who_writes(out)}.")
    settings = value["settings"]
    if corpus is None and settings["text"] not in settings["keep"]:
        corpus = _recorded_corpus(out, value.get("paths"))
    if corpus is not None and survey(corpus)[1] != settings["input"]:
        raise UserError(f"{out} was not made from {corpus} as it is now; name the corpus as it was with --corpus FILE.")
    record = value["schema"]["properties"]["record"]
    return _Extraction(
        out=out,
        settings=settings,
        counts=value.get("counts") or {},
        is_list=record.get("type") == "array",
        corpus=corpus,
        task=own_task(settings["task"]),
    )


def _what_is(out: Path) -> str:
    if not out.exists() and not manifest_path(out).exists():
        return "there is no such file"
    samples = manifest(out) is not None
    return "adapters sample wrote it" if samples else f"{manifest_path(out).name} is missing or damaged"


def _who_writes(out: Path) -> str:
    lock = Path(f"{out}.lock")
    done = journal_path(out).read_bytes().count(b"\n") if journal_path(out).is_file() else 0
    if lock.exists():
        try:
            with FileLock(lock).acquire(blocking=False):
                pass
        except Timeout:
            return f"another process is writing it, and has done {done:,} rows; ask again when it has ended"
    return f"{done:,} rows are done; the same `adapters extract` continues with the others"


def _recorded_corpus(out: Path, paths: Any) -> Path:
    recorded = paths.get("input") if isinstance(paths, dict) else None
    if recorded is None:
        raise UserError(f"{manifest_path(out)} does not say where the corpus is; name it with --corpus FILE.")
    if not Path(recorded).exists():
        raise UserError(f"the corpus of {out} is no longer at {recorded}; name it with --corpus FILE.")
    return Path(recorded)


def _no_text(made: _Extraction) -> str:
    where = made.corpus or made.out
    return f"no row of {where} has a text in the column {made.settings['text']!r}, so there is nothing to show."


def _lines(made: _Extraction) -> Iterator[tuple[dict[str, Any], Row]]:
    """Lines of the output, each with its row of the corpus; both are in the same order."""
    corpus = read_records(made.corpus) if made.corpus else iter(())
    structures = getattr(made.task, "structures", ())
    for _, line in read_records(made.out):
        if not isinstance(number := line.get("row"), int):
            raise UserError(f"{made.out} is damaged: a row has no number.")
        row = next((row for n, row in corpus if n == number), {}) if made.corpus else line
        # Parquet has values without fixed columns as JSON text.
        found = {
            name: json.loads(value) if isinstance(value := line.get(name), str) else value
            for name in ("record", "spans")
        }
        yield {**line, **found}, {} if BAD_ROW in row else with_structures(row, structures)


def _write_blocks(made: _Extraction, index: _Index, file: IO[bytes]) -> None:
    for number, block in enumerate(blocks(_lines(made), BLOCK)):
        lines = [_embedded(_checked_row(made, index, line, row)) for line, row in block]
        opening = f'<script type="application/json" id="rows-{number}">['
        file.write(opening.encode() + b",\n".join(lines) + b"]</script>\n")


def _embedded(value: Mapping[str, Any]) -> bytes:
    """JSON that no HTML parser takes for a tag."""
    return json_line(value).rstrip().replace(b"<", b"\\u003c")


def _checked_row(made: _Extraction, index: _Index, line: Mapping[str, Any], row: Row) -> dict[str, Any]:
    try:
        return _row(made, index, line, row)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise UserError(f"{made.out}, row {line['row']}: the column spans does not fit the record.") from None


def _row(made: _Extraction, index: _Index, line: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """One row of the page, noted in the index."""
    text, record, spans = row.get(made.settings["text"]), line.get("record"), line.get("spans")
    text = text if isinstance(text, str) and text else None
    differing = None if record is None else _differing(made, index, record, row)
    index.texts += text is not None
    index.grounded += spans is not None
    index.rows.append(sorted(set(_facets(made, index, record, spans or ()))))
    index.flags.append(NO_RECORD * (record is None) + DIFFERS * bool(differing))
    out = {"row": line["row"], "id": str(line.get("id")), "text": text, "record": record, "error": line.get("error")}
    out |= {"spans": None if spans is None else [_short(span) for span in spans]}
    out |= {"completion": line["completion"]} if line.get("completion") else {}
    out |= {"gold": differing} if differing else {}
    if made.by_label:
        out["more"] = {name: row[name] for name in ("schema", "task") if row.get(name)}
    return out


def _short(span: Mapping[str, Any]) -> list[Any]:
    place = [span["start"], span["end"]]
    others = [mention for mention in span.get("mentions") or () if list(mention) != place]
    return [span["path"], MATCHES.index(span["match"]), *place, _sure(span), others]


def _sure(span: Mapping[str, Any]) -> float | None:
    """Confidence of a value; in an output without it the score of a fuzzy match."""
    value = span.get("confidence", span["score"] if span["match"] == "fuzzy" else None)
    return None if value is None else round(float(value), 3)


def _facets(made: _Extraction, index: _Index, record: Any, spans: Iterable[Mapping[str, Any]]) -> Iterator[int]:
    for span in spans:
        index.confident += "confidence" in span
        label = _label(made, record, span["path"])
        if label is None:
            continue
        sure = _sure(span)
        percent = None if sure is None else int(sure * 100)
        key = index.labels.setdefault(label, len(index.labels)), MATCHES.index(span["match"]), percent
        yield index.facets.setdefault(key, len(index.facets))


def _label(made: _Extraction, record: Any, path: str) -> str | None:
    """The name of a value: of a labelled item its label, elsewhere the last key; None for a label itself."""
    parts = path.split(".")
    if made.by_label:
        return None if parts[-1] == "label" else str(record[int(parts[0])]["label"])
    return next((part for part in reversed(parts) if not part.isdigit()), "value")


def _differing(made: _Extraction, index: _Index, record: Any, row: Row) -> list[alignment.Aligned] | None:
    """The record beside the row's labels as the task compares them; None where it agrees, or there are none."""
    task = made.task
    if not any(row.get(name) is not None for name in (made.form["gold"], "gold")):
        return None
    try:
        gold = task.gold(row)
        answer = _items_by_label(record) if made.by_label else record
        compared = [] if gold == answer else alignment.align(task, gold, task.answer(answer))
    except Exception:  # another package's task (None here), or labels and records that it cannot read
        return None
    index.gold += 1
    return compared if any(not pair.matched for pair in compared) else None


def _items_by_label(record: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    out: dict[str, list[Any]] = {}
    for item in record:
        ends = {"head": item["head"], "tail": item["tail"]}
        out.setdefault(item["label"], []).append(ends if item["text"] is None else item["text"])
    return out


def _shell(made: _Extraction, index: _Index) -> str:
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
            head=Markup(_embedded(head).decode()),  # noqa: S704 - JSON without "<"
            rows=Markup("<!--rows-->"),
        )
    )


def _notes(made: _Extraction, index: _Index) -> Iterator[str]:
    rows = len(index.rows)
    if not index.grounded:
        yield "Nothing is marked: this output has no offsets (the column spans), which `adapters extract` now adds."
    if index.texts < rows:
        yield f"Rows without a text in the column {made.settings['text']!r}: {rows - index.texts:,} of {rows:,}."
