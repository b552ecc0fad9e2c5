"""How work grows with its size: noise, scoring, planning, extraction, completions in a group, funders in a statement.

    python scripts/bench/bench_growth.py [--most 100000] [--only planning,scoring] [--out docs/growth.png]

Rows are counted from 1,000 up in steps of ten, texts ten times as long up to a tenth of the most. Every size has a
process of its own, whose peak memory is told beside its seconds. These are the processor's: other programs change them
little. The exponent is that of seconds = c * size^k between the two largest sizes: 1 is linear. Planning
reads a stage and a test set of a tenth as many rows, whose texts differ, and counts leakage; the ledger looks for
duplicates among them, too. Extraction is measured without a model: reading, the journal, the output.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

import benchmarks
from bench_noise import write_statements
from bench_rewards import make_pairs, plain_counts


class Point(NamedTuple):
    """One size: how long it took, and the peak memory of a process that did nothing else."""

    size: int
    seconds: float
    gb: float


ExtractionJob = Callable[[int], float]
"""Does a size's work and returns its seconds, preparation left out."""


def curve(work: ExtractionJob, sizes: Sequence[int]) -> list[Point]:
    """Every size in a process of its own, so that each has a peak of memory of its own."""
    context = multiprocessing.get_context("spawn")
    points = []
    for n in sizes:
        with ProcessPoolExecutor(1, mp_context=context) as pool:  # a process that is killed raises an error
            points.append(Point(n, *pool.submit(_measured, work, n).result()))
        print(points[-1], file=sys.stderr, flush=True)
    return points


def _measured(work: ExtractionJob, n: int) -> tuple[float, float]:
    return work(n), benchmarks.peak_gb()


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def rows_up_to(most: int, least: int = 1000) -> list[int]:
    return [least * 10**n for n in range(int(math.log10(most / least) + 1e-9) + 1)]


def statements(n: int, *, long: bool) -> Iterator[dict]:
    rows = write_statements(min(n, 1000))
    for row in rows:
        if long:
            row["funding_statement"] = " ".join([row["funding_statement"]] * 10)
    return (
        {**row, "id": str(i), "funding_statement": f"{row['funding_statement']} Project {i}."}
        for i, row in enumerate(islice(cycle(rows), n))
    )


def noise(n: int, *, long: bool = False) -> float:
    from adapters.data_aug.noise import noise_row, preset

    document = preset("document")

    def go() -> None:
        for row in statements(n, long=long):
            noise_row(row, document)

    return seconds(go)


