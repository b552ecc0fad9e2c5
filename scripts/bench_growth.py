"""How work grows with its size: noise, scoring, planning, extraction, completions in a group, funders in a statement.

    python scripts/bench_growth.py [--most 100000] [--out docs/growth.png]

Rows are counted from 1,000 up in steps of ten, with short and long texts. The exponent is that of seconds = c * size^k
between the two largest sizes: 1 is linear. Extraction is measured without a model: reading, the journal, the output.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import benchmarks
from bench_noise import write_statements
from bench_rewards import make_pairs, plain_counts

Point = tuple[int, float]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sizes(most: int, least: int = 1000) -> list[int]:
    return [least * 10**n for n in range(int(math.log10(most / least) + 1e-9) + 1)]


def statements(n: int, *, long: bool) -> list[dict]:
    rows = write_statements(min(n, 1000))
    for row in rows:
        if long:
            row["funding_statement"] = " ".join([row["funding_statement"]] * 10)
    return [{**rows[i % len(rows)], "id": str(i)} for i in range(n)]


def noise(most: int, *, long: bool) -> Iterator[Point]:
    from data_aug.noise import noise_row, preset

    document = preset("document")
    for n in sizes(most):
        rows = statements(n, long=long)
        yield n, seconds(lambda rows=rows: [noise_row(row, document) for row in rows])


def scoring(most: int) -> Iterator[Point]:
    from bench_metrics import our_corpus

    for n in sizes(most):
        pairs = make_pairs(n, n, group=1)
        yield n, seconds(lambda pairs=pairs: our_corpus(pairs))


def planning(most: int, *, long: bool) -> Iterator[Point]:
    from adapters import plan, recipe_file
    from adapters.backends import backend as make_backend

    with tempfile.TemporaryDirectory() as folder:
        for n in sizes(most):
            data, recipe = Path(folder) / "rows.jsonl", Path(folder) / "recipe.yaml"
            data.write_text("".join(json.dumps(row) + "\n" for row in statements(n, long=long)))
            recipe.write_text(
                f"name: x\ntask: funding\nmodel: {{base: x}}\ntrainer: echo\nrun_dir: {folder}\nstages:\n"
                "  - {kind: sft, data: [{path: rows.jsonl}], learning_rate: 1e-4, max_length: 100000}\n"
            )
            file = recipe_file.load(recipe)
            yield n, seconds(lambda file=file: plan.make(file, make_backend(file.recipe)))


def extraction(most: int, *, long: bool) -> Iterator[Point]:
    from adapters import adapter, extract, extract_engines, extract_source

    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "adapter"
        known.mkdir()
        (known / adapter.WEIGHTS).write_text("{}")
        (known / adapter.CONFIG).write_text(json.dumps({"peft_type": "ECHO", "base_model_name_or_path": "x"}))
        source = extract_source.find(str(known), task="funding")
        for n in sizes(most):
            corpus = Path(folder) / f"{n}.jsonl"
            with corpus.open("w") as file:
                file.writelines(json.dumps(row) + "\n" for row in statements(n, long=long))
            work = extract.prepare(source, corpus, Path(folder) / f"{n}.out.parquet", engine={})

            def go(work: extract.Work = work) -> None:
                with extract.claimed(work, fresh=True):
                    engine = extract_engines.make("transformers", source, extract_engines.Options(), print)
                    extract.run(work, lambda: engine, lambda *_: None)

            yield n, seconds(go)


def groups() -> Iterator[Point]:
    from adapters.types import Example
    from rewards.funding import Funding

    reward = Funding()
    for n in (2, 4, 8, 16, 32, 64, 128, 256):
        golds = [make_pairs(n, seed, group=n) for seed in range(40)]

        def go(golds: list = golds) -> None:
            for pairs in golds:
                for completion, gold in pairs:
                    reward(completion, Example("", "bench", (), gold=gold))

        yield n, seconds(go) / len(golds)


def funders(*, plain: bool) -> Iterator[Point]:
    from adapters.tasks.funding import FundingTask

    words = "Agency Arctic Board Bureau Centre Climate Council Data Fund Health Office Ocean Physics Science Trust"
    for n in (5, 10, 20, 50, 100, 200):
        if plain and n > 50:
            return
        rng = random.Random(n)
        names = [" ".join(rng.sample(words.split(), 4)) + f" {i}" for i in range(n)]
        gold = [
            {"funder_name": name, "awards": [{"award_ids": [f"A{i}"], "funding_scheme": [], "award_title": []}]}
            for i, name in enumerate(names)
        ]
        pred = rng.sample(gold, n)
        if plain:
            yield n, seconds(lambda a=gold, b=pred: plain_counts(a, b, "balanced"))
        else:
            yield n, seconds(lambda a=gold, b=pred: FundingTask().counts(a, json.dumps(b))) / 3  # three modes


def exponent(points: list[Point]) -> float:
    (a, s), (b, t) = points[-2:]
    return math.log(t / s) / math.log(b / a)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--most", type=int, default=10_000, help="rows of the largest size; 1000000 takes an hour")
    arguments.add_argument("--out", type=Path, help="PNG of the curves")
    options = arguments.parse_args()
    most = options.most
    curves: dict[str, list[Point]] = {}
    for name, points in {
        "noise, rows": noise(most, long=False),
        "noise, rows ten times as long": noise(most, long=True),
        "scoring and intervals, rows": scoring(most),
        "planning, rows": planning(most, long=False),
        "planning, rows ten times as long": planning(most, long=True),
        "extraction without a model, rows": extraction(most, long=False),
        "extraction without a model, rows ten times as long": extraction(most, long=True),
        "reward, completions in a group": groups(),
        "matching, funders in a statement": funders(plain=False),
        "matching, funders in a statement, plain": funders(plain=True),
    }.items():
        curves[name] = list(points)
    benchmarks.markdown(
        "Growth",
        ("what", "sizes", "seconds", "exponent at the end"),
        [
            (name, " / ".join(f"{n:,}" for n, _ in c), " / ".join(f"{s:.3g}" for _, s in c), f"{exponent(c):.2f}")
            for name, c in curves.items()
            if len(c) > 1
        ],
    )
    print(f"\npeak memory {benchmarks.peak_gb():.2f} GB; {benchmarks.machine()}")
    if options.out:
        draw(curves, options.out)


def draw(curves: dict[str, list[Point]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    for name, points in curves.items():
        axes.loglog(*zip(*points, strict=True), marker="o", label=name, linewidth=1)
    axes.set_xlabel("size")
    axes.set_ylabel("seconds")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
