"""An adapter run over a corpus: one record for each row, in the order of the input.

OUT appears when it is complete. OUT.manifest.json holds the settings, which a restart must share, and the counts.
OUT.partial is the journal of an unfinished run (see `journal.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from adapters.backends.json_stop import first_value
from adapters.data.json_text import label_text
from adapters.data.row_forms import conversion_hint
from adapters.data.rows import BAD_ROW, arrow_schema, column_names, read_records, survey
from adapters.errors import UserError, hint
from adapters.extraction import confidence, files, grounding, long_texts
from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Cutter
from adapters.extraction.engine import Answer, Engine, Request, not_all_empty
from adapters.extraction.files import blocks
from adapters.extraction.journal import Journal
from adapters.extraction.long_texts import OpenRows
from adapters.extraction.resumable import complete, journal_path
from adapters.files import sha256
from adapters.secrets import redact
from adapters.types import Message, Normaliser, Progress, Row

COLUMNS = (
    "row",
    "id",
    "record",
    "error",
    "tokens",
    "chunks",
    "completion",
    "spans",
    "confidence",
    "unsure",
    "normalized",
)
"""The output's own columns."""


class Gather(Protocol):
    """Takes the `extra` of answers out of the finished rows, and counts it."""

    def __call__(self, row: dict[str, Any]) -> bool:
        """Read a finished row, in the order of the input, and remove `extra`. Says whether the row is written."""
        ...

    def finish(self) -> Mapping[str, Any]:
        """The counts, after the last row."""
        ...


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """A checked extraction. A restart must have the same `settings`."""

    source: Source
    input: Path
    out: Path
    text: str
    keep: tuple[str, ...]
    rows: int
    """Rows of the input."""
    numbers: range
    """The numbers of those that are asked about, from 1. Shards interleave, so that they take equally long."""
    normalise: Normaliser | None
    settings: dict[str, Any]
    kept: Mapping[str, Any]
    """JSON schemas of the columns of `keep`, with the types of a corpus that has any."""
    grounded: grounding.Grounded = "flag"
    sure: confidence.Confidence | None = None
    gather: Gather | None = None

    @property
    def described(self) -> dict[str, Any]:
        """The manifest's description: the settings, where adapter and corpus were, the JSON schema of the rows."""
        text, whole = {"type": "string"}, {"type": "integer"}
        properties = {"row": whole, "id": text, **self.kept}
        properties |= {"record": self.source.task.record_schema(), "error": text, "tokens": whole, "chunks": whole}
        properties["completion"] = text
        if self.grounded != "off":
            properties["spans"] = grounding.SCHEMA
        if self.sure is not None:
            properties |= self.sure.columns(grounding.SCHEMA)
        if self.normalise is not None:
            properties["normalized"] = dict(self.normalise.schema)
        paths = {"adapter": str(self.source.adapter.resolve()), "input": str(self.input.resolve())}
        return {"settings": self.settings, "paths": paths, "schema": {"type": "object", "properties": properties}}


def prepare(
    source: Source,
    input: Path,
    out: Path,
    *,
    text: str | None = None,
    keep: Iterable[str] = (),
    shard: str = "1/1",
    normalise: bool = False,
    registry: Path | None = None,
    grounded: grounding.Grounded = "flag",
    sure: confidence.Confidence | None = None,
    engine: Mapping[str, Any],
    surveyed: tuple[int, str] | None = None,
) -> ExtractionJob:
    """Check everything that can be checked before a model is loaded. Raises UserError.

    `surveyed`: what `survey` says of the input, where it is known.
    """
    files.check_output(out)
    number, count = _shard(shard)
    rows, digest = surveyed or survey(input)
    if rows == 0:
        raise UserError(f"{input} holds no row.")
    if out.resolve() == input.resolve():
        raise UserError("the output would overwrite the input.")
    text = text or source.task.text_field
    keep = tuple(dict.fromkeys(keep))
    check_columns(source, input, text, keep)
    normaliser = _normaliser(source, normalise, registry)
    settings = {
        "input": digest,
        "rows": rows,
        "shard": f"{number}/{count}",
        **source.settings,
        "text": text,
        "keep": list(keep),
        "normalize": normalise,
        "registry": sha256(registry) if registry else None,
        "grounded": grounded,
        "confidence": sure and sure.settings,
        **engine,
    }
    types = arrow_schema(input)
    plain = {"type": "string"}
    kept = {name: plain if types is None else files.column_schema(types.field(name).type) for name in keep}
    numbers = range(number, rows + 1, count)
    return ExtractionJob(source, input, out, text, keep, rows, numbers, normaliser, settings, kept, grounded, sure)


