"""What each way of learning from own answers is worth behind SFT: funders and award ids, one start.

    python scripts/build/build_published_like.py FOLDER
    python scripts/funding_levers.py FOLDER --out runs/levers [--levers best_of dpo grpo …] [--seeds 1 2 3]

FOLDER holds grobid_train.jsonl, grobid_dev.jsonl and published_like.jsonl. The start is the first stage of the recipe,
recipes/funding_smollm2.yaml if no other is named. All levers go on from it on the rows of the recipe's second stage,
which the first has not seen. Levers that learn from stored samples share one file of them, whose seconds are in their
time. Seeds differ in the rows that are held out and in the order of the others. Two are controls: `more` is SFT on the
gold of these statements, for as many seconds as --like took, and `unselected` is SFT on a sample of each, whatever it
earns. A run that is finished is not made again; a stopped one goes on, and is timed from there.

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

from adapters.data import source_rows
from adapters.data_aug.funding_links import mend
from adapters.evaluation.comparison import changes_over_seeds
from adapters.files import manifest_path, read_json, read_jsonl, write_json, write_jsonl
from adapters.recipe.load import load_recipe
from adapters.rewards.funding import Funding
from adapters.tasks.funding import FundingTask
from adapters.types import Example, Row, counts_of

RECIPE: Final = Path(__file__).parents[1] / "recipes" / "funding_smollm2.yaml"
SETS = ("grobid_dev", "published_like")
SAMPLES: Final = "samples.jsonl"
REWARD: Final = {"rewards": [{"use": "funding", "scorer": "corrected"}]}
SIZES: Final = {"beta": 1, "funder": 0.5, "hierarchical": 0.5, "flat": 0, "soft_ids": False, "full_size": 6}
TABLES: Final = {"rewards": [{"use": "funding", "scorer": "corrected", **SIZES}]}
"""Pays for what the tables show: F1, exact ids under their funder, statements by their size."""
STEPS: Final = {"batch_size": 16, "micro_batch_size": 4, "warmup": 0.1, "max_length": 2048}
TRAINED: Final = STEPS | {"learning_rate": 1e-4}
PAIRS: Final = STEPS | {"learning_rate": 5e-5, "epochs": 2}
PAIRS_LOSS: Final = {"trl": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}}
GROUPS: Final = {
    **{"batch_size": 8, "micro_batch_size": 8, "group_size": 8, "temperature": 0.7, "learning_rate": 5e-5},
    **{"warmup": 0.1, "schedule": "constant", "beta": 0, "scale_rewards": "none", "flat_groups": "leave_out"},
    **{"max_prompt_length": 1024, "max_completion_length": 384},
}


def _own(**how: object) -> dict[str, Any]:
    return REWARD | {"samples": {"path": SAMPLES, **how}}


LEVERS: Final[Mapping[str, dict[str, Any]]] = {
    "best_of": {"kind": "best_of"} | _own(margin=0.02) | TRAINED,
    "unselected": {"kind": "best_of"} | _own(pick="first") | TRAINED,
    "best_of all": {"kind": "best_of"} | _own(margin=0) | TRAINED,
    "dpo": {"kind": "dpo"} | _own(margin=0.1) | PAIRS | PAIRS_LOSS,
    "grpo": {"kind": "grpo"} | REWARD | GROUPS,
    "grpo tables": {"kind": "grpo"} | TABLES | GROUPS,
    "more": {"kind": "sft"} | TRAINED,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, then show the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/levers"))
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="its first stage is the start, its second has rows")
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=list(LEVERS), metavar="LEVER")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=40, help="of GRPO")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for the levers' stages")
    parser.add_argument("--tag", default="", help="added to the runs' names, for other settings")
    parser.add_argument("--like", default="best_of", help="the lever whose seconds the control gets")
    parser.add_argument("--without", help="id of a statement; the figures without it are shown too")
    options = parser.parse_args(arguments)
    if "more" in options.levers and options.like not in options.levers[: options.levers.index("more")]:
        parser.error(f"--like {options.like}: the control is as long as a lever that stands before `more`")
    folder, out = options.folder.resolve(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    known = load_recipe(options.recipe, [f"data_root={folder}"])
    common = {key: known.tree[key] for key in ("task", "model", "lora")}
    tests = [{"name": s, "data": [{"path": str(folder / f"{s}.jsonl")}], "max_new_tokens": 1500} for s in SETS]
    common |= {"run_dir": str(out), "evaluate": tests, "evaluate_base": False}
    first = {"seed": known.recipe.seed, "data_root": str(folder), "stages": known.tree["stages"][:1]}
    start = run(out, "start", common | first)
    if not (out / "fresh.jsonl").is_file():
        task = FundingTask()
        sources = known.recipe.stages[1].data
        rows = [source_rows.rows_of(source, task, folder, known.recipe.seed, ()) for source in sources]
        write_jsonl(out / "fresh.jsonl", (row for of_source in rows for _, row in of_source))
    runs: dict[str, list[Path]] = {}
    for lever in options.levers:
        stage = {"data": [{"path": "fresh.jsonl"}], "validation": 0.25} | LEVERS[lever]
        metric = "f1" if stage["kind"] == "sft" else "reward"
        stage |= {"select": {"metric": metric, "every": 10, "rows": 120}}
        if stage["kind"] in ("grpo", "sft"):
            stage |= {"max_steps": options.steps if lever != "more" else steps_within(runs, options.like, start)}
        for seed in options.seeds:
            if "samples" in stage:
                sample(start, out)
            name = f"{lever.replace(' ', '_')}{options.tag}-{seed}"
            recipe = common | {"seed": seed, "data_root": str(out), "start": str(start / "1-sft"), "stages": [stage]}
            finished = run(out, name, recipe, *(f"stages.0.{assignment}" for assignment in options.set))
            runs.setdefault(lever, []).append(finished)
    mended = {row["id"]: mend(row) for row in read_jsonl(folder / "grobid_dev.jsonl")}
    for left_out in filter(None, dict.fromkeys(["nothing", options.without])):
        show(runs, left_out, mended)


def run(out: Path, name: str, recipe: Mapping[str, Any], *changed: str) -> Path:
    """A run, made where it is not finished."""
    folder, file, asked = out / name, out / f"{name}.yaml", out / f"{name}.asked.json"
    wanted = {"name": name, **recipe}
    if (folder / "report.json").is_file():
        if read_json(asked) != json.loads(json.dumps({"recipe": wanted, "changed": changed})):
            raise SystemExit(f"{folder} was made with other settings; name another --out or --tag.")
    else:
        write_json(file, wanted)
        write_json(asked, {"recipe": wanted, "changed": changed})
        subprocess.run([sys.executable, "-m", "adapters", "run", str(file), *changed], check=True)
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
