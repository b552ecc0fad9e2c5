"""Parts handed out by Ray Data: one worker a GPU, or some CPU workers; what a dead one had is done by another.

Workers read a part, and write its output beside the others when it is whole. A part whose output is there is not done
again. Only descriptions of parts travel through Ray, so neither its object store nor the driver grows with the rows.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from adapters.cluster.parts import Part, Store
from adapters.cluster.work import Fill, Work
from adapters.errors import UserError

BLOCKS = 4096
"""Most blocks of a Ray dataset: with more, its planning takes longer than the parts."""


class ClusterError(RuntimeError):
    """The cluster, or the code of a worker, failed."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the cluster offers, and how much of it each of the workers gets."""

    workers: int
    cpus: float
    gpus: float

    @property
    def engine(self) -> str:
        """The engine that fits: vLLM on GPUs."""
        return "vllm" if self.gpus else "transformers"


@contextmanager
def connected(address: str | None, workers: int | None, cpus: int | None) -> Iterator[Cluster]:
    """Connect to a cluster; without an address to one on this machine, which ends with the block.

    Raises UserError when Ray is missing, nothing answers, or the workers do not fit.
    """
    if find_spec("ray") is None:
        raise UserError("Ray is not installed: pip install -c constraints.txt -e '.[ray]' in the repository.")
    if address is not None:
        _check_answers(address)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to the screen
    import ray

    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{f'--address {address}' if address else 'Ray did not start'}: {said}.") from None
    try:
        yield _sized(ray.cluster_resources(), workers, cpus)
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise UserError when nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not (host and port.isdigit()):
        raise UserError(f"--address {address}: write HOST:PORT, as `ray start --head` prints it, or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"--address {address}: nothing answers ({error.strerror or error}).") from None


def _sized(there: Mapping[str, float], workers: int | None, cpus: int | None) -> Cluster:
    """By default a worker for each GPU; without one for each 4 CPUs, of which Ray itself keeps one free."""
    cores, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    share = cpus or (1 if gpus else min(4, max(1, cores - 1)))
    fit = gpus or max(0, cores - 1) // share
    if (workers is not None and workers > fit) or fit < 1:
        what = f"{gpus} GPUs" if gpus else f"{cores} CPUs, of which one is left to Ray, and {share} for each worker"
        raise UserError(f"--workers {workers or 1}: the cluster has {what}.")
    return Cluster(workers or fit, share, 1 if gpus else 0)


def run(work: Work, parts: Sequence[Part], out: Store, suffix: str, cluster: Cluster) -> Iterator[Mapping[str, Any]]:
    """Have all parts done; their manifests as they are finished. Raises UserError that a worker raised."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    logger = logging.getLogger("ray.data")  # it also writes to the log files of Ray's session
    logger.handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    described = [{"part": json.dumps(astuple(part))} for part in parts]
    data = ray.data.from_items(described, override_num_blocks=min(len(parts), BLOCKS))
    # Arguments of a constructor would be an object of the cluster, and a worker could not start again once it is lost.
    worker = type("Worker", (_Worker,), {"work": work, "out": Store(out.url), "suffix": suffix})
    done = data.map_batches(
        worker,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(cluster.workers, len(parts))),
        num_cpus=cluster.cpus,
        num_gpus=cluster.gpus,
    )
    try:
        for row in done.iter_rows():
            result = json.loads(row["done"])
            if "fault" in result:
                raise UserError(result["fault"])
            yield result
    except ray.exceptions.RayError as error:
        raise ClusterError(str(error).strip().splitlines()[-1]) from error


class _Worker:
    """An actor of Ray: its model is loaded at the first part."""

    work: ClassVar[Work]
    out: ClassVar[Store]
    suffix: ClassVar[str]

    def __init__(self) -> None:
        self.fill: Fill | None = None

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {"done": [json.dumps(self._done(text), default=str) for text in batch["part"]]}

    def _done(self, text: str) -> Mapping[str, Any]:
        name, file, surveyed, rows = json.loads(text)
        part = Part(name, file, surveyed and tuple(surveyed), rows and tuple(rows))
        try:
            there = self.out.has(f"{part.name}{self.suffix}")
            return (there and self.out.read_json(manifest_name(part, self.suffix))) or self._filled(part)
        except UserError as error:  # an exception would be wrapped, and its worker started again
            return {"fault": str(error)}

    def _filled(self, part: Part) -> Mapping[str, Any]:
        from adapters.console import quiet

        with tempfile.TemporaryDirectory() as folder, quiet(None):
            if self.fill is None:
                self.fill = self.work.start()
            file = Path(folder, f"{part.name}{self.suffix}")
            with Store(part.file).local("") as corpus:
                described = {"complete": True, **self.fill(part, corpus, file)}
            if "paths" in described:
                described["paths"] = {**described["paths"], "input": part.file}
            self.out.put_json(described, manifest_name(part, self.suffix))
            self.out.put(file, f"{part.name}{self.suffix}")
        return described


def manifest_name(part: Part, suffix: str) -> str:
    """The name of a part's manifest, which is written before its output."""
    return f"{part.name}{suffix}.manifest.json"