def check_text_column(input: Path, text: str) -> list[str]:
    """The columns of a corpus. Raises UserError when it lacks the one of the texts."""
    known = column_names(input)
    if text not in known:
        other = conversion_hint(next((row for _, row in read_records(input) if BAD_ROW not in row), {}))
        remedy = f"{hint(text, known)} Name the column of the texts with --text."
        raise UserError(f"{input} has no column {text!r}{other}.{remedy}")
    return known


def check_columns(source: Source, input: Path, text: str, keep: Iterable[str]) -> None:
    """Raise UserError for a corpus without the columns of an extraction."""
    known = check_text_column(input, text)
    for name in keep:
        if name not in known:
            raise UserError(f"--keep {name}: {input} has no such column.{hint(name, known)}")
        if name in COLUMNS:
            raise UserError(f"--keep {name}: the output has a column of that name already.")
    try:
        getattr(source.task, "check_columns", lambda _: None)(known)
    except ValueError as error:
        raise UserError(f"{input}: {error}.") from None


def _shard(given: str) -> tuple[int, int]:
    first, _, count = given.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard {given!r}: write i/n, such as 1/4, 2/4, 3/4 and 4/4 for four machines.")
    return int(first), int(count)


def _normaliser(source: Source, normalise: bool, registry: Path | None) -> Normaliser | None:
    if not normalise:
        if registry is not None:
            raise UserError("--registry is for --normalize; give both.")
        return None
    make = getattr(source.task, "normaliser", None)
    if make is None:
        raise UserError(f"--normalize: the task {source.plug.use!r} has nothing to normalise.")
    return make(registry)  # type: ignore[no-any-return]


def run(
    job: ExtractionJob,
    engine: Callable[[], Engine],
    moved: Progress,
    cutter: Cutter | None = None,
    *,
    doubted: bool = True,
) -> dict[str, Any]:
    """Answer all rows, inside `open_or_resume`, and write the output. `engine` is called if needed. Returns counts.

    Without `cutter` no text is asked about in parts. `doubted`: the first answers must not all be empty.
    """
    journal = Journal(journal_path(job.out), job.numbers.start, job.numbers.step)
    began, resumed, total = time.monotonic(), journal.count, len(job.numbers)
    tally: Counter[str] = Counter()

    def done(record: dict[str, Any]) -> None:
        journal.append(record)
        tally["errors"] += record["error"] is not None
        moved(journal.count, total, {"resumed": resumed, **tally})

    try:
        if journal.count < total:
            rows = OpenRows(job.rows, cutter)
            requests = _requests(job, journal, rows, done)
            if first := next(requests, None):
                answers = engine()(chain([first], requests))
                for answer in not_all_empty(answers) if doubted and not resumed else answers:
                    if asked := rows.add(answer):
                        parts = partial(_record, job), partial(_grounded, job)
                        line = long_texts.line(asked, job.source.task, *parts, job.sure)
                        done(line if answer.extra is None else {**line, "extra": answer.extra})
            journal.sync()
        if journal.count != total:
            raise RuntimeError(f"{total - journal.count} of {total} rows were not answered")
        counts = _finish(job, journal)
    finally:
        journal.close()
    seconds = time.monotonic() - began
    counts |= {"resumed": resumed, "seconds": round(seconds, 2)}
    counts["rows_per_second"] = round((total - resumed) / seconds, 3) if total > resumed else None
    complete(job, counts)
    return counts


