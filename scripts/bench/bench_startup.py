"""Seconds until a command line answers: ours beside those of TRL and LLaMA-Factory, where they are installed.

python scripts/bench/bench_startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import benchmarks

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"


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


def works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
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
    print(f"\n{benchmarks.machine()}")


if __name__ == "__main__":
    main()
