"""How well names are matched with a registry of funders: precision and recall by the kind of damage.

    python scripts/bench/bench_registry.py funders.jsonl [-n 1000] [--seed 1]

The labels are the registry's own: each query is a name of it, damaged, and its funder is the right answer. As many
other funders are taken out of the registry first; their names must find nothing. Precision is the share of right ids
among those given, recall the share of queries with the right id. An ambiguous name has no id.
"""

from __future__ import annotations

import argparse
import random
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import benchmarks

from adapters.files import write_jsonl
from adapters.tasks.funding_registry import FundingNormaliser

Funder = Sequence[str]


def typed(name: str, rng: random.Random) -> str:
    """A letter left out, doubled, exchanged with the next one, or another in its place."""
    places = [n for n, c in enumerate(name[:-1]) if c.isalpha()] or [0]
    n = rng.choice(places)
    wrong = ("", name[n] * 2, name[n + 1 : n + 2] + name[n], rng.choice(string.ascii_lowercase))
    kind = rng.randrange(4)
    return name[:n] + wrong[kind] + name[n + (2 if kind == 2 else 1) :]


def shorter(name: str, rng: random.Random) -> str:
    words = name.split()
    left_out = rng.randrange(len(words)) if len(words) > 3 else -1
    return " ".join(word for n, word in enumerate(words) if n != left_out)


def initials(name: str) -> str:
    return "".join(word[0] for word in name.split() if word[0].isupper())


def alias(funder: Funder, rng: random.Random) -> str:
    return rng.choice(list(funder[2:]) or [funder[1]])


DAMAGE: dict[str, Callable[[Funder, random.Random], str]] = {
    "none": lambda f, _: f[1],
    "another name of it": alias,
    "capitals, article, comma": lambda f, _: f"THE {f[1].upper()},",
    "its initials in brackets": lambda f, _: f"{f[1]} ({initials(f[1])})",
    "one typing error": lambda f, rng: typed(f[1], rng),
    "three typing errors": lambda f, rng: typed(typed(typed(f[1], rng), rng), rng),
    "a line break in a word": lambda f, _: f[1].replace("n", "n-\n", 1),
    "a word left out, of four or more": lambda f, rng: shorter(f[1], rng),
    "a country after it": lambda f, rng: f"{f[1]}, {rng.choice(['Germany', 'China', 'USA', 'Brazil'])}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("registry", type=Path)
    parser.add_argument("-n", type=int, default=1000, help="Funders asked for with each damage, and left out.")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    funders = FundingNormaliser(given.registry).funders
    chosen = rng.sample(funders, 2 * given.n)
    absent, asked = chosen[: given.n], chosen[given.n :]
    left_out = {funder[0] for funder in absent}
    with tempfile.TemporaryDirectory() as folder:
        rows = ({"funder_id": i, "name": n, "aliases": a} for i, n, *a in funders if i not in left_out)
        write_jsonl(Path(folder, "registry.jsonl"), rows)
        matcher = FundingNormaliser(Path(folder, "registry.jsonl"))
    print(f"{len(funders) - given.n:,} funders, {given.n:,} queries a line\n")
    print("| damage | precision | recall | ambiguous | ms a name |\n|---|---:|---:|---:|---:|")
    for name, damage in DAMAGE.items():
        queries = [damage(funder, rng) for funder in asked]
        found, ms = match(matcher, queries)
        right = sum(f["funder_id"] == funder[0] for f, funder in zip(found, asked, strict=True))
        given_ids = sum(f["funder_id"] is not None for f in found)
        vague = sum(f["match"] == "ambiguous" for f in found)
        shares = f"{right / max(1, given_ids):.3f} | {right / given.n:.3f} | {vague / given.n:.3f}"
        print(f"| {name} | {shares} | {ms:.2f} |")
    for name in ("none", "one typing error"):
        found, ms = match(matcher, [DAMAGE[name](funder, rng) for funder in absent])
        wrong = sum(f["funder_id"] is not None for f in found)
        print(f"| not in the registry, damage: {name} | {wrong:,} of {given.n:,} get an id | | | {ms:.2f} |")
    print(f"\n{benchmarks.machine()}")


def match(matcher: FundingNormaliser, names: Sequence[str]) -> tuple[list[dict], float]:
    """The match of each name, and milliseconds a name."""
    start = time.perf_counter()
    found = matcher([[{"funder_name": name, "awards": []}] for name in names])
    return [record[0] for record in found], 1000 * (time.perf_counter() - start) / len(names)


if __name__ == "__main__":
    main()
