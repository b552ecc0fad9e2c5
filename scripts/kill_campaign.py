"""Kill a run at random moments, start it again, and compare what it makes with a run that nobody killed.

    python scripts/kill_campaign.py --kills 40

Runs SFT -> GRPO -> evaluation of a tiny random model on the CPU. Every kill is SIGKILL or SIGTERM to the whole process
group, at a moment drawn over the time that the rest of the run takes. Prints what was under way at each kill, and
exits with 1 when an adapter differs in one bit or a record is lost or doubled.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import chain_recipe, save_tiny_model

OVERRIDES = ["stages.0.max_steps=12", "stages.0.save_every=2", "stages.1.max_steps=8", "stages.1.save_every=1"]


def start(recipe: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "adapters", "run", str(recipe), *OVERRIDES, f"name={name}"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with (recipe.parent / f"{name}.out").open("ab") as out:
        return subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)


def under_way(run: Path) -> str:
    """What a run folder shows to be in progress."""
    if not run.is_dir():
        return "planning"
    for partial in sorted(run.glob("*.partial")):
        checkpoints = list(partial.glob("trainer/checkpoint-*"))
        if any(not (c / "seal.json").is_file() for c in checkpoints):
            return f"{partial.stem}: writing a checkpoint"
        return f"{partial.stem}: {'training' if checkpoints else 'starting'}"
    return "report written" if (run / "report.json").is_file() else "evaluation, or between stages"


def record(run: Path) -> dict[str, object]:
    """Everything that must not depend on the kills."""
    out: dict[str, object] = {}
    for stage in ("1-sft", "2-grpo"):
        manifest = json.loads((run / stage / "manifest.json").read_text())
        out[f"{stage} weights"] = manifest["files"]["adapter_model.safetensors"]
        for log in sorted((run / stage).glob("*.jsonl")):
            rows = [json.loads(line) for line in log.read_text().splitlines()]
            keys = ("step", "id", "reward", "score", "completion", "loss")
            out[f"{stage} {log.name}"] = [{k: r[k] for k in keys if k in r} for r in rows if "train_runtime" not in r]
    for samples in sorted(run.glob("eval/*/*/samples.jsonl")):
        out[str(samples.relative_to(run))] = samples.read_text()
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="leave the work folder")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    work = Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    recipe = work / "chain.yaml"
    recipe.write_text(chain_recipe(work, save_tiny_model(work / "tiny-llama")))
    runs = work / "runs"

    began = time.monotonic()
    assert start(recipe, "straight").wait() == 0, (work / "straight.out").read_text()
    whole = time.monotonic() - began
    wanted = record(runs / "straight")
    print(f"the run that nobody kills takes {whole:.0f} s", flush=True)

    kills: collections.Counter[str] = collections.Counter()
    wrong = rounds = 0
    while sum(kills.values()) < options.kills:
        rounds += 1
        run = runs / f"round{rounds}"
        while True:
            process = start(recipe, run.name)
            try:
                # Later and later, so that a round gets on even where a start takes most of the time.
                code = process.wait(timeout=rng.uniform(0.25, 1.0) * whole)
            except subprocess.TimeoutExpired:
                kind = rng.choice((signal.SIGKILL, signal.SIGTERM))
                where = under_way(run)
                os.killpg(process.pid, kind)
                process.wait()
                kills[where] += 1
                print(f"kill {sum(kills.values()):3}  {kind.name}  {where}", flush=True)
                continue
            break
        problems = [] if code == 0 else [f"exit code {code}"]
        if code == 0:
            got = record(run)
            problems = [key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key)]
        wrong += bool(problems)
        print(f"round {rounds}: {'DIFFERS: ' + ', '.join(sorted(problems)) if problems else 'equal'}", flush=True)
    for where, n in sorted(kills.items()):
        print(f"{n:4} x {where}")
    print(f"{sum(kills.values())} kills, {rounds} runs completed, {wrong} of them differ from the straight run")
    if options.keep or wrong:
        print(f"kept: {work}")
    else:
        shutil.rmtree(work)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