def _requests(
    job: ExtractionJob,
    journal: Journal,
    rows: OpenRows,
    done: Callable[[dict[str, Any]], None],
) -> Iterator[Request]:
    """Prompts of the rows that are not done. A row without a prompt is finished at once, with its error."""
    mine, task = job.numbers, job.source.task
    used = {job.text, *job.keep, "id", *getattr(task, "request_fields", ())}
    columns = [name for name in column_names(job.input) if name in used]
    rows_read = read_records(job.input, lambda n: n in mine and n not in journal, columns)
    for number, row in _up_to(mine[-1], rows_read):
        start = {"row": number, "id": str(number), **{name: row.get(name) for name in job.keep}}
        try:
            start["id"] = _id(row) or start["id"]
            if BAD_ROW in row:
                raise ValueError(f"unreadable row: {row[BAD_ROW]}")
            ask = partial(_prompt, task, row)
            prompt = ask(row.get(job.text))
        except ValueError as error:
            line = _grounded(job, _line(start, error=str(error)), None)
            done(job.sure.added(line, Answer(number), None) if job.sure else line)
            continue
        yield from rows.requests(start, row.get(job.text), prompt, ask)


def _up_to(last: int, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """The rows up to a number, without reading on."""
    for number, row in rows:
        yield number, row
        if number >= last:
            return


def _prompt(task: Any, row: Row, text: Any) -> tuple[Message, ...]:
    prompt: tuple[Message, ...] = task.request({**row, task.text_field: text})
    return prompt


def _id(row: Row) -> str | None:
    try:
        return label_text(row.get("id"))
    except ValueError as error:
        raise ValueError(f"bad id: {error}") from None


def _record(job: ExtractionJob, start: dict[str, Any], answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return _line(start, error=answer.error)
    task = job.source.task
    try:
        record = task.record(getattr(task, "decode", first_value)(answer.text))
    except ValueError as error:
        why = f"truncated: no complete answer in {answer.tokens} tokens" if answer.truncated else str(error)
        return _line(start, tokens=answer.tokens, error=why, completion=answer.text)
    return _line(start, record=record, tokens=answer.tokens)


def _grounded(job: ExtractionJob, line: dict[str, Any], text: Any, completion: str | None = None) -> dict[str, Any]:
    """A line with the places of its record's strings; null without a record, and without a text to look in."""
    if job.grounded == "off":
        return line
    record = line["record"]
    if record is None:
        return {**line, "spans": None}
    spans = grounding.spans(record, job.source.task.record_schema(), text) if isinstance(text, str) else None
    fault = grounding.ungrounded(spans) if job.grounded == "strict" else None
    if fault:
        return {**line, "record": None, "error": redact(fault), "completion": completion, "spans": None}
    return {**line, "spans": spans}


def _line(
    start: dict[str, Any], *, record: Any = None, tokens: int = 0, error: str | None = None, completion: Any = None
) -> dict[str, Any]:
    # A task's or a server's words, which may quote a key.
    error = redact(error) if error else error
    return {**start, "record": record, "error": error, "tokens": tokens, "chunks": 0, "completion": completion}


def _finish(job: ExtractionJob, journal: Journal) -> dict[str, Any]:
    """Write the output from the complete journal, in order, and count its rows, records, errors and tokens."""
    sums = dict.fromkeys(("rows", "records", "empty", "tokens", "chunks", "cut"), 0)
    kinds: Counter[str] = Counter()
    matches: Counter[str] = Counter()
    unsure = 0

    def counted() -> Iterator[dict[str, Any]]:
        nonlocal unsure
        for block in blocks(journal.ordered(), 2048):
            if job.normalise is not None:
                normalised = iter(job.normalise([r["record"] for r in block if r["record"] is not None]))
                for row in block:
                    row["normalized"] = None if row["record"] is None else next(normalised)
            for row in block:
                sums["rows"] += 1
                sums["tokens"] += row["tokens"]
                matches.update(span["match"] for span in row.get("spans") or ())
                sums["chunks"] += (chunks := row.get("chunks", 0))
                sums["cut"] += chunks > 1
                unsure += len(row.get("unsure") or ())
                if row["error"] is None or row["record"] is not None:
                    sums["records"] += 1
                    sums["empty"] += not row["record"]
                if row["error"] is not None:
                    kinds[row["error"].partition(":")[0]] += 1
                if job.gather is None or job.gather(row):
                    yield row

    files.write(job.out, counted(), job.described["schema"])
    gathered = {} if job.gather is None else dict(job.gather.finish())
    gathered |= {"unsure": unsure} if job.sure and job.sure.least is not None else {}
    return {**sums, "errors": dict(kinds.most_common()), "matches": dict(matches.most_common()), **gathered}
