"""How many of twenty instructions a large model turns into the program that they mean.

    python scripts/bench/bench_planner.py --endpoint URL --model NAME

Two programs are the same when their steps are, whatever the names, the wording of the instructions, and the form of
`keep` (compared by truth table). Each line says whether there is a program, and whether it is the one.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "mining"))

from twenty_programs import PAIRS, renamed

from adapters.chat_client import Connection
from adapters.mining import planner, program


def main() -> None:
    """Ask for each program, and print a line for each and the counts by group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--model")
    given = parser.parse_args()
    connection = Connection.open(given.endpoint, given.model)
    right, written = Counter[str](), Counter[str]()
    for group, instruction, steps in PAIRS:
        wanted = program.read(Path("wanted.yaml"), f"version: 1\nsteps: {steps}\n")
        try:
            found = planner.plan(instruction, connection, Path("p.yaml")).program
        except planner.NotPlannedError as error:
            print(f"no program    {instruction}  ({str(error).splitlines()[0][:120]})", flush=True)
            continue
        same = renamed(found, worded=False) == renamed(wanted, worded=False)
        written[group] += 1
        right[group] += same
        print(f"{'the same     ' if same else 'another one  '} {instruction}", flush=True)
    groups = dict.fromkeys(group for group, *_ in PAIRS)
    print(f"{connection.model}: " + "; ".join(f"{g}: {right[g]} of 5, {written[g]} programs" for g in groups))


if __name__ == "__main__":
    main()
