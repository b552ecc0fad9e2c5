"""A program over a corpus: an extraction whose engine is the program, and what is counted of it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapters.data.rows import read_records
from adapters.errors import UserError
from adapters.extraction import extract
from adapters.extraction.adapter_source import Source
from adapters.extraction.extract import ExtractionJob
from adapters.files import write_jsonl
from adapters.mining.engine import ProgramTask
from adapters.mining.program import Program


class Gather:
    """Counts what the program's steps asked and found, and keeps the texts that the proxy is least sure of."""

    def __init__(
        self, program: Program, corpus: Path, column: str, only_kept: bool, uncertain: int, file: Path
    ) -> None:
        self.paths = [path for path, _, _ in program.asks]
        self.corpus, self.column, self.only_kept = corpus, column, only_kept
        self.uncertain, self.file = uncertain, file
        self.kept = self.clipped = 0
        self.asked, self.found = [0] * len(self.paths), [0] * len(self.paths)
        self.least: dict[str, tuple[float, int]] = {}
        """Margin and row by the place of a text in hash order."""

    def __call__(self, row: dict[str, Any]) -> bool:
        """Count a row. False for one that `only_kept` leaves out."""
        extra = row.pop("extra", None)
        kept = bool(row["record"] and row["record"]["kept"])
        self.kept += kept
        if extra is not None:
            self.asked = [a + b for a, b in zip(self.asked, extra["asked"], strict=True)]
            self.found = [a + b for a, b in zip(self.found, extra["found"], strict=True)]
            self.clipped += extra["clipped"]
            if "margin" in extra:
                self.least.setdefault(extra["order"], (extra["margin"], row["row"]))
                if len(self.least) > 2 * self.uncertain + 1024:
                    self.least = dict(self._least())
        return kept or not self.only_kept

    def _least(self) -> list[tuple[str, tuple[float, int]]]:
        return heapq.nsmallest(self.uncertain, self.least.items(), key=lambda item: (item[1][0], item[0]))

    def finish(self) -> Mapping[str, Any]:
        """Write the uncertain texts, and return the counts."""
        counted = zip(self.paths, self.asked, self.found, strict=True)
        steps = {path: {"asked": asked, "found": found} for path, asked, found in counted}
        counts: dict[str, Any] = {"kept": self.kept, "clipped": self.clipped, "steps": steps}
        if self.uncertain:
            margins = {row: margin for _, (margin, row) in self._least()}
            rows = dict(read_records(self.corpus, lambda n: n in margins))
            ids = {n: n if row.get("id") is None else row["id"] for n, row in rows.items()}
            lines = [
                {"id": str(ids[n]), "text": rows[n][self.column], "row": n, "margin": margin}
                for n, margin in margins.items()
            ]
            counts["uncertain"] = write_jsonl(self.file, lines)
        return counts


def prepare(
    program: Program,
    source: Source,
    corpus: Path,
    out: Path,
    *,
    text: str | None,
    keep: Iterable[str],
    shard: str,
    only_kept: bool,
    uncertain: tuple[int, Path] | None,
    surveyed: tuple[int, str] | None = None,
) -> ExtractionJob:
    """Check everything that can be checked before the proxy is loaded. Raises UserError. See `extract.prepare`."""
    number, file = uncertain or (0, Path())
    if uncertain:
        if number < 1:
            raise UserError(f"--uncertain {number}: at least 1 text.")
        if file.suffix.lower() != ".jsonl" or not file.parent.is_dir():
            raise UserError(f"--uncertain {file}: the texts are written as .jsonl, into a folder that exists.")
        if file.resolve() in (corpus.resolve(), out.resolve()):
            raise UserError(f"--uncertain {file}: it would overwrite the {'output' if file == out else 'corpus'}.")
    settings = {
        "program": program.digest,
        "threshold": threshold(source),
        "only_kept": only_kept,
        "uncertain": number,
    }
    task = ProgramTask(program)
    own = replace(source, task=task)
    columns: dict[str, Any] = {"text": text, "keep": keep, "shard": shard, "grounded": "off", "surveyed": surveyed}
    job = extract.prepare(own, corpus, out, **columns, engine=settings)
    return replace(job, gather=Gather(program, corpus, job.text, only_kept, number, file))


def threshold(source: Source) -> float:
    """The score from which on a label is true."""
    return float(getattr(source.task, "threshold", 0.5))
