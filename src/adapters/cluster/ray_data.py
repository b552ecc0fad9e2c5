"""Parts handed out by Ray Data: one worker a GPU, or some CPU workers; what a dead one had is done by another.

Workers read a part, and write its output beside the others when it is whole. A part whose output is there is not done
again. Only descriptions of parts travel through Ray, so neither its object store nor the driver grows with the rows.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from adapters.cluster.parts import Part, Store
from adapters.cluster.work import Fill, Work
from adapters.errors import UserError, first_line

BLOCKS = 4096
"""Most blocks of a Ray dataset: with more, its planning takes longer than the parts."""
TRIES = 3
"""How often a part is begun: one that ends its workers, as too little memory does, must not be begun for ever."""
PULSE = 5.0
"""Seconds between two looks at the head of a cluster."""


class ClusterError(RuntimeError):
    """The cluster, or the code of a worker, failed."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """How many workers there are, and what each of them gets."""

    workers: int
    cpus: float
    gpus: float

    @property
    def engine(self) -> str:
        """The engine that fits a causal model: vLLM on GPUs."""
        return "vllm" if self.gpus else "transformers"


class Task(NamedTuple):
    """What workers do: the work, the folder of outputs and their suffix, and what tells this job's from others."""

    work: Work
    out: str
    suffix: str
    job: str


@contextmanager
def connected(address: str | None, workers: int | None, cpus: int | None, *, gpus: bool) -> Iterator[Cluster]:
    """Connect to a cluster: at an address, at RAY_ADDRESS, or one on this machine that ends with the block.

    `gpus`: whether workers use GPUs. Raises UserError when Ray is missing, nothing answers, or the workers do not fit.
    """
    if find_spec("ray") is None:
        raise UserError("Ray is not installed: pip install -c constraints.txt -e '.[ray]' in the repository.")
    address = address or os.environ.get("RAY_ADDRESS")  # set for what `ray job submit` starts
    if address is not None:
        _check_answers(address)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ part writes to the screen
    # A part may take hours, and Ray Data would end a run in which none is finished for half an hour.
    os.environ.setdefault("RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", "-1")
    import ray

    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        with _silent():  # it says that it was told to be
            ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        said = first_line(error).rstrip(".")
        raise UserError(f"{f'--address {address}' if address else 'Ray did not start'}: {said}.") from None
    ended = threading.Event()
    try:
        if address is not None:
            threading.Thread(target=_watch, args=(ray.get_runtime_context().gcs_address, ended), daemon=True).start()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield sized(nodes, workers, cpus, gpus=gpus)
    finally:
        ended.set()
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing reaches the screen, also not from compiled code."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _watch(head: str, ended: threading.Event) -> None:
    """End this process, with a sentence, when the head of the cluster is gone: Ray would end it without one."""
    host, _, port = head.rpartition(":")
    failures = 0
    while failures < 3:
        if ended.wait(PULSE):
            return
        try:
            socket.create_connection((host, int(port)), timeout=PULSE).close()
            failures = 0
        except OSError:
            failures += 1
    said = f"the cluster failed: its head at {head} is gone.\nParts that are done are kept; on a new cluster the same "
    print(f"{said}command continues.", file=sys.stderr, flush=True)
    os._exit(1)


