"""`--engine ray`: a verb's work on the parts of a corpus, on one machine or many."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Exit, Option

from adapters.cli.errors import complain
from adapters.errors import UserError

if TYPE_CHECKING:
    from adapters.cluster.parts import Part
    from adapters.cluster.ray_data import Cluster
    from adapters.cluster.work import Work

Where = Annotated[
    Literal["local", "ray"],
    Option("--engine", help="ray: in parts, by Ray, from and to folders, s3://, gs:// …."),
]


@dataclass(frozen=True)
class ClusterOptions:
    """The options of `--engine ray`."""

    address: Annotated[str | None, Option(help="With --engine ray: its head; default: a cluster on this machine.")] = (
        None
    )
    workers: Annotated[int | None, Option(min=1, help="With --engine ray; default: one a GPU, else by --cpus.")] = None
    cpus: Annotated[int | None, Option(min=1, help="With --engine ray: of each worker.", show_default="4")] = None
    part_rows: Annotated[
        int | None, Option(min=1, help="With --engine ray: rows of a part of one file.", show_default="2048")
    ] = None
    part_format: Annotated[
        Literal["jsonl", "parquet"] | None, Option(help="With --engine ray: of the outputs.", show_default="jsonl")
    ] = None

    def refuse_without_ray(self, engine: str) -> None:
        """Raise UserError for an option that means nothing without --engine ray."""
        if engine != "ray" and (given := next((name for name, value in vars(self).items() if value is not None), None)):
            raise UserError(f"--{given.replace('_', '-')} needs --engine ray.")

    def run(
        self,
        corpus: Path,
        out: Path,
        make: Callable[[str], Work],
        *,
        gpus: bool = False,
        whole_files: bool = False,
        fresh: bool,
    ) -> dict[str, Any]:
        """Do a work on the parts of a corpus. Returns the counts. Raises UserError.

        `make` makes the work for the engine that fits the cluster. `gpus`: whether it uses any. `whole_files`: none
        is cut, and they may be of any kind.
        """
        from adapters.cluster.job import PartsJob
        from adapters.cluster.parts import Store, shown, split, url_of
        from adapters.cluster.ray_data import ClusterError, connected
        from adapters.console import note, progress
        from adapters.extraction.resumable import locked

        source, target = url_of(corpus), url_of(out)
        if source == target:
            raise UserError("the output would overwrite the input.")
        if target.startswith(f"{source.rstrip('/')}/"):
            raise UserError(f"-o {out} lies in the corpus, whose files it would become; choose a folder beside it.")
        if source.startswith(f"{target.rstrip('/')}/"):
            raise UserError(f"-o {out} holds the corpus; choose a folder of its own.")
        if target.startswith("hf://"):
            raise UserError("-o hf://…: every part would be a commit there. Write elsewhere, and upload the folder.")
        if Path(target).is_file():
            raise UserError(f"-o {out} is a file; --engine ray writes a folder of parts.")
        suffix = f".{self.part_format or 'jsonl'}"
        parts, digest = split(source, None if whole_files else self.part_rows or 2048)
        if self.part_rows and parts[0].rows is None:
            raise UserError("--part-rows cuts one file; each file of a folder is a part.")
        with ExitStack() as stack:
            if "://" not in target:
                folder = Path(target) if str(out).startswith("file:") else out
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder))
            cluster = stack.enter_context(connected(self.address, self.workers, self.cpus, gpus=gpus))
            work = make(cluster.engine)
            # As the manifest will hold them, with which a restart compares.
            decided = json.loads(json.dumps(_settings(work, parts, any_kind=whole_files), default=str))
            for name in ("rows", "shard"):  # of the first part
                decided.pop(name, None)
            size = None if parts[0].rows is None else parts[0].rows[1] - 1
            decided |= {"input": digest, "parts": len(parts), "part_rows": size, "format": suffix}
            job = PartsJob(parts, Store(target), suffix, decided)
            job.begin(fresh=fresh)
            if (counts := job.finished()) is not None:
                note(f"{shown(out)} is complete already; --fresh would do it again.")
                return counts
            note(f"{len(parts):,} parts; workers: {cluster.workers:,}, each with {_share(cluster)}")
            try:
                with progress(out.name, "parts") as bar:
                    return job.run(work, cluster, bar)
            except ClusterError as error:
                complain(f"the cluster failed: {error}\nParts that are done are kept; the same command continues.")
                raise Exit(1) from None


def _settings(work: Work, parts: Sequence[Part], *, any_kind: bool) -> Mapping[str, Any]:
    """What decides the outputs, by the first file with rows. Raises UserError."""
    from adapters.cluster.parts import Store
    from adapters.cluster.work import is_empty

    for part in parts:
        with Store(part.file).local() as file:
            if any_kind or not is_empty(part, file):
                return work.settings(part, file)
    raise UserError("no file of the corpus holds a row.")


def _share(cluster: Cluster) -> str:
    return f"{cluster.cpus:g} CPUs{' and a GPU' if cluster.gpus else ''}"


def refuse_shard(shard: str) -> None:
    """Raise UserError for --shard beside --engine ray."""
    if shard != "1/1":
        raise UserError("--shard is for machines that share no cluster; --engine ray divides the corpus itself.")
