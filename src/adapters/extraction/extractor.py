"""Records of texts that are no file: the extraction of a corpus, with the model kept in memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from adapters.console import note
from adapters.data.rows import read_records
from adapters.extraction import engine
from adapters.extraction.extract import open_or_resume, prepare, run
from adapters.extraction.files import blocks, check_output
from adapters.extraction.session import Session
from adapters.files import read_jsonl, replacing, write_jsonl

Text = str | Mapping[str, Any]
"""A text, or a row with the text and what else the task's prompt needs, such as `schema` of the task ie."""


@dataclass
class Extractor:
    """Extracts records from texts; `load` makes one. Its model stays in memory."""

    session: Session
    window: int | None
    passes: int
    columns: Mapping[str, Any]
    loaded: engine.Engine | None = field(default=None, repr=False)

    def extract(self, texts: Text | Iterable[Text]) -> list[dict[str, Any]]:
        """A line for each text, in order, with the columns that `adapters extract` writes: record, error, spans …"""
        return list(self.stream([texts] if isinstance(texts, str | Mapping) else texts))

    def stream(self, texts: Iterable[Text]) -> Iterator[dict[str, Any]]:
        """The same as they come: texts are read in blocks of 1,024."""
        first = 0
        for block in blocks(texts, engine.WINDOW):
            for line in self._block(block, first):
                yield {**line, "row": line["row"] + first}
            first += len(block)

    def write(self, texts: Iterable[Text], out: Path | None) -> None:
        """Write the lines as JSON to a file, which appears when it is complete, or to standard output as they come."""
        lines = (json.dumps(line, ensure_ascii=False) for line in self.stream(texts))
        if out is None:
            for line in lines:
                print(line, flush=True)
            return
        check_output(out)
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, list[str | None]]:
        """For `dataset.map(extractor, batched=True)`: adds `record`, `error` and `spans`; records and spans as JSON.

        A column of Arrow has one type, and records of different rows need not.
        """
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        lines = self.extract(rows)
        texts = {name: [_json(line.get(name)) for line in lines] for name in ("record", "spans")}
        return {**texts, "error": [line["error"] for line in lines]}

    def _block(self, texts: Sequence[Text], first: int) -> Iterator[dict[str, Any]]:
        name = self.columns.get("text") or self.session.source.task.text_field
        rows = [
            {"id": str(n), **({name: text} if isinstance(text, str) else text)}
            for n, text in enumerate(texts, first + 1)
        ]
        used = [name, "id", *getattr(self.session.source.task, "request_fields", ())]
        with tempfile.TemporaryDirectory() as folder:
            corpus, out = Path(folder, "texts.jsonl"), Path(folder, "records.jsonl")
            write_jsonl(corpus, [{key: row[key] for key in used if key in row} for row in rows])
            job = prepare(self.session.source, corpus, out, **self.columns, engine=self.session.settings)
            with open_or_resume(job, fresh=True):
                run(job, self._engine, lambda *_: None, self.session.cutter(self.window, self.passes))
            yield from read_jsonl(out)

    def _engine(self) -> engine.Engine:
        if self.loaded is None:
            self.loaded = self.session.start(note, scored=self.columns["sure"] is not None)
        return self.loaded


def rows_of_lines(given: TextIO | Path) -> Iterator[Text]:
    """The rows of a file, or of a stream whose lines are rows of JSON or plain texts; empty lines are left out."""
    if isinstance(given, Path):
        yield from (row for _, row in read_records(given))
        return
    for line in filter(str.strip, given):
        row = _row(line) if line.lstrip().startswith("{") else None
        yield line.rstrip("\n") if row is None else row


def _row(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
