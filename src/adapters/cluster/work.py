"""What is done with each part of a corpus: extraction, mining, noise, conversion.

A work is sent to the workers, where `start` makes what fills an output from a part. A model is loaded once a worker.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from adapters.cluster.parts import Part
from adapters.data import formats, noise_files
from adapters.data.data_file import FAULTS
from adapters.data.rows import read_records
from adapters.data.task_of_file import task_of_file
from adapters.data_aug.ie import Options as ConvertOptions
from adapters.environment import versions
from adapters.errors import UserError
from adapters.extraction import adapter_source, extract, files
from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Cutter
from adapters.extraction.engine import FIRST, Engine, Options
from adapters.extraction.extract import ExtractionJob
from adapters.extraction.merge_shards import SUMS
from adapters.extraction.resumable import manifest, open_or_resume
from adapters.extraction.session import Session
from adapters.files import write_jsonl
from adapters.mining import corpus as mined
from adapters.mining.engine import ProgramEngine, load_proxy
from adapters.mining.program import Program
from adapters.plugins.trust import Consent

Fill = Callable[[Part, Path, Path], Mapping[str, Any]]
"""Writes a part's output: of the part, whose file lies at the first path, to the second. Returns its manifest."""


class Work(Protocol):
    """A work on parts. Can be pickled; a worker may run on another machine."""

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """Check what can be checked with one part, whose file is given: what decides the outputs. Raises UserError."""
        ...

    def start(self) -> Fill:
        """What fills outputs. Raises UserError."""
        ...


def shared(given: str) -> str:
    """A file, a folder or `file:name` as processes elsewhere find it, by its whole path; anything else as it is."""
    path, colon, name = given.partition(":")
    return f"{Path(path).resolve()}{colon}{name}" if Path(path).exists() else given


ANY_OUT = Path("part.jsonl")
TRUSTED = Consent(given=True)
"""Whoever started the command was asked before workers start."""


@dataclass(frozen=True)
class Extraction:
    """`adapters extract` of parts."""

    adapter: str
    weights: str
    """The hash of the adapter that was checked; a worker that finds another one stops."""
    found: Mapping[str, Any]
    """How the adapter is found: `adapter_source.find`."""
    engine: str
    options: Options
    picks: Mapping[str, Any]
    cut: Mapping[str, Any]
    columns: Mapping[str, Any]
    """What `extract.prepare` is told of the output's columns."""
    least: float | None = None

    def session(self) -> Session:
        """The adapter, and how it answers. Raises UserError."""
        source = adapter_source.find(self.adapter, **self.found, consent=TRUSTED)
        _check_weights(source, self.weights)
        return Session.open(source, self.engine, self.options, **self.picks)

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """See `Work`."""
        return self.prepared(self.session(), part, file, ANY_OUT).settings

    def prepared(self, session: Session, part: Part, file: Path, out: Path) -> ExtractionJob:
        """The extraction of a part. Raises UserError."""
        sure = session.confidence(self.least, grounded=self.columns["grounded"] != "off")
        settings = session.of_corpus(session.cutter(**self.cut))
        given = {**self.columns, "sure": sure, "engine": settings, "surveyed": part.surveyed}
        return _of_part(extract.prepare(session.source, file, out, **given), part)

    def start(self) -> Fill:
        """See `Work`."""
        session = self.session()
        cutter = session.cutter(**self.cut)
        loaded: list[Engine] = []

        def fill(part: Part, file: Path, out: Path) -> Mapping[str, Any]:
            if is_empty(part, file):
                return _nothing(out)
            job = self.prepared(session, part, file, out)

            def engine() -> Engine:
                if not loaded:
                    loaded.append(session.start(lambda _: None, scored=job.sure is not None))
                return loaded[0]

            return _filled(job, engine, cutter, first=not loaded)

        return fill


