"""Seconds until a command line answers, and until a training takes its first step.

python scripts/bench/bench_startup.py [--rounds 7] [--first-step]

Ours beside TRL and LLaMA-Factory, where they are installed; the help of every verb beside that of a typer program with
as many options and nothing else; and with --first-step, where the time of the quickstart goes up to its first step.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import benchmarks

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
EMPTY = """import sys
from typing import Annotated
import typer

options = "".join(f"o{n}: Annotated[str | None, typer.Option(help='What it is for.')] = None, " for n in range(%d))
space = {"Annotated": Annotated, "typer": typer}
exec(f"def verb({options}) -> None: 'What it does.'\\ndef other() -> None: 'Another.'", space)
app = typer.Typer()
app.command()(space["verb"])
app.command()(space["other"])
sys.argv = ["program", "verb", "--help"]
app()
"""
WATCHED = """import sys, time
began = time.perf_counter()
from adapters import console

def told(name):
    print(f"@{time.perf_counter() - began:.2f} {name}", file=sys.stderr, flush=True)

made, phase, moved = console.Display.__init__, console.Display.phase, console.Display.__call__

def __init__(self, title, first):
    told(first)
    made(self, title, first)

def next_phase(self, name):
    told(name)
    phase(self, name)

def __call__(self, done, total, figures):
    moved(self, done, total, figures)
    if self.name == "training" and done == 1:
        told("")
        import os
        os._exit(0)

console.Display.__init__, console.Display.phase, console.Display.__call__ = __init__, next_phase, __call__
from adapters.cli.main import app
app()
"""
PARTS = {
    "loading libraries": "the command line and the recipe",
    "reading the data of 1-sft": "libraries: torch, transformers, TRL, PEFT",
    "starting": "the plan: rows made, labels tried, lengths, duplicates",
    "tokenising": "loading the model",
    "training": "tokenising",
    "": "the first step",
}
"""Names of what has gone before a phase begins."""


def commands() -> dict[str, list[str]]:
    """Every contender that is installed beside this Python."""
    ours = [sys.executable, "-m", "adapters"]
    found = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "adapters --help": [*ours, "--help"],
        "adapters extract --help": [*ours, "extract", "--help"],
        "adapters rewards list": [*ours, "rewards", "list"],
        "adapters check --no-import": [*ours, "check", "--no-import", str(RECIPE)],
    }
    peers = (("trl", ["--help"]), ("trl", ["sft", "--help"]), ("llamafactory-cli", ["help"]), ("axolotl", ["--help"]))
    for name, arguments in peers:
        folder = str(Path(sys.executable).parent)
        if path := shutil.which(name, path=folder) or shutil.which(name):
            found[" ".join((name, *arguments))] = [path, *arguments]
    return found


def verbs() -> dict[str, tuple[list[str], int]]:
    """The words and the number of options of every verb."""
    import typer.main

    from adapters.cli.main import app

    found: dict[str, tuple[list[str], int]] = {}

    def walk(command: object, words: list[str]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            if hasattr(inner, "commands"):
                walk(inner, [*words, name])
            else:
                found[" ".join([*words, name])] = ([*words, name], len(inner.params))

    walk(typer.main.get_command(app), [])
    return found


def helps(rounds: int) -> None:
    """The help of every verb beside that of an empty program; the slowest are printed, and how many are above 1.3x."""
    ours = [sys.executable, "-m", "adapters"]
    found = verbs()
    sizes = {name: size for name, (_, size) in found.items()}
    commands = {f"empty {size}": [sys.executable, "-c", EMPTY % size] for size in sizes.values()}
    commands |= {name: [*ours, *words, "--help"] for name, (words, _) in found.items()}
    jobs = {n: lambda c=c: subprocess.run(c, capture_output=True, check=True) for n, c in commands.items()}
    seconds = benchmarks.turns(jobs, rounds)
    ratios = {name: seconds[name] / seconds[f"empty {size}"] for name, size in sizes.items()}
    slowest = sorted(ratios, key=ratios.get, reverse=True)
    benchmarks.markdown(
        f"Help, median of {rounds}: the five slowest of {len(ratios)} verbs; {sum(r > 1.3 for r in ratios.values())} "
        "above 1.3x",
        ("verb", "options", "seconds", "empty program", "ratio"),
        [
            (
                f"`{n}`",
                verbs()[n][1],
                f"{seconds[n]:.2f}",
                f"{seconds[f'empty {verbs()[n][1]}']:.2f}",
                f"{ratios[n]:.2f}x",
            )
            for n in slowest[:5]
        ],
    )


def first_step() -> None:
    """Where the time goes from the command to the end of the quickstart's first step; the model is on the disk."""
    rounds = []
    for _ in range(4):  # the first one warms the disk's cache
        with tempfile.TemporaryDirectory() as folder:
            words = ["run", str(RECIPE), "evaluate=[]", "evaluate_base=false", f"run_dir={folder}"]
            done = subprocess.run([sys.executable, "-c", WATCHED, *words], capture_output=True, text=True, check=True)
            rounds.append(re.findall(r"@([\d.]+) (.*)", done.stderr))
    last = min(rounds[1:], key=lambda seen: float(seen[-1][0]))
    rows, before = [], 0.0
    for seconds, name in last:
        if name in PARTS:
            rows.append((PARTS[name], f"{float(seconds) - before:.1f}"))
            before = float(seconds)
    benchmarks.markdown("To the end of the first step", ("part", "seconds"), [*rows, ("all", f"{before:.1f}")])


def works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--first-step", action="store_true", help="also that of the quickstart (two minutes)")
    options = arguments.parse_args()
    found = {name: command for name, command in commands().items() if works(command)}
    seconds = benchmarks.turns(
        {name: lambda c=command: subprocess.run(c, capture_output=True, check=True) for name, command in found.items()},
        options.rounds,
    )
    base = seconds["adapters --help"]
    benchmarks.markdown(
        f"Start-up, median of {options.rounds}",
        ("command", "seconds", "times `adapters --help`"),
        [(f"`{name}`", f"{s:.2f}", f"{s / base:.1f}") for name, s in seconds.items()],
    )
    helps(options.rounds)
    if options.first_step:
        first_step()
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