def answers(n: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    blocks = range(0, n, 1000)  # of a million rows made at once the list alone is 3 GB
    return (pair for start in blocks for pair in make_pairs(min(1000, n - start), n + start, group=1))


def scoring(n: int) -> float:
    from bench_metrics import our_corpus

    from adapters.data.on_disk import collect

    pairs = collect(answers(n))
    return seconds(lambda: our_corpus(pairs))


def scoring_files(n: int) -> float:
    from adapters.evaluation.score_files import score_files
    from adapters.files import write_jsonl

    with tempfile.TemporaryDirectory() as folder:
        predictions, gold = Path(folder) / "answers.jsonl", Path(folder) / "gold.jsonl"
        write_jsonl(gold, ({"id": str(i), "funders": of_row} for i, (_, of_row) in enumerate(answers(n))))
        write_jsonl(predictions, ({"id": str(i), "completion": text} for i, (text, _) in enumerate(answers(n))))
        return seconds(lambda: score_files(predictions, gold))


def planning(n: int, *, long: bool = False, with_ledger: bool = False) -> float:
    from adapters.backends import backend as make_backend
    from adapters.files import write_jsonl
    from adapters.pipeline import ledger
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        write_jsonl(Path(folder) / "rows.jsonl", statements(n, long=long))
        write_jsonl(Path(folder) / "test.jsonl", statements(n // 10, long=long))
        recipe.write_text(
            f"name: x\ntask: funding\nmodel: {{base: x}}\ntrainer: echo\nrun_dir: {folder}\nstages:\n"
            "  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4, max_length: 100000}\n"
            "evaluate: [{name: test, data: [{path: test.jsonl}]}]\n"
        )
        file = load_recipe(recipe)

        def go() -> None:
            plan = make_plan(file, make_backend(file.recipe))
            if with_ledger:
                ledger.of_plan(plan)

        return seconds(go)


def extraction(n: int, *, long: bool = False) -> float:
    from adapters.backends import adapter_folder
    from adapters.extraction import adapter_source, engines, extract, resumable
    from adapters.extraction.engine import Options
    from adapters.files import write_jsonl

    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "adapter"
        known.mkdir()
        (known / adapter_folder.WEIGHTS).write_text("{}")
        (known / adapter_folder.CONFIG).write_text(json.dumps({"peft_type": "ECHO", "base_model_name_or_path": "x"}))
        source = adapter_source.find(str(known), task="funding")
        corpus = Path(folder) / "rows.jsonl"
        write_jsonl(corpus, statements(n, long=long))
        work = extract.prepare(source, corpus, Path(folder) / "out.parquet", engine={})

        def go() -> None:
            with resumable.open_or_resume(work, fresh=True):
                engine = engines.make("transformers", source, Options(), print)
                extract.run(work, lambda: engine, lambda *_: None)

        return seconds(go)


def groups(n: int) -> float:
    """Seconds of one group of n completions, the mean of forty."""
    from adapters.rewards.funding import Funding
    from adapters.types import Example

    reward = Funding()
    golds = [make_pairs(n, seed, group=n) for seed in range(40)]

    def go() -> None:
        for pairs in golds:
            for completion, gold in pairs:
                reward(completion, Example("", "bench", (), gold=gold))

    return seconds(go) / len(golds)


def funders(n: int, *, plain: bool = False) -> float:
    """Seconds of one matching mode, for n funders against the same n in another order."""
    from adapters.tasks.funding import FundingTask

    words = "Agency Arctic Board Bureau Centre Climate Council Data Fund Health Office Ocean Physics Science Trust"
    rng = random.Random(n)
    names = [" ".join(rng.sample(words.split(), 4)) + f" {i}" for i in range(n)]
    gold = [
        {"funder_name": name, "awards": [{"award_ids": [f"A{i}"], "funding_scheme": [], "award_title": []}]}
        for i, name in enumerate(names)
    ]
    pred = rng.sample(gold, n)
    if plain:
        return seconds(lambda: plain_counts(gold, pred, "balanced"))
    return seconds(lambda: FundingTask().counts(gold, json.dumps(pred))) / 3  # three modes


def exponent(points: list[Point]) -> float:
    a, b = points[-2:]
    return math.log(b.seconds / a.seconds) / math.log(b.size / a.size)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--most", type=int, default=10_000, help="rows of the largest size; 1000000: 15 minutes")
    arguments.add_argument("--out", type=Path, help="PNG of the curves")
    arguments.add_argument("--only", default="", help="beginnings of the curves' names, by commas: planning,scoring")
    options = arguments.parse_args()
    if options.most < 10_000:
        arguments.error("--most: an exponent takes two sizes, so 10000 or more")
    short, long = rows_up_to(options.most), rows_up_to(max(options.most // 10, 10_000))
    wanted: dict[str, tuple[ExtractionJob, Sequence[int]]] = {
        "noise, rows": (noise, short),
        "noise, rows ten times as long": (functools.partial(noise, long=True), long),
        "scoring and intervals, rows": (scoring, short),
        "scoring of files, rows": (scoring_files, short),
        "planning, rows": (planning, short),
        "planning, rows ten times as long": (functools.partial(planning, long=True), long),
        "planning and ledger, rows": (functools.partial(planning, with_ledger=True), short),
        "extraction without a model, rows": (extraction, short),
        "extraction without a model, rows ten times as long": (functools.partial(extraction, long=True), long),
        "reward, completions in a group": (groups, (2, 4, 8, 16, 32, 64, 128, 256)),
        "matching, funders in a statement": (funders, (5, 10, 20, 50, 100, 200)),
        "matching, funders in a statement, plain": (functools.partial(funders, plain=True), (5, 10, 20, 50)),
    }
    only = tuple(options.only.split(","))
    curves = {name: curve(work, sizes) for name, (work, sizes) in wanted.items() if name.startswith(only)}
    if not curves:
        arguments.error(f"--only: the curves are {', '.join(wanted)}")
    benchmarks.markdown(
        "Growth",
        ("what", "sizes", "CPU seconds", "exponent at the end", "peak GB"),
        [
            (
                name,
                " / ".join(f"{p.size:,}" for p in points),
                " / ".join(f"{p.seconds:.3g}" for p in points),
                f"{exponent(points):.2f}",
                " / ".join(f"{p.gb:.2f}" for p in points),
            )
            for name, points in curves.items()
        ],
    )
    print(f"\n{benchmarks.machine()}")
    if options.out:
        draw(curves, options.out)


def draw(curves: dict[str, list[Point]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for name, points in curves.items():
        axes.loglog([p.size for p in points], [p.seconds for p in points], marker="o", label=name, linewidth=1)
    axes.set_xlabel("size")
    axes.set_ylabel("seconds")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
