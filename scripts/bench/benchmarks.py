"""What the bench scripts share: fair turns, Markdown rows, the machine they ran on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each contender; they take turns, so that all see the same load."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            start = time.perf_counter()
            work()
            spent[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in spent.items()}


def fastest(work: Callable[[], object], times: int) -> float:
    """Seconds of the fastest of several calls."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def copied(floats: int, times: int = 8) -> float:
    """Bytes a second that a copy in memory of so many 32-bit floats reads and writes."""
    import torch

    given = torch.zeros(floats)
    out = torch.empty_like(given)
    return 2 * 4 * floats / fastest(lambda: out.copy_(given), times)


def multiplied(kind: Any) -> float:
    """Operations a second of a product of two large matrices of a torch type."""
    import torch

    left, right = (torch.randn(2048, 2048).to(kind) for _ in range(2))
    return 2 * 2048**3 / fastest(lambda: left @ right, 20)


def in_process(script: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `script` in a Python of its own: the JSON of its last line, with `seconds` and `peak_gb` of the process."""
    code = f"import sys; sys.argv = ['bench', *{list(arguments)!r}]\n{script}\n" + REPORT
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise SystemExit(f"a contender failed:\n{done.stderr[-3000:]}")
    return {"seconds": time.perf_counter() - start, **json.loads(done.stdout.strip().splitlines()[-1])}


ANSWERS = """
import time
from adapters.backends.json_stop import first_value
start, tokens, records = time.perf_counter(), 0, [None] * len(rows)
for answer in engine(requests):
    tokens += answer.tokens
    try:
        records[answer.row] = source.task.record(first_value(answer.text))
    except ValueError:
        pass
result = {"work": time.perf_counter() - start, "tokens": tokens, "records": records}
"""
"""Asks an `engine` for the `requests` of `rows`; the `source` says what a record is."""
REPORT = """
import json, resource, sys
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
print(json.dumps({"peak_gb": peak, **result}))
"""


def peak_gb() -> float:
    """Highest resident memory of this process so far, in 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table that can be pasted into docs/benchmarks.md."""
    print(f"\n{title}\n")
    print(f"| {' | '.join(columns)} |")
    print(f"|---|{'---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


def version_line(program: str, environment: Mapping[str, str]) -> str:
    """What a program answers to --version: the first line with a figure that is no message of its log."""
    asked = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, env={**environment})
    lines = (line.strip() for line in f"{asked.stdout}\n{asked.stderr}".splitlines())
    without_log = (line for line in lines if not line.startswith(("WARNING", "INFO", "DEBUG")))
    return next((line for line in without_log if any(map(str.isdigit, line))), Path(program).name)


def machine() -> str:
    """Processor, cores, load, versions and date, for the line under a table."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":")[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    known = []
    for name in ("torch", "transformers", "trl", "peft", "datasets", "pyarrow", "rapidfuzz", "numpy"):
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    today = datetime.datetime.now(datetime.UTC).date()
    chip = names[0] if names else platform.processor() or "unknown processor"
    return f"{today}, {chip}, {os.cpu_count()} cores, {load}, Python {platform.python_version()}, {', '.join(known)}"
