"""Does `--engine ray` write what one process writes? Run by `make ray`, in an environment with Ray, s3fs and moto.

    python scripts/ray_check.py [--out FOLDER] [--rows N]

Two Ray nodes on this machine, a head and a worker, and a small adapter of random weights. Extraction, mining, noise and
conversion in parts are compared with one process, byte for byte: undisturbed; with the worker's node killed in the
middle; with the head killed, and the command repeated; from and to an S3 server. Nodes are killed by their process
group. Prints a line for each check; exits with 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import command_checks  # noqa: E402
from command_checks import FailedError, adapters  # noqa: E402
from tiny import (  # noqa: E402
    funding_rows,
    mine_recipe,
    mine_rows,
    save_lively_model,
    save_tiny_encoder,
    save_tiny_model,
    write_jsonl,
)

PART = 64
"""Rows of a part."""
ENV = command_checks.ENV | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""One thread, as Ray gives a worker of one CPU: sums of floats depend on the number."""
RECIPE = """name: small
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {base}}}
lora: {{rank: 8, alpha: 16}}
run_dir: {folder}/runs
stages:
  - {{kind: sft, data: [{{path: train.jsonl}}], max_steps: 300, learning_rate: 3e-3, batch_size: 8, validation: 0}}
evaluate: []
"""
PROGRAM = """version: 1
steps:
  - {span: people, instruction: person}
"""


