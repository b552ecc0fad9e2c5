"""A finished adapter over a corpus: a record for every row, in order, whatever happens on the way.

OUT appears when all its records are there. OUT.manifest.json says what made them and how many of what kind there are;
it is also what a restart is compared with. OUT.partial is the journal of an unfinished run (see `extract_journal.py`).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapters.backends.json_stop import first_value
from adapters.data.rows import BAD_ROW, column_names, read_records, survey
from adapters.environment import versions
from adapters.errors import UserError, hint
from adapters.extraction import files
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import Answer, Engine, Request
from adapters.extraction.files import blocks
from adapters.extraction.journal import Journal
from adapters.files import sha256, write_json
from adapters.types import Normaliser, Row

Moved = Callable[[int, int, Mapping[str, int]], None]
"""Told (rows done, rows in all, counts) as rows are finished."""

CHANGEABLE_EXTRACTION_KEYS = ("versions", "endpoint", "engine")
"""Settings that may change between two starts."""
SYNC_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ExtractionJob:
    """What is to be done, checked. `settings` is what a restart must agree with."""

    source: Source
    input: Path
    out: Path
    text: str
    keep: tuple[str, ...]
    rows: int
    shard: tuple[int, int]
    normalise: Normaliser | None
    settings: dict[str, Any]

    @property
    def mine(self) -> range:
        """The numbers of this shard's rows, counted from 1. Shards are interleaved, so they take equally long."""
        return range(self.shard[0], self.rows + 1, self.shard[1])

    @property
    def journal(self) -> Path:
        """The unfinished output."""
        return self.out.with_name(f"{self.out.name}.partial")


def manifest_path(out: Path) -> Path:
    """Where an output's manifest lies."""
    return out.with_name(f"{out.name}.manifest.json")


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
    engine: Mapping[str, Any],
) -> ExtractionJob:
    """Check everything that can be checked before a model is loaded. Raises UserError."""
    if out.suffix.lower() not in files.OUTPUTS:
        raise UserError(f"-o {out}: an output file ends in {' or '.join(files.OUTPUTS)}.")
    if not out.parent.is_dir():
        raise UserError(f"-o {out}: there is no folder {out.parent}.")
    part = _shard(shard)
    rows, digest = survey(input)
    if rows == 0:
        raise UserError(f"{input} holds no row.")
    if out.resolve() == input.resolve():
        raise UserError("the output would overwrite the input.")
    known = column_names(input)
    text = text or source.task.text_field
    if text not in known:
        raise UserError(f"{input} has no column {text!r}.{hint(text, known)} Name the column of the texts with --text.")
    keep = tuple(dict.fromkeys(keep))
    for name in keep:
        if name not in known:
            raise UserError(f"--keep {name}: {input} has no such column.{hint(name, known)}")
        if name in _columns(()):
            raise UserError(f"--keep {name}: the output has a column of that name already.")
    if registry is not None and not normalise:
        raise UserError("--registry is for --normalize; give both.")
    if check := getattr(source.task, "check_columns", None):
        try:
            check(known)
        except ValueError as error:
            raise UserError(f"{input}: {error}.") from None
    normaliser = _normaliser(source, registry) if normalise else None
    settings = {
        "input": digest,
        "rows": rows,
        "shard": f"{part[0]}/{part[1]}",
        "adapter": source.weights,
        "base": source.model.base,
        "thinking": source.model.thinking,
        "task": source.plug.model_dump(),
        "text": text,
        "keep": list(keep),
        "normalize": normalise,
        "registry": sha256(registry) if registry else None,
        **engine,
        "versions": versions(),
    }
    return ExtractionJob(source, input, out, text, keep, rows, part, normaliser, settings)


def _shard(given: str) -> tuple[int, int]:
    first, _, count = given.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard {given!r}: write i/n, such as 1/4, 2/4, 3/4 and 4/4 for four machines.")
    return int(first), int(count)


def _normaliser(source: Source, registry: Path | None) -> Normaliser:
    make = getattr(source.task, "normaliser", None)
    if make is None:
        raise UserError(f"--normalize: the task {source.plug.use!r} has nothing to normalise.")
    return make(registry)  # type: ignore[no-any-return]


