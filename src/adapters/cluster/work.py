"""What is done with each part of a corpus: extraction, mining, noise, conversion.

A work is sent to the workers, where `start` makes what fills an output from a part. A model is loaded once a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from adapters.cluster.parts import Part
from adapters.data import formats, noise_files
from adapters.data.rows import survey
from adapters.data.task_of_file import task_of_file
from adapters.data_aug.ie import Options as ConvertOptions
from adapters.environment import versions
from adapters.errors import UserError
from adapters.extraction import adapter_source, extract
from adapters.extraction.adapter_source import Source
from adapters.extraction.chunks import Cutter
from adapters.extraction.engine import Engine, Options
from adapters.extraction.extract import ExtractionJob
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


def shared(adapter: str) -> str:
    """The adapter as workers with another working directory find it: the whole path of a folder, else its Hub id."""
    return str(Path(adapter).resolve()) if Path(adapter).exists() else adapter


ANY_OUT = Path("part.jsonl")
TRUSTED = Consent(given=True)
"""Whoever started the command was asked before workers start."""


@dataclass(frozen=True)
class Extraction:
    """`adapters extract` of parts."""

    adapter: str
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
        return Session.open(source, self.engine, self.options, **self.picks)

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """See `Work`."""
        return self.prepared(self.session(), part, file, ANY_OUT).settings

    def prepared(self, session: Session, part: Part, file: Path, out: Path) -> ExtractionJob:
        """The extraction of a part. Raises UserError."""
        settings = {**session.settings, "window": self.cut["window"], **session.picks}
        settings["passes"] = self.cut["passes"] if self.cut["passes"] > 1 else None
        sure = session.confidence(self.least, grounded=self.columns["grounded"] != "off")
        return _of_part(
            extract.prepare(
                session.source, file, out, **self.columns, sure=sure, engine=settings, surveyed=part.surveyed
            ),
            part,
        )

    def start(self) -> Fill:
        """See `Work`."""
        return _Extracting(self)


@dataclass
class _Extracting:
    work: Extraction
    job: ExtractionJob | None = None
    """The first one; a registry is read once."""

    @cached_property
    def session(self) -> Session:
        return self.work.session()

    @cached_property
    def cutter(self) -> Cutter:
        return self.session.cutter(**self.work.cut)

    @cached_property
    def engine(self) -> Engine:
        return self.session.start(lambda _: None, scored=self.job is not None and self.job.sure is not None)

    def __call__(self, part: Part, file: Path, out: Path) -> Mapping[str, Any]:
        if self.job is None:
            job = self.job = self.work.prepared(self.session, part, file, out)
        else:
            extract.check_columns(self.session.source, file, self.job.text, self.job.keep)
            rows, digest = part.surveyed or survey(file)
            settings = {**self.job.settings, "input": digest}
            job = _of_part(replace(self.job, input=file, out=out, rows=rows, settings=settings), part)
        return _filled(job, lambda: self.engine, self.cutter)


@dataclass(frozen=True)
class Mining:
    """`adapters mine` of parts."""

    program: Program
    adapter: str
    batch_size: int | None
    columns: Mapping[str, Any]
    """What `corpus.prepare` is told: text, keep, only_kept."""

    def settings(self, part: Part, file: Path) -> Mapping[str, Any]:
        """See `Work`."""
        source = adapter_source.find_any(self.adapter, consent=TRUSTED)
        return self.prepared(source, part, file, ANY_OUT).settings

    def prepared(self, source: Source, part: Part, file: Path, out: Path) -> ExtractionJob:
        """The extraction of a part. Raises UserError."""
        given = {**self.columns, "shard": "1/1", "uncertain": None, "surveyed": part.surveyed}
        return _of_part(mined.prepare(self.program, source, file, out, **given), part)

    def start(self) -> Fill:
        """See `Work`."""
        source = adapter_source.find_any(self.adapter, consent=TRUSTED)
        proxy = load_proxy(source, self.batch_size)
        engine = ProgramEngine(self.program, proxy, mined.threshold(source))
        return lambda part, file, out: _filled(self.prepared(source, part, file, out), lambda: engine, None)


def _of_part(job: ExtractionJob, part: Part) -> ExtractionJob:
    """The job of a part's rows. Its settings name the part, not the shard."""
    numbers = part.numbers(job.rows)
    settings = {**job.settings, "rows": job.rows, "shard": f"{numbers.start}-{numbers.stop - 1}"}
    return replace(job, numbers=numbers, settings=settings)


def _filled(job: ExtractionJob, engine: Callable[[], Engine], cutter: Cutter | None) -> Mapping[str, Any]:
    with open_or_resume(job, fresh=True):
        extract.run(job, engine, lambda *_: None, cutter)
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
            wanted = None if part.rows is None else range(*part.rows).__contains__
            rows = noise_files.noised(file, task=task_of_file(file, self.task), wanted=wanted, **self.given)
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
        return {**vars(self.options), "from": self.name, "to": self.to, "versions": versions()}

    def start(self) -> Fill:
        """See `Work`."""

        def fill(part: Part, file: Path, out: Path) -> Mapping[str, Any]:
            try:
                done = formats.convert(file, self.options, name=self.name, to=self.to)
                counts = {"rows": write_jsonl(out, done.rows)}
            except ValueError as error:
                raise UserError(f"{part.file}: {error}.") from None
            return {"counts": {**counts, "left_out": done.left_out, "notes": done.notes}}

        return fill