class Node:
    """A Ray node of this machine: a process group with ports and a folder of its own."""

    def __init__(self, folder: Path, number: int, head: str | None = None) -> None:
        first = 20_000 + 1000 * number
        self.address = head or f"127.0.0.1:{first}"
        where = ["--head", f"--port={first}", f"--temp-dir={folder}"] if head is None else [f"--address={head}"]
        command = ["ray", "start", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        command += [f"--node-manager-port={first + 1}", f"--object-manager-port={first + 2}", "--num-gpus=0"]
        command += [f"--min-worker-port={first + 100}", f"--max-worker-port={first + 199}"]
        command += ["--include-dashboard=false"] if head is None else []
        log = (folder.parent / f"node{number}.log").open("w")
        program = [str(Path(sys.executable).parent / command[0]), *command[1:], *where]
        self.process = subprocess.Popen(program, env=ENV, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """End all of its processes at once, as a machine that loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[list[Node]]:
    """A head and a worker that know each other."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    nodes = [Node(folder, 1)]
    try:
        _wait(lambda: _listens(nodes[0].address), "the head")
        nodes.append(Node(folder, 2, nodes[0].address))
        _wait(lambda: _alive(nodes[0].address) == 2, "the worker's node")
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    with suppress(OSError):
        socket.create_connection((host, int(port)), timeout=1).close()
        return True
    return False


def _alive(address: str) -> int:
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='error'); "
    code += "print(sum(n['Alive'] for n in ray.nodes()))"
    done = subprocess.run([sys.executable, "-c", code, address], env=ENV, capture_output=True, text=True, check=False)
    return int(done.stdout.strip() or 0) if done.returncode == 0 else 0


def _wait(true: Callable[[], bool], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise FailedError(f"{what} did not come up in {seconds:.0f} s")
        time.sleep(0.5)


class Checks:
    """The checks; each returns a detail for its line."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder, self.rows = folder, rows
        self.corpus, self.local = folder / "corpus.jsonl", folder / "local.jsonl"

    def named(self) -> dict[str, Callable[[], str]]:
        """Name -> check, in order."""
        return {
            "one process": self.reference,
            "two nodes": self.undisturbed,
            "worker killed": self.worker_killed,
            "head killed": self.head_killed,
            "other verbs": self.other_verbs,
            "S3": self.s3,
        }

    def reference(self) -> str:
        """Train the adapter, and extract in one process."""
        write_jsonl(self.folder / "train.jsonl", funding_rows(60))
        base = save_lively_model(save_tiny_model(self.folder / "tiny"), self.folder / "base")
        (self.folder / "small.yaml").write_text(RECIPE.format(base=base, folder=self.folder))
        adapters("run", self.folder / "small.yaml", env=ENV)
        texts = funding_rows(self.rows, "c")
        write_jsonl(self.corpus, [{"id": r["id"], "funding_statement": r["funding_statement"]} for r in texts])
        adapters(*self._extract(self.local)[1:], env=ENV)
        lines = self.local.read_text().splitlines()
        return f"{len(lines)} rows, {len({json.dumps(json.loads(line)['record']) for line in lines})} different records"

    def undisturbed(self) -> str:
        """Both nodes work; a second command does nothing."""
        with cluster(self.folder / "ray") as nodes:
            adapters(*self._extract(self.folder / "parts", nodes)[1:], env=ENV)
            again = adapters(*self._extract(self.folder / "parts", nodes)[1:], env=ENV)
        if "is complete already" not in again:
            raise FailedError(f"a second command did something: {again[-300:]}")
        return self._same(self.folder / "parts")

    def worker_killed(self) -> str:
        """The worker's node dies when some parts are done; the command ends well."""
        out = self.folder / "worker"
        with cluster(self.folder / "ray") as nodes, self._started(self._extract(out, nodes)) as command:
            at = self._some_done(out, command)
            nodes[1].kill()
            said, _ = command.communicate(timeout=600)
        if command.returncode:
            raise FailedError(f"exit code {command.returncode}: {said[-600:]}")
        return f"killed at {at} parts; {self._same(out)}"

    def head_killed(self) -> str:
        """The head dies; the command fails, and repeated on a new cluster it does what is missing."""
        out = self.folder / "head"
        with cluster(self.folder / "ray") as nodes, self._started(self._extract(out, nodes)) as command:
            at = self._some_done(out, command)
            nodes[0].kill()
            said, _ = command.communicate(timeout=600)
        if command.returncode == 0:
            raise FailedError("the command ended well without a head")
        if "Traceback" in said:
            raise FailedError(f"a traceback: {said[-600:]}")
        with cluster(self.folder / "ray") as nodes:
            again = adapters(*self._extract(out, nodes)[1:], env=ENV)
        if "were there before" not in again:
            raise FailedError(f"nothing was kept: {again[-300:]}")
        last = said.strip().splitlines()[-1]
        return f"killed at {at} parts: exit code {command.returncode} ({last}); repeated: {self._same(out)}"

    def other_verbs(self) -> str:
        """Mining, noise and conversion are those of one process."""
        folder = self.folder / "mine"
        folder.mkdir()
        (folder / "proxy.yaml").write_text(mine_recipe(folder, save_tiny_encoder(folder / "bert")))
        adapters("run", folder / "proxy.yaml", "evaluate_base=false", "stages.0.max_steps=60", env=ENV)
        (folder / "program.yaml").write_text(PROGRAM)
        texts = [{"id": row["id"], "text": row["text"]} for row in mine_rows(300, "m")]
        write_jsonl(folder / "texts.jsonl", texts)
        (folder / "articles").mkdir()
        for n in range(3):
            rows = [{"text": f"Bob{n}{k} sleeps.", "label": [[0, 5, "PER"]]} for k in range(20)]
            write_jsonl(folder / "articles" / f"a{n}.jsonl", rows)
        labelled = folder / "labelled.jsonl"
        write_jsonl(labelled, funding_rows(300))
        mine = ("mine", folder / "program.yaml", folder / "runs" / "proxy", folder / "texts.jsonl")
        noise, convert = ("data", "noise", labelled), ("data", "convert", "--source", "x")
        with cluster(self.folder / "ray") as nodes:
            ray = ("--engine", "ray", "--address", nodes[0].address, "--cpus", "1")
            said = []
            for verb in (mine, noise):
                name = f"{verb[0]}-{verb[1]}" if verb is noise else "mine"
                one, parts = folder / f"{name}.jsonl", folder / f"{name}-parts"
                adapters(*verb, "-o", one, env=ENV)
                adapters(*verb, "-o", parts, *ray, "--part-rows", str(PART), env=ENV)
                said.append(f"{name} {self._same(parts, one)}")
            for _ in range(2):
                adapters(*convert, folder / "articles", "-o", folder / "converted", *ray, env=ENV)
            for file in sorted((folder / "articles").iterdir()):
                adapters(*convert, file, "-o", folder / f"one-{file.name}", env=ENV)
        ones = b"".join(file.read_bytes() for file in sorted(folder.glob("one-*.jsonl")))
        if _joined(folder / "converted") != ones:
            raise FailedError("convert: other bytes than file by file")
        return "; ".join([*said, "convert: 3 files, same bytes"])

    def s3(self) -> str:
        """From and to a bucket; then a folder of Parquet files there."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        own = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        os.environ.update(own)
        env, server = ENV | own, [str(Path(sys.executable).parent / "moto_server"), "-p", str(port)]
        moto = subprocess.Popen(server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            _wait(lambda: _listens(f"127.0.0.1:{port}"), "the S3 server")
            import s3fs

            files = s3fs.S3FileSystem()
            files.mkdir("corpora")
            files.put_file(str(self.corpus), "corpora/one/corpus.jsonl")
            asked = ["extract", self.folder / "runs" / "small", "--max-tokens", "48", "--engine", "ray", "--cpus", "1"]
            cut = ["--part-rows", str(PART)]
            adapters(*asked, "s3://corpora/one/corpus.jsonl", "-o", "s3://corpora/out", *cut, env=env)
            files.get("corpora/out/", str(self.folder / "from-s3") + "/", recursive=True)
            said = self._same(self.folder / "from-s3")
            adapters(*asked, "s3://corpora/one", "-o", "s3://corpora/pq", "--part-format", "parquet", env=env)
            import pyarrow.parquet as pq

            files.get_file("corpora/pq/00000-corpus.parquet", str(self.folder / "one.parquet"))
            rows = pq.read_table(self.folder / "one.parquet").num_rows
            if rows != self.rows:
                raise FailedError(f"the Parquet part has {rows} rows, not {self.rows}")
            return f"{said}; a folder there to Parquet: {rows} rows"
        finally:
            os.killpg(moto.pid, signal.SIGTERM)
            moto.wait()

    def _extract(self, out: Path, nodes: Sequence[Node] = ()) -> list[str]:
        command = ["adapters", "extract", self.folder / "runs" / "small", self.corpus, "-o", out, "--max-tokens", "48"]
        if nodes:
            command += ["--engine", "ray", "--address", nodes[0].address, "--cpus", "1", "--part-rows", PART]
            command += ["--workers", 2]
        return list(map(str, command))

    @contextmanager
    def _started(self, command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
        words = [sys.executable, "-m", *command]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = subprocess.Popen(words, env=ENV, start_new_session=True, **pipes)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _some_done(self, out: Path, command: subprocess.Popen[str]) -> int:
        """Wait until some parts are done, and some are not; how many."""

        def some() -> bool:
            if command.poll() is not None:
                raise FailedError(f"it ended before it was disturbed: {command.communicate()[0][-600:]}")
            return len(list(out.glob("0*.jsonl"))) >= 3

        _wait(some, "the third part", 300)
        return len(list(out.glob("0*.jsonl")))

    def _same(self, parts: Path, one: Path | None = None) -> str:
        """Whether the parts together are the bytes of one process."""
        whole = (one or self.local).read_bytes()
        if (joined := _joined(parts)) != whole:
            theirs, ours = joined.splitlines(), whole.splitlines()
            other = sum(a != b for a, b in zip(theirs, ours, strict=False))
            raise FailedError(f"{parts.name}: {len(theirs)} rows, not {len(ours)}, or {other} others")
        return f"{len(list(parts.glob('*.manifest.json')))} parts, same bytes"


def _joined(parts: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(parts.glob("*.jsonl")))


def main() -> None:
    """Run all checks, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "ray-check")
    parser.add_argument("--rows", type=int, default=1280)
    parser.add_argument("--only", default="", help="names, comma-separated")
    given = parser.parse_args()
    if not given.only:
        shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name, check in Checks(given.out.resolve(), given.rows).named().items():
        if given.only and name not in given.only.split(","):
            continue
        began = time.monotonic()
        try:
            result, detail = "ok", check()
        except (FailedError, subprocess.TimeoutExpired, OSError) as error:
            result, detail, failed = "FAILED", str(error), failed + 1
        print(f"{name:22} {result:6} {time.monotonic() - began:6.0f} s  {detail}", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
