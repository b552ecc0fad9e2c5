"""Compare synthetic funding statements with real ones, feature by feature, and look for copied wording.

Usage: python tests/compare_synthetic.py REAL.jsonl [MORE.jsonl ...] [-n 5000] [--seed 0] [--examples 5]

A real file holds rows {"funders": [...], "funding_statement": "..."}; without statements only the structure is
compared. Distances: two-sample Kolmogorov-Smirnov for numbers, total variation for classes; 0 is equal, 1 is disjoint.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from scipy.stats import ks_2samp

from adapters.data_aug.funding_statements import synthesize

Rows = list[dict[str, Any]]
GRAM = 8


def funders(rows: Rows) -> list[dict[str, Any]]:
    return [funder for row in rows for funder in row["funders"]]


def ids_of(funder: dict[str, Any]) -> list[str]:
    return [i for award in funder["awards"] for i in award["award_ids"]]


def ids(rows: Rows) -> list[str]:
    return [i for funder in funders(rows) for i in ids_of(funder)]


def names(rows: Rows) -> list[str]:
    return [funder["funder_name"] for funder in funders(rows) if funder["funder_name"]]


def texts(rows: Rows) -> list[str]:
    return [row["funding_statement"] for row in rows if "funding_statement" in row]


def with_funders(rows: Rows, some: bool) -> list[str]:
    return [row["funding_statement"] for row in rows if "funding_statement" in row and bool(row["funders"]) is some]


NUMBERS: dict[str, Callable[[Rows], Sequence[float]]] = {
    "characters": lambda rows: [len(text) for text in texts(rows)],
    "characters, with funders": lambda rows: [len(text) for text in with_funders(rows, True)],
    "characters, without funders": lambda rows: [len(text) for text in with_funders(rows, False)],
    "sentences": lambda rows: [len(re.findall(r"[a-z\d)\]]{2}[.;](?: |$)", text)) for text in texts(rows)],
    "funders a statement (if any)": lambda rows: [len(row["funders"]) for row in rows if row["funders"]],
    "ids a funder": lambda rows: [len(ids_of(funder)) for funder in funders(rows)],
    "award objects a funder": lambda rows: [len(funder["awards"]) for funder in funders(rows)],
    "characters of a name": lambda rows: [len(name) for name in names(rows)],
    "characters of an id": lambda rows: [len(i) for i in ids(rows)],
}


def share(items: Iterable[str], pattern: str) -> float:
    found = [bool(re.search(pattern, item)) for item in items]
    return sum(found) / len(found) if found else float("nan")


def of_funders(rows: Rows, test: Callable[[dict[str, Any]], bool]) -> float:
    found = [test(funder) for funder in funders(rows)]
    return sum(found) / len(found)


SHARES: dict[str, Callable[[Rows], float]] = {
    "statements without funder": lambda rows: sum(not row["funders"] for row in rows) / len(rows),
    "funders without name": lambda rows: of_funders(rows, lambda f: f["funder_name"] is None),
    "funders without ids": lambda rows: of_funders(rows, lambda f: not ids_of(f)),
    "funders with a scheme": lambda rows: of_funders(rows, lambda f: any(a["funding_scheme"] for a in f["awards"])),
    "funders with a title": lambda rows: of_funders(rows, lambda f: any(a["award_title"] for a in f["awards"])),
    "names: acronym only": lambda rows: share(names(rows), r"^(?=\S*[A-Z]\S*[A-Z])\S{2,10}$"),
    "names: with (ACRONYM)": lambda rows: share(names(rows), r"\([A-Za-z&.\- ]{2,12}\)"),
    "names: with a comma": lambda rows: share(names(rows), ","),
    "names: not ASCII": lambda rows: share(names(rows), r"[^\x00-\x7f]"),
    "names: a university": lambda rows: share(names(rows), "niversi"),
    "ids: hyphen": lambda rows: share(ids(rows), "-"),
    "ids: blank": lambda rows: share(ids(rows), " "),
    "ids: digits only": lambda rows: share(ids(rows), r"^\d+$"),
    "ids: slash": lambda rows: share(ids(rows), "/"),
    "ids: lower case": lambda rows: share(ids(rows), "[a-z]"),
    "ids: dot": lambda rows: share(ids(rows), r"\."),
    "ids: under 6 characters": lambda rows: share(ids(rows), r"^.{1,5}$"),
    "ids: underscore": lambda rows: share(ids(rows), "_"),
    "texts: heading first": lambda rows: share(texts(rows), r"^\W*(\d+\W+)?(?i:acknowl|funding|financial)"),
    "texts: thanks": lambda rows: share(texts(rows), "(?i)thank|grateful|indebted"),
    "texts: initials in brackets or after to": lambda rows: share(texts(rows), r"(\(| to )[A-Z]\.? ?[A-Z]\."),
    "texts: respectively": lambda rows: share(texts(rows), "respectively"),
    "texts: no role": lambda rows: share(texts(rows), r"no (?:part|role|say|involvement)|not influence"),
    "texts: no closing mark": lambda rows: share(texts(rows), r"[^.)\]]$"),
}  # fmt: skip


def shape_of(identifier: str) -> str:
    """The identifier with every run of digits as 9 and of letters as A."""
    return re.sub(r"\d+", "9", re.sub(r"[^\W\d_]+", "A", identifier))


def variation(one: Iterable[str], two: Iterable[str]) -> float:
    first, second = Counter(one), Counter(two)
    return 0.5 * sum(abs(first[k] / first.total() - second[k] / second.total()) for k in first | second)


NAMES = re.compile(r"\b(?<!\. )(?:[A-Z][\w'’-]*\.?(?: (?:of|and|for|the|de|in|&))* )+[A-Z][\w'’-]*")


def running_words(row: dict[str, Any]) -> list[list[str]]:
    """Lower-case words of a statement, cut where a name, a scheme, a title or an identifier stands.

    Unlabelled names of institutions and people count too: two or more capitalised words in a row, also over "of".
    """
    text = row["funding_statement"]
    labels = {funder["funder_name"] or "" for funder in row["funders"]}
    labels |= {part for f in row["funders"] for award in f["awards"] for parts in award.values() for part in parts}
    for part in sorted(labels, key=len, reverse=True):
        if part:
            text = text.replace(part, " \0 ")
    text = re.sub(r"\b[Tt]he \0", "\0", NAMES.sub("\0", text))
    return [re.findall(r"[^\W_]+", piece.lower()) for piece in text.split("\0")]


def grams(row: dict[str, Any], size: int) -> set[tuple[str, ...]]:
    return {tuple(w[i : i + size]) for w in running_words(row) for i in range(len(w) - size + 1)}


def copies(synthetic: Rows, real: Rows) -> tuple[list[tuple[int, str, str]], int]:
    """Shared runs of at least GRAM words as (length, words, id), longest first, and the longest run of any length."""
    known = {size: {gram for row in real for gram in grams(row, size)} for size in range(4, GRAM + 1)}
    found = []
    longest = 0
    real_text = [" " + " \0 ".join(" ".join(words) for words in running_words(row)) + " " for row in real]
    for row in synthetic:
        while longest < GRAM and any(gram in known.get(longest + 1, {gram}) for gram in grams(row, longest + 1)):
            longest += 1
        for words in running_words(row):
            at = 0
            while at + GRAM <= len(words):
                if tuple(words[at : at + GRAM]) not in known[GRAM]:
                    at += 1
                    continue
                end = at + GRAM
                while end < len(words) and any(f" {' '.join(words[at : end + 1])} " in text for text in real_text):
                    end += 1
                found.append((end - at, " ".join(words[at:end]), str(row["id"])))
                longest = max(longest, end - at)
                at = end
    return sorted(found, reverse=True), longest


def quantiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    points = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
    return " ".join(f"{ordered[min(int(p * len(ordered)), len(ordered) - 1)]:g}" for p in points)


def compare(console: Console, name: str, real: Rows, synthetic: Rows, examples: int) -> None:
    table = Table(title=f"{name}: {len(real)} real, {len(synthetic)} synthetic")
    for head in ("feature", "real", "synthetic", "distance"):
        table.add_column(head, justify="left" if head == "feature" else "right")
    for label, number in NUMBERS.items():
        first, second = number(real), number(synthetic)
        if first:
            distance = float(ks_2samp(first, second).statistic)
            table.add_row(
                f"{label} (10 25 50 75 90 99 100%)", quantiles(first), quantiles(second), f"KS {distance:.3f}"
            )
    table.add_section()
    for label, rate in SHARES.items():
        one, two = rate(real), rate(synthetic)
        if one == one:
            table.add_row(label, f"{one:.1%}", f"{two:.1%}", f"TV {abs(one - two):.3f}")
    coarse = variation(map(shape_of, ids(real)), map(shape_of, ids(synthetic)))
    table.add_row("shape of ids (runs of A and 9)", "", "", f"TV {coarse:.3f}")
    opening = [[" ".join(text.split()[:2]) for text in texts(rows)] for rows in (real, synthetic)]
    if opening[0]:
        table.add_row("first two words", "", "", f"TV {variation(*opening):.3f}")
    console.print(table)
    readable = [row for row in real if "funding_statement" in row]
    if readable:
        found, longest = copies(synthetic, readable)
        hit = len({row for _, _, row in found})
        console.print(f"{hit} of {len(synthetic)} synthetic statements share {GRAM} running words with the real text;")
        console.print(f"longest shared run: {longest} words (names, schemes, titles and ids cut out)")
        for length, shared, row in found[:examples]:
            console.print(f"  {length} {row}: {shared}", markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, nargs="+")
    parser.add_argument("-n", type=int, default=5000, help="how many synthetic statements")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=5, help="how many shared runs to print")
    arguments = parser.parse_args()
    synthetic: Rows = [dict(row) for row in synthesize(arguments.n, arguments.seed)]
    console = Console(width=150)
    for path in arguments.real:
        real = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        compare(console, path.name, real, synthetic, arguments.examples)


if __name__ == "__main__":
    main()
