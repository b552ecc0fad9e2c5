"""Corpus metrics with bootstrap intervals, against a plain implementation of the same definitions.

    python scripts/bench/bench_metrics.py [--statements 1000] [--resamples 1000]

The plain one normalises at every comparison, matches in full, and adds up Python numbers for every resample. It gets
the same resamples, so that all figures can be compared, intervals included. Our first time is the median of five
processes, each of which has scored five other statements, so that the libraries are loaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from bench_rewards import make_pairs, plain_counts

MODES = ("permissive", "balanced", "strict")
FIELDS = ("funder", "award_id", "scheme", "title")
BETAS = {"f1": 1.0, "f0.5": 0.5, "f1.5": 1.5}
FIRST_TIME = """
import gc, time
sys.path.insert(0, sys.argv[1])
from bench_metrics import our_corpus
from bench_rewards import make_pairs
pairs = make_pairs(int(sys.argv[2]), 0, group=1)
our_corpus(make_pairs(5, 1, group=1))
gc.collect()
start = time.perf_counter()
our_corpus(pairs)
result = {"work": time.perf_counter() - start}
"""


def plain_corpus(
    pairs: list[tuple[str, list[dict[str, Any]]]], resamples: list[list[int]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """mode -> field -> figures, with the 2.5 and 97.5 percentile of each over the resamples (lists of indices)."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for mode in MODES:
        counts = []
        for completion, gold in pairs:
            try:
                text = completion.removeprefix("```json").removesuffix("```")
                counts.append(plain_counts(gold, json.loads(text), mode))
            except ValueError:
                counts.append(plain_counts(gold, [], mode))
        out[mode] = {}
        for field in FIELDS:
            figures = plain_figures([c[field] for c in counts])
            drawn = [plain_figures([counts[i][field] for i in indices]) for indices in resamples]
            for name in list(figures):
                figures[f"{name}_ci"] = [float(v) for v in np.percentile([d[name] for d in drawn], (2.5, 97.5))]
            out[mode][field] = figures
    return out


def plain_figures(counts: list[tuple[float, float, float]]) -> dict[str, Any]:
    gold, pred, matched = (sum(column) for column in zip(*counts, strict=True))
    p, r = matched / pred if pred else 0.0, matched / gold if gold else 0.0
    fs = {name: (1 + b * b) * p * r / (b * b * p + r) if p or r else 0.0 for name, b in BETAS.items()}
    return {"precision": p, "recall": r, **fs}


def our_corpus(pairs: Iterable[tuple[str, list[dict[str, Any]]]]) -> dict[str, dict[str, dict[str, Any]]]:
    from adapters.evaluation import metrics
    from adapters.tasks.funding import FundingTask

    task = FundingTask()
    return metrics.corpus(task.counts(gold, completion) for completion, gold in pairs)


def draws(n: int, count: int) -> list[list[int]]:
    """Our resamples as lists of indices."""
    from adapters.evaluation import metrics

    drawn = metrics.resampled_sums(np.eye(n))[:count].astype(int)
    return [np.repeat(np.arange(n), row).tolist() for row in drawn]


def difference(ours: dict[str, Any], plain: dict[str, Any], *, intervals: bool) -> float:
    """Largest difference of any figure that both have."""
    return max(
        float(np.max(np.abs(np.subtract(ours[mode][field][name], value))))
        for mode in MODES
        for field in FIELDS
        for name, value in plain[mode][field].items()
        if (intervals or not name.endswith("_ci"))
        and ours[mode][field][name] is not None  # undefined: 0 in the plain code
    )


def main() -> None:
    import benchmarks

    from adapters.rewards import funding_records

    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--statements", type=int, default=1000)
    arguments.add_argument("--resamples", type=int, default=1000, help="of the plain one; below 1,000 it is scaled up")
    options = arguments.parse_args()
    pairs = make_pairs(options.statements, 0, group=1)
    resamples = draws(len(pairs), options.resamples)
    start = time.perf_counter()
    plain_corpus(pairs, resamples[:1])
    once = time.perf_counter() - start
    start = time.perf_counter()
    plain = plain_corpus(pairs, resamples)
    drawing = max(time.perf_counter() - start - once, 0.0) * 1000 / options.resamples
    ours = our_corpus(pairs)
    given = [str(Path(__file__).parent), str(len(pairs))]
    cold = statistics.median(benchmarks.in_process(FIRST_TIME, given)["work"] for _ in range(5))
    warm = min(benchmarks.turns({"ours": lambda: our_corpus(pairs)}, 5).values())
    worst = difference(ours, plain, intervals=options.resamples == 1000)
    if worst > 1e-9:
        raise SystemExit(f"the figures differ by {worst}")
    seconds = {"plain": once + drawing, "ours, first time": cold, "ours, caches warm": warm}
    benchmarks.markdown(
        f"{len(pairs)} statements, 3 modes, 4 fields, 1,000 resamples (equal figures, largest difference {worst:.1e})",
        ("implementation", "seconds", "ratio"),
        [(name, f"{s:.2f}", f"{seconds['plain'] / s:.0f}x") for name, s in seconds.items()],
    )
    print(f"\n{benchmarks.machine()}; texts of up to {funding_records.MAX_CHARS} characters are compared")


if __name__ == "__main__":
    main()
