"""A finished output of an extraction, and the texts that it was made from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapters.data.row_forms import with_structures
from adapters.data.rows import BAD_ROW, read_records, survey
from adapters.errors import UserError
from adapters.extraction.resumable import journal_path, manifest
from adapters.files import manifest_path
from adapters.report.page import own_task
from adapters.types import Row

_GOLD = {"funding": "funders", "ie": "gold", "records": "object"}
"""Column of the labels in a training row of this project's tasks; `gold` in those of others."""


@dataclass(frozen=True, slots=True)
class Extraction:
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
        return bool(self.settings["task"].get("use") == "ie")

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


def opened(out: Path, corpus: Path | None) -> Extraction:
    """The output, checked, with its corpus where that is needed. Raises UserError."""
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
    return Extraction(
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


def lines(made: Extraction) -> Iterator[tuple[dict[str, Any], Row]]:
    """The lines of the output, each with its row of the corpus; both are in the same order."""
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
