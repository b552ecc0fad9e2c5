"""One recipe, the same data, the local and the hosted trainer: what each makes of a tiny model.

    scripts/build/install_tuft.sh
    python scripts/bench/compare_trainers.py --seeds 42 43 44

The hosted trainer talks to the tests' Tinker-compatible server, a process on this machine's CPU. The model is random:
SFT learns the form of the targets, and GRPO a reward that pays for letters. The server draws its own first adapter
weights: seeds are not the same draw on both sides, and a difference means something only beyond the spread over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import benchmarks

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from hosted_process import KEY, Server
from tiny import LETTERS, funding_rows, save_lively_model, save_tiny_model, write_jsonl

TRAINERS = {
    "local, bf16": ["model.precision=bf16"],
    "local, fp32": ["model.precision=fp32"],
    "hosted": ["trainer=tinker"],
}
RECIPE = """
name: compared
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: {model}}}
lora: {{rank: 4, alpha: 32}}
run_dir: {folder}/runs
stages:
  - kind: sft
    data: [{{path: train.jsonl}}]
    batch_size: 8
    max_steps: {sft}
    learning_rate: 1e-2
    max_length: 512
    validation: 0.1
  - kind: grpo
    data: [{{path: train.jsonl}}]
    batch_size: 2
    group_size: 8
    max_steps: {grpo}
    learning_rate: 1e-2
    schedule: constant
    beta: 0.01
    rewards: [./letters.py:Letters]
    max_prompt_length: 512
    max_completion_length: 64
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}], max_new_tokens: 24}}
"""


def write_recipe(folder: Path, sft: int, grpo: int) -> tuple[Path, Path]:
    """The recipe with its data, its reward and its model; returns recipe and model."""
    model = save_lively_model(save_tiny_model(folder / "tiny"), folder / "lively-llama")
    write_jsonl(folder / "train.jsonl", funding_rows(60))
    write_jsonl(folder / "test.jsonl", funding_rows(16, "t"))
    (folder / "letters.py").write_text(LETTERS)
    path = folder / "compared.yaml"
    path.write_text(RECIPE.format(model=model, folder=folder, sft=sft, grpo=grpo))
    return path, model


def trained(recipe: Path, name: str, overrides: list[str]) -> dict[str, float]:
    """Run the recipe, and read its figures."""
    from adapters.backends import backend
    from adapters.console import quiet
    from adapters.pipeline.plan import make_plan
    from adapters.pipeline.run import run_plan
    from adapters.recipe.load import load_recipe

    file = load_recipe(recipe, [*overrides, f"name={name}"])
    with quiet(None):
        made = backend(file.recipe)
        planned = make_plan(file, made)
        report = run_plan(planned, made)
    sft, grpo = (report["stages"][n]["figures"] for n in ("1-sft", "2-grpo"))
    log = [json.loads(line) for line in (planned.folder / "2-grpo" / "log.jsonl").read_text().splitlines()]
    steps = [row for row in log if "reward" in row]
    rewards = [row["reward"] for row in steps]
    out = {
        "NLL before": sft["nll_before"],
        "NLL after SFT": sft["nll_after"],
        "GRPO reward, first five steps": sum(rewards[:5]) / 5,
        "GRPO reward, last five steps": sum(rewards[-5:]) / 5,
        "first KL": steps[0]["kl"],
        "last KL": steps[-1]["kl"],
    }
    for label, held in report["sets"]["test"].items():
        [reward] = held["rewards"].values()
        out[f"test reward, {label}"] = reward["mean"]
    for stage, figures in (("SFT", sft), ("GRPO", grpo)):
        for key, said in (
            ("idle_share", "share of time the service waits"),
            ("logprob_difference", "adapter difference, nats a token"),
        ):
            if key in figures:
                out[f"{said}, {stage}"] = figures[key]
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--sft", type=int, default=40, help="steps of 8 rows")
    parser.add_argument("--grpo", type=int, default=20, help="steps of 2 groups of 8 answers")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as work:
        recipe, model = write_recipe(Path(work), options.sft, options.grpo)
        server = Server([model], Path(work) / "server")
        os.environ |= {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": KEY}
        found: dict[str, list[dict[str, Any]]] = {}
        try:
            for seed in options.seeds:
                for n, (name, overrides) in enumerate(TRAINERS.items()):
                    result = trained(recipe, f"{n}-{seed}", [*overrides, f"seed={seed}"])
                    print(seed, name, json.dumps(result), file=sys.stderr)
                    found.setdefault(name, []).append(result)
        finally:
            server.kill()
    title = f"{options.sft} SFT steps, {options.grpo} GRPO steps; seeds {', '.join(map(str, options.seeds))}"
    figures = dict.fromkeys(key for results in found.values() for result in results for key in result)
    rows = [
        [name, *(", ".join(f"{r[name]:.3f}" for r in results if name in r) for results in found.values())]
        for name in figures
    ]
    benchmarks.markdown(title, ["", *found], rows)
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