def _check_answers(address: str) -> None:
    """Raise UserError when nothing listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise UserError(f"--address {address}: run the command on a machine of the cluster, and give its HOST:PORT.")
    if not (host and port.isdigit()):
        raise UserError(f"--address {address}: write HOST:PORT, as `ray start --head` prints it, or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise UserError(f"--address {address}: nothing answers ({error.strerror or error}).") from None


def sized(nodes: Sequence[Mapping[str, float]], workers: int | None, cpus: int | None, *, gpus: bool) -> Cluster:
    """The workers that fit machines of these resources: one a GPU, where any has one and `gpus`; else one a few CPUs.

    A worker lies on one machine. Of all CPUs one is left to Ray, whose reading would wait for it for ever. Raises
    UserError where `workers` do not fit.
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    cards = [int(node.get("GPU", 0)) for node in nodes] if gpus else []

    def fit(share: float) -> int:
        each = [core // share for core in cores]
        most = int(sum(map(min, each, cards) if any(cards) else each))
        return most - (most * share == sum(cores) > 0)

    shares: Sequence[float] = (cpus,) if cpus else (1, 0.5) if any(cards) else (4, 3, 2, 1)
    share = max(
        shares, key=lambda each: fit(each) if any(cards) else (min(each, 3) * bool(fit(each)), fit(each) * each)
    )
    if (workers or 1) > fit(share):
        what = (
            f"{len(cores)} machines of {min(cores, default=0)} to {max(cores, default=0)} CPUs, of which one is Ray's"
        )
        what += f", and {sum(cards)} GPUs" if any(cards) else ""
        asked = f"--workers {workers}" if workers else "no worker fits"
        raise UserError(f"{asked}, each with {share} CPUs: the cluster has {what}.")
    return Cluster(workers or fit(share), share, 1 if any(cards) else 0)


def run(task: Task, parts: Sequence[Part], cluster: Cluster) -> Iterator[Mapping[str, Any]]:
    """Have parts done; their manifests as they are finished. Raises a worker's UserError, and ClusterError."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    logger = logging.getLogger("ray.data")  # it also writes to the log files of Ray's session
    logger.handlers = [handler for handler in logger.handlers if isinstance(handler, logging.FileHandler)]
    described = [{"part": json.dumps(astuple(part))} for part in parts]
    try:
        data = ray.data.from_items(described, override_num_blocks=min(len(parts), BLOCKS))
        # Arguments of a constructor would be an object of the cluster, and no worker could start again once it is lost.
        worker = type("Worker", (_Worker,), {"task": task})
        done = data.map_batches(
            worker,
            batch_size=1,
            compute=ActorPoolStrategy(size=min(cluster.workers, len(parts)), max_tasks_in_flight_per_actor=1),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
        )
        for row in done.iter_rows():
            result = json.loads(row["done"])
            if "fault" in result:
                raise UserError(result["fault"])
            if "failed" in result:
                raise ClusterError(result["failed"])
            yield result
    except (UserError, ClusterError):
        raise
    except Exception as error:  # Ray has several roots of exceptions
        raise ClusterError(str(error).strip().splitlines()[-1]) from error


class _Worker:
    """An actor of Ray: its model is loaded at the first part."""

    task: ClassVar[Task]

    def __init__(self) -> None:
        self.fill: Fill | None = None

    def __call__(self, batch: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        return {"done": [json.dumps(self._done(text), default=str) for text in batch["part"]]}

    def _done(self, text: str) -> Mapping[str, Any]:
        name, file, surveyed, rows = json.loads(text)
        part = Part(name, file, surveyed and tuple(surveyed), rows and tuple(rows))
        # An exception would be wrapped, and its worker started again.
        try:
            return self._finished(part) or self._filled(part)
        except UserError as error:
            return {"fault": str(error)}
        except Exception as error:
            return {"failed": f"{part.file}: {type(error).__name__}: {error}"}

    def _finished(self, part: Part) -> Mapping[str, Any] | None:
        """The manifest of a part that another worker finished before it died."""
        out = Store(self.task.out)
        known = out.read_json(manifest_name(part, self.task.suffix)) or {}
        return known if known.get("job") == self.task.job and out.has(f"{part.name}{self.task.suffix}") else None

    def _filled(self, part: Part) -> Mapping[str, Any]:
        from adapters.console import quiet

        out, mark = Store(self.task.out), f"{part.name}.begun.json"
        begun = (out.read_json(mark) or {}).get("times", 0)
        if begun >= TRIES:
            return {"failed": f"{part.file}: part {part.name} ended its worker {begun} times; is its memory too small?"}
        out.put_json({"times": begun + 1}, mark)
        with tempfile.TemporaryDirectory() as folder, quiet(None), Store(part.file).local() as corpus:
            if self.fill is None:
                self.fill = self.task.work.start()
            file = Path(folder, f"{part.name}{self.task.suffix}")
            filled = self.fill(part, corpus, file)
            described = {"complete": True, "job": self.task.job, "part": part.name, **filled}
            if "paths" in described:
                described["paths"] = {**described["paths"], "input": part.file}
            out.put_json(described, manifest_name(part, self.task.suffix))
            out.put(file, file.name)
        out.remove(mark)
        return described


def manifest_name(part: Part, suffix: str) -> str:
    """The name of a part's manifest, which is written before its output."""
    return f"{part.name}{suffix}.manifest.json"
