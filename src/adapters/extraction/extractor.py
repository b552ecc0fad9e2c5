"""Records of texts that are no file: the extraction of a corpus, with the model kept in memory."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final

from adapters.console import bars_as_before, note, phase, progress, quiet
from adapters.data.rows import BAD_ROW, read_records
from adapters.errors import UserError, visible
from adapters.extraction import engine, files
from adapters.extraction.chunks import Cutter
from adapters.extraction.extract import ExtractionJob, check_columns, prepare, run
from adapters.extraction.resumable import journal_path, open_or_resume
from adapters.extraction.session import Session
from adapters.files import manifest_path, read_jsonl, write_jsonl
from adapters.types import Progress

SHOWN: Final = 16
"""Fewer texts show no progress."""
Text = str | Mapping[str, Any]
"""A text, or a row with the text and what else the task's prompt needs, such as `schema` of the task ie."""


@dataclass
class Extractor:
    """Extracts records from texts; `load` makes one. Its model stays in memory."""

    session: Session
    cutter: Cutter
    columns: Mapping[str, Any]
    """What `extract.prepare` is told of the output's columns."""
    loaded: engine.Engine | None = field(default=None, init=False, repr=False)
    job: ExtractionJob | None = field(default=None, init=False, repr=False)
    """That of the first block; a registry is read once."""

    def extract(self, texts: Text | Iterable[Text]) -> list[dict[str, Any]]:
        """A line for each text, in order, with the columns that `adapters extract` writes: record, error, spans …"""
        return list(self.stream(texts))

    def stream(self, texts: Text | Iterable[Text]) -> Iterator[dict[str, Any]]:
        """The same, block by block: 1,024 texts are read, answered and given before the next ones."""
        if isinstance(texts, str | Mapping):
            texts = [texts]
        elif isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise UserError(f"a text, a row, or several of them are read here, not {visible(repr(texts))[:60]}.")
        first = 0
        for block in files.blocks(texts, engine.WINDOW):
            for line in self._block(block, first):
                yield {**line, "row": line["row"] + first}
            first += len(block)

    def write(self, texts: Iterable[Text], out: Path | None, *, fresh: bool = False) -> None:
        """Write the lines to a file, which appears when it is complete, or as JSON to standard output, block by block.

        Raises UserError for a file that is there, or begun, unless `fresh`.
        """
        lines = self.stream(texts)
        if out is None:
            for line in lines:
                print(json.dumps(line, ensure_ascii=False), flush=True)
            return
        files.check_output(out)
        earlier = [path for path in (out, manifest_path(out), journal_path(out)) if path.exists()]
        if earlier and not fresh:
            raise UserError(f"{earlier[0]} exists. Choose another name, or replace it with --fresh.")
        first = list(islice(lines, 1))  # then the columns are known
        for path in earlier[1:] if out.exists() else earlier:  # what another command would take the new lines for
            path.unlink()
        files.write(out, chain(first, lines), {"properties": self._columns})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """For `dataset.map(extractor)`, faster with `batched=True`: adds what `extract` says of each row.

        A column of Arrow has one type, and the first thousand rows decide on it. Lists and objects are therefore JSON
        texts, and what a row has not is an empty text, or NaN in a column of numbers. Raises UserError for a data set
        with columns of these names.
        """
        one = isinstance(batch.get(self._text), str | None)
        rows = [batch] if one else [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        lines = list(self._lines(rows, lambda *_: None))
        names = [name for name in (lines[0] if lines else ()) if name not in ("row", "id")]
        if taken := [name for name in names if name in batch]:
            raise UserError(f"the data set has a column {taken[0]!r}, which would be replaced: rename it first.")
        kinds = self._columns
        made = {name: [_flat(line[name], kinds.get(name, {})) for line in lines] for name in names}
        return {name: values[0] for name, values in made.items()} if one else made

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded model: `dataset.map` hashes what it is given."""
        return {**vars(self), "cutter": replace(self.cutter), "loaded": None, "job": None}

    def __repr__(self) -> str:
        """Which adapter, and how it answers."""
        return f"Extractor({str(self.session.source.adapter)!r}, engine={self.session.engine!r})"

    @property
    def _columns(self) -> Mapping[str, Any]:
        """The JSON schema of each column of the lines, once there are some."""
        return self.job.described["schema"]["properties"] if self.job else {}

    @property
    def _text(self) -> str:
        """The column of the texts."""
        return str(self.columns.get("text") or self.session.source.task.text_field)

    def _block(self, texts: Sequence[Text], first: int) -> Iterator[dict[str, Any]]:
        if len(texts) < SHOWN:
            yield from self._lines(texts, lambda *_: None, first)
            return
        title = f"extracting texts {first + 1:,} to {first + len(texts):,}"
        with progress(title, "starting the engine") as moved:
            lines = list(self._lines(texts, moved, first))
        yield from lines

    def _lines(self, texts: Sequence[Text], moved: Progress, first: int = 0) -> Iterator[dict[str, Any]]:
        rows = [{"id": str(n), **self._row(n, text)} for n, text in enumerate(texts, first + 1)]
        used = [self._text, "id", BAD_ROW, *getattr(self.session.source.task, "request_fields", ())]
        with tempfile.TemporaryDirectory() as folder:
            corpus, out = Path(folder, "texts.jsonl"), Path(folder, "records.jsonl")
            write_jsonl(corpus, [{key: row[key] for key in used if key in row} for row in rows])
            job = self._job(corpus, out, len(rows))
            with quiet(None), open_or_resume(job, fresh=True):
                run(job, self._engine, moved, self.cutter)
            yield from read_jsonl(out)

    def _row(self, n: int, text: Any) -> Mapping[str, Any]:
        """The row of the n-th text. Raises UserError for what is no text, and for a first row without the column."""
        if isinstance(text, str):
            return {self._text: text}
        if not isinstance(text, Mapping):
            raise UserError(f"text {n:,} is no text and no row, but {visible(repr(text))[:60]}.")
        if self._text not in text and BAD_ROW not in text and n == 1:
            raise UserError(
                f"row {n:,} has no column {self._text!r} with the text, only {', '.join(map(str, text))}; name it with "
                "text=, or --text."
            )
        return {self._text: None, **text}

    def _job(self, corpus: Path, out: Path, rows: int) -> ExtractionJob:
        source = self.session.source
        if self.job is None:
            self.job = prepare(source, corpus, out, **self.columns, engine=self.session.settings)
        else:
            check_columns(source, corpus, self.job.text, ())
        return replace(self.job, input=corpus, out=out, rows=rows, numbers=range(1, rows + 1))

    def _engine(self) -> engine.Engine:
        if self.loaded is None:
            with bars_as_before():
                self.loaded = self.session.start(note, scored=self.columns["sure"] is not None)
        phase("")
        return self.loaded


def rows_of_lines(given: BinaryIO | Path) -> Iterator[Text]:
    """The rows of a file, or of a stream whose lines are rows of JSON or plain texts; empty lines are left out."""
    if isinstance(given, Path):
        yield from (row for _, row in read_records(given))
        return
    for line in filter(bytes.strip, given):
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            yield {BAD_ROW: f"not UTF-8 at byte {error.start + 1:,} of its line"}
            continue
        row = _row(text) if text.lstrip().startswith("{") else None
        yield text.rstrip("\n") if row is None else row


def _row(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _flat(value: Any, schema: Mapping[str, Any]) -> Any:
    """A cell of a column of one type."""
    if value is None:
        return math.nan if schema.get("type") in ("number", "integer") else ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
