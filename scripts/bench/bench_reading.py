"""How fast rows are read, beside `datasets`: seconds, rows a second and peak memory, each in a process of its own.

    python scripts/bench/bench_reading.py [--rows 1000000]

A row has an id, a funding statement and its funders (JSON text in CSV). `datasets` converts the file to its own
format in an empty cache first, as it does once for every new file, and then yields the rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import benchmarks
from bench_growth import statements

KINDS = ("jsonl", "csv")


def ours(path: Path) -> int:
    from adapters.data.rows import read_file

    return sum(1 for _ in read_file(path))


def theirs(path: Path) -> int:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        kind = {".jsonl": "json", ".csv": "csv"}[path.suffix]
        table = datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache)
        return sum(1 for _ in table)


def measured(read: Callable[[Path], int], path: Path) -> tuple[int, float, float, float]:
    """Rows, seconds, seconds of all threads on processors, peak gigabytes. Libraries are imported before."""
    import datasets  # noqa: F401

    import adapters.data.rows  # noqa: F401

    start, busy = time.perf_counter(), time.process_time()
    return read(path), time.perf_counter() - start, time.process_time() - busy, benchmarks.peak_gb()


def write(path: Path, n: int) -> None:
    rows: Iterator[dict] = (
        {k: row[k] for k in ("id", "funding_statement", "funders")} for row in statements(n, long=False)
    )
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, ["id", "funding_statement", "funders"])
            writer.writeheader()
            writer.writerows({**row, "funders": json.dumps(row["funders"])} for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    most = parser.parse_args().rows
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            for n in (most // 10, most):
                path = Path(folder) / f"{n}.{kind}"
                write(path, n)
                for name, read in (("ours", ours), ("datasets", theirs)):
                    with context.Pool(1) as pool:
                        rows, seconds, busy, gb = pool.apply(measured, (read, path))
                    speed = f"{rows / seconds:>9,.0f} rows/s ({rows / busy:>9,.0f} per processor second)"
                    print(f"{kind:6} {name:9} {rows:>9,} rows {seconds:7.2f} s {speed} {gb:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