@dataclass(frozen=True)
class Mining:
    """`adapters mine` of parts."""

    program: Program
    adapter: str
    weights: str
    batch_size: int | None
    columns: Mapping[str, Any]
    """What `corpus.prepare` is told: text, keep, only_kept."""

    def source(self) -> Source:
        """The proxy's adapter. Raises UserError."""
        source = adapter_source.find_any(self.adapter, consent=TRUSTED)
        _check_weights(source, self.weights)
        return source

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """See `Work`."""
        return self.prepared(self.source(), part, file, ANY_OUT).settings

    def prepared(self, source: Source, part: Part, file: Path, out: Path) -> ExtractionJob:
        """The extraction of a part. Raises UserError."""
        given = {**self.columns, "shard": "1/1", "uncertain": None, "surveyed": part.surveyed}
        return _of_part(mined.prepare(self.program, source, file, out, **given), part)

    def start(self) -> Fill:
        """See `Work`."""
        source = self.source()
        engine = ProgramEngine(self.program, load_proxy(source, self.batch_size), mined.threshold(source))

        def fill(part: Part, file: Path, out: Path) -> Mapping[str, Any]:
            if is_empty(part, file):
                return _nothing(out)
            return _filled(self.prepared(source, part, file, out), lambda: engine, None, first=False)

        return fill


def _check_weights(source: Source, weights: str) -> None:
    if source.weights != weights:
        raise UserError(
            f"{socket.gethostname()} finds another adapter than the one that was checked: {source.adapter}. Name a "
            "commit with --revision, or a folder that is the same on all machines."
        )


def is_empty(part: Part, file: Path) -> bool:
    """Whether a part's file, which lies at the path, holds no row."""
    return part.surveyed is None and next(iter(read_records(file)), None) is None


def _nothing(out: Path) -> Mapping[str, Any]:
    """Write an output without rows."""
    files.write(out, [], {"properties": {}})
    return {"counts": dict.fromkeys(SUMS[:6], 0)}


def _of_part(job: ExtractionJob, part: Part) -> ExtractionJob:
    """The job of a part's rows. Its settings name the part, not the shard."""
    numbers = part.numbers(job.rows)
    settings = {**job.settings, "rows": job.rows, "shard": f"{numbers.start}-{numbers.stop - 1}"}
    return replace(job, numbers=numbers, settings=settings)


def _filled(
    job: ExtractionJob, engine: Callable[[], Engine], cutter: Cutter | None, *, first: bool
) -> Mapping[str, Any]:
    """Fill an output. Of a worker's `first` part, unless it is short, the answers must not all be empty."""
    with open_or_resume(job, fresh=True):
        extract.run(job, engine, lambda *_: None, cutter, doubted=first and len(job.numbers) >= FIRST)
    return manifest(job.out) or {}


@dataclass(frozen=True)
class Noise:
    """`adapters data noise` of parts."""

    given: Mapping[str, Any]
    """What `noise_files.noised` is told."""
    task: str | None

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """See `Work`."""
        next(noise_files.noised(file, task=task_of_file(file, self.task), **self.given), None)
        return {**self.given, "task": self.task, "versions": versions()}

    def start(self) -> Fill:
        """See `Work`."""

        def fill(part: Part, file: Path, out: Path) -> Mapping[str, Any]:
            if is_empty(part, file):
                return {"counts": {"rows": write_jsonl(out, [])}}
            numbers = None if part.rows is None else range(*part.rows)
            wanted = None if numbers is None else numbers.__contains__
            rows = noise_files.noised(file, task=task_of_file(file, self.task), wanted=wanted, **self.given)
            # Without reading on behind the part's last row.
            rows = islice(rows, None if numbers is None else len(numbers) * self.given.get("variants", 1))
            return {"counts": {"rows": write_jsonl(out, (result.row for result in rows))}}

        return fill


@dataclass(frozen=True)
class Conversion:
    """`adapters data convert` of files."""

    options: ConvertOptions
    name: str | None
    to: str | None

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """See `Work`."""
        told = {name: value for name, value in vars(self.options).items() if not callable(value)}
        return {**told, "from": self.name, "to": self.to, "versions": versions()}

    def start(self) -> Fill:
        """See `Work`."""

        def fill(part: Part, file: Path, out: Path) -> Mapping[str, Any]:
            try:
                done = formats.convert(file, self.options, name=self.name, to=self.to)
                counts = {"rows": write_jsonl(out, done.rows)}
            except FAULTS as error:
                raise UserError(f"{part.file}: {error}.") from None
            return {"counts": {**counts, "left_out": done.left_out, "notes": done.notes}}

        return fill