@contextmanager
def open_or_resume(work: ExtractionJob, *, fresh: bool) -> Iterator[None]:
    """Hold the output for this process alone, and refuse one that other settings made. Raises UserError."""
    lock = FileLock(f"{work.out}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"another process is writing {work.out}.") from None
    held = None
    try:
        if fresh:
            for path in (work.out, work.journal, manifest_path(work.out)):
                path.unlink(missing_ok=True)
        held = manifest(work.out)
        if held is None and (work.out.exists() or work.journal.exists()):
            raise UserError(f"{work.out} exists, and not from here. Choose another name, or replace it with --fresh.")
        changed = [
            k
            for k, v in work.settings.items()
            if k not in CHANGEABLE_EXTRACTION_KEYS and held and held["settings"].get(k) != v
        ]
        if changed:
            raise UserError(
                f"{work.out} was {'made' if work.out.exists() else 'begun'} with other settings: "
                f"{'; '.join(_change(k, held['settings'].get(k), work.settings[k]) for k in changed if held)}. Choose "
                "another name, or start over with --fresh."
            )
        if held is None:
            write_json(manifest_path(work.out), {"complete": False, **described(work)})
        yield
    finally:
        if held is None and not work.out.exists() and not (work.journal.is_file() and work.journal.stat().st_size):
            for path in (work.journal, manifest_path(work.out)):  # nothing was done: leave no trace
                path.unlink(missing_ok=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _change(name: str, old: Any, new: Any) -> str:
    short = [json.dumps(v)[:14] if name in ("input", "adapter", "registry") else json.dumps(v)[:80] for v in (old, new)]
    return f"{name} was {short[0]}, is {short[1]}"


def manifest(out: Path) -> dict[str, Any] | None:
    """An output's manifest; None when there is none to read."""
    try:
        value = json.loads(manifest_path(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("settings"), dict) else None


def finished(work: ExtractionJob) -> dict[str, Any] | None:
    """The counts of an output that is complete already."""
    held = manifest(work.out)
    return dict(held["counts"]) if held and held.get("complete") and work.out.is_file() else None


def run(work: ExtractionJob, engine: Callable[[], Engine], moved: Moved) -> dict[str, Any]:
    """Ask for every row that is not answered yet, then write the output. Returns the counts.

    `engine` is made only if a row needs it. Must be called inside `open_or_resume`.
    """
    journal = Journal(work.journal, *work.shard)
    began, resumed, total = time.monotonic(), journal.count, len(work.mine)
    tally: Counter[str] = Counter()

    def done(record: dict[str, Any]) -> None:
        journal.append(record)
        tally["errors"] += record["error"] is not None
        moved(journal.count, total, {"resumed": resumed, **tally})

    try:
        if journal.count < total:
            asked: dict[int, dict[str, Any]] = {}
            requests = _requests(work, journal, asked, done)
            first = next(requests, None)
            if first is not None:
                synced = time.monotonic()
                for answer in engine()(chain([first], requests)):
                    done(_record(work, asked.pop(answer.row), answer))
                    if time.monotonic() - synced > SYNC_SECONDS:
                        journal.sync()
                        synced = time.monotonic()
            journal.sync()
        if journal.count != total:
            raise RuntimeError(f"{total - journal.count} of {total} rows were not answered")
        counts = _finish(work, journal)
    finally:
        journal.close()
    seconds = time.monotonic() - began
    counts |= {"resumed": resumed, "seconds": round(seconds, 2)}
    counts["rows_per_second"] = round((total - resumed) / seconds, 3) if total > resumed else None
    write_json(manifest_path(work.out), {"complete": True, **described(work), "counts": counts})
    work.journal.unlink()
    return counts


def _requests(
    work: ExtractionJob, journal: Journal, asked: dict[int, dict[str, Any]], done: Callable[[dict[str, Any]], None]
) -> Iterator[Request]:
    """Prompts of the rows that are not done; a row that cannot be asked is done at once, with its error."""
    mine = work.mine
    used = {work.text, *work.keep, "id", *getattr(work.source.task, "request_fields", ())}
    columns = [name for name in column_names(work.input) if name in used]
    for number, row in read_records(work.input, lambda n: n in mine and n not in journal, columns):
        start = {"row": number, "id": str(row.get("id", number))}
        start |= {name: row.get(name) for name in work.keep}
        try:
            if BAD_ROW in row:
                raise ValueError(f"unreadable row: {row[BAD_ROW]}")
            prompt = work.source.task.request(_named(row, work))
        except ValueError as error:
            done(_line(start, error=str(error)))
            continue
        asked[number] = start
        yield Request(number, prompt)


def _named(row: Row, work: ExtractionJob) -> Row:
    return {**row, work.source.task.text_field: row.get(work.text)}


def _record(work: ExtractionJob, start: dict[str, Any], answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return _line(start, error=answer.error)
    try:
        task = work.source.task
        record = task.record(getattr(task, "decode", first_value)(answer.text))
    except ValueError as error:
        why = f"truncated: no complete answer in {answer.tokens} tokens" if answer.truncated else str(error)
        return _line(start, tokens=answer.tokens, error=why, completion=answer.text)
    return _line(start, record=record, tokens=answer.tokens)


def _line(
    start: dict[str, Any], *, record: Any = None, tokens: int = 0, error: str | None = None, completion: Any = None
) -> dict[str, Any]:
    return {**start, "record": record, "error": error, "tokens": tokens, "completion": completion}


def _columns(keep: Iterable[str]) -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "row": {"type": "integer"},
        "id": text,
        **dict.fromkeys(keep, text),
        "record": text,
        "error": text,
        "tokens": {"type": "integer"},
        "completion": text,
        "normalized": text,
    }


def described(work: ExtractionJob) -> dict[str, Any]:
    """What the manifest says of the work: its settings, and the JSON schema of the rows written."""
    properties = _columns(work.keep) | {"record": work.source.task.record_schema()}
    if work.normalise is None:
        del properties["normalized"]
    else:
        properties["normalized"] = work.normalise.schema
    return {"settings": work.settings, "schema": {"type": "object", "properties": properties}}


def _finish(work: ExtractionJob, journal: Journal) -> dict[str, Any]:
    """Write the output from the complete journal, in order, and count what it holds."""
    kinds: Counter[str] = Counter()
    sums: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        for block in blocks(journal.ordered(), 2048):
            if work.normalise is not None:
                found = iter(work.normalise([r["record"] for r in block if r["record"] is not None]))
                for record in block:
                    record["normalized"] = None if record["record"] is None else next(found)
            for record in block:
                sums["rows"] += 1
                sums["records"] += record["error"] is None
                sums["empty"] += record["error"] is None and not record["record"]
                sums["tokens"] += record["tokens"]
                if record["error"] is not None:
                    kinds[record["error"].partition(":")[0]] += 1
                yield record

    files.write(work.out, counted(), described(work)["schema"])
    names = ("rows", "records", "empty", "tokens")
    return {name: sums[name] for name in names} | {"errors": dict(kinds.most_common())}
