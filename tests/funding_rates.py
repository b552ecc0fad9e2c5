"""Rates of funding statements: how many funders and ids, which kinds of ids, words between a funder and its id.

Usage: python tests/funding_rates.py [FILE.jsonl ...] [-n 3400] [--seed 1]

A file holds rows {"funders": [...], "funding_statement": "..."}; without statements only the rates of labels are
printed. Shares are of statements with a funder, of funders, or of ids, as the row says.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters.data_aug.funding_statements import synthesize

Rows = Sequence[Mapping[str, Any]]
AWARD_FIELDS = ("funding_scheme", "award_ids", "award_title")
FUNDERS = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 8), (9, 12), (13, 999))
IDS_OF_FUNDER = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 999))
IDS_OF_STATEMENT = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 5), (6, 9), (10, 999))
CONTENT_WORD = re.compile(r"[^\W\d_]{4,}")
IDS_WRITTEN = re.compile(
    r"(?i)\b(?:grants?|award|awards|projects?|contracts?|numbers?|reference|agreements?|codes?|fellowship|under|with)\b"
)


def values(funder: Mapping[str, Any], field: str) -> list[str]:
    return [value for award in funder["awards"] for value in award[field]]


def share(items: Iterable[Any], test: Callable[[Any], Any]) -> float:
    tested = [bool(test(item)) for item in items]
    return sum(tested) / len(tested) if tested else float("nan")


def spread(numbers: Sequence[int], bins: Sequence[tuple[int, int]]) -> list[float]:
    return [share(numbers, lambda n, low=low, high=high: low <= n <= high) for low, high in bins]


def is_shared(row: Mapping[str, Any]) -> bool:
    """Whether an id stands under two funders or more."""
    owners = Counter(i for funder in row["funders"] for i in set(values(funder, "award_ids")))
    return any(count > 1 for count in owners.values())


def label_rates(rows: Rows) -> dict[str, list[float]]:
    """Rates that need no text."""
    some = [row for row in rows if row["funders"]]
    funders = [funder for row in some for funder in row["funders"]]
    ids = [i for funder in funders for i in values(funder, "award_ids")]
    sizes = [len(row["funders"]) for row in some]
    per_funder = [len(values(funder, "award_ids")) for funder in funders]
    per_statement = [sum(len(values(f, "award_ids")) for f in row["funders"]) for row in some]
    return {
        "statements without funder": [share(rows, lambda row: not row["funders"])],
        "funders per statement 1 / 2 / 3 / 4 / 5 / 6-8 / 9-12 / 13+": spread(sizes, FUNDERS),
        "mean; share of all funders in statements with more than 5": [
            sum(sizes) / len(sizes),
            sum(n for n in sizes if n > 5) / sum(sizes),
        ],
        "ids per funder 0 / 1 / 2 / 3 / 4-5 / 6+": spread(per_funder, IDS_OF_FUNDER),
        "ids per statement 0 / 1 / 2 / 3 / 4-5 / 6-9 / 10+": spread(per_statement, IDS_OF_STATEMENT),
        "id: digits / letters and digits / hyphen / slash / space": [
            share(ids, pattern.search)
            for pattern in map(re.compile, (r"^\d+$", r"^(?=.*\d)(?=.*[^\W\d_])[^\W_]+$", "-", "/", r"\s"))
        ],
        "id with lower case / 3+ words / letters only": [
            share(ids, lambda i: any(c.islower() for c in i)),
            share(ids, lambda i: len(i.split()) > 2),
            share(ids, lambda i: not any(c.isdigit() for c in i)),
        ],
        "unnamed funder among funders": [share(funders, lambda f: f["funder_name"] is None)],
        "an id under two or more funders": [share(some, is_shared)],
        "a scheme / a title in the labels": [
            share(some, lambda row, field=field: any(values(f, field) for f in row["funders"]))
            for field in ("funding_scheme", "award_title")
        ],
        "statements with 7 or more names / ids": [share(sizes, lambda n: n > 6), share(per_statement, lambda n: n > 6)],
    }  # fmt: skip


def places(text: str, row: Mapping[str, Any]) -> list[tuple[int, int, str]]:
    """Start, end and name of every place where a funder's name stands by itself."""
    names = sorted({f["funder_name"] for f in row["funders"] if f["funder_name"]}, key=len, reverse=True)
    out: list[tuple[int, int, str]] = []
    for name in names:
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            if not any(start < match.end() and match.start() < end for start, end, _ in out):
                out.append((*match.span(), name))
    return sorted(out)


def links(row: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Of each id of a named funder: which name stands nearest, and the content words between funder and id."""
    text = row["funding_statement"]
    names = places(text, row)
    out = []
    for funder in row["funders"]:
        own = [(start, end) for start, end, name in names if name == funder["funder_name"]]
        for award_id in values(funder, "award_ids") if own else ():
            match = re.search(rf"(?<!\w){re.escape(award_id)}(?!\w)", text)
            at = match.start() if match else text.find(award_id)
            before = [name for _, end, name in names if end <= at]
            after = [name for start, _, name in names if start >= at]
            kind = "preceding" if before and before[-1] == funder["funder_name"] else "neither"
            if kind == "neither" and after and after[0] == funder["funder_name"]:
                kind = "following"
            start, end = min(own, key=lambda span: min(abs(span[1] - at), abs(span[0] - at)))
            between = text[end:at] if end <= at else text[at + len(award_id) : start]
            for known in (i for f in row["funders"] for i in values(f, "award_ids")):
                between = between.replace(known, " ")
            out.append((kind, len(CONTENT_WORD.findall(IDS_WRITTEN.sub(" ", between)))))
    return out


def text_rates(rows: Rows) -> dict[str, list[float]]:
    """Rates of statements with a funder that need the text."""
    texts = [row["funding_statement"] for row in rows if row["funders"]]
    linked = [link for row in rows for link in links(row)]
    return {
        "nearest preceding name is the funder / following / neither": [
            share(linked, lambda link, kind=kind: link[0] == kind) for kind in ("preceding", "following", "neither")
        ],
        "three or more content words between funder and id": [share(linked, lambda link: link[1] > 2)],
        'thanks; "through / via / within"; "under"; "No."': [
            share(texts, re.compile(pattern).search)
            for pattern in (
                r"(?i)thank",
                r"(?i)\b(?:through|via|within)\b",
                r"(?i)\bunder\b",
                r"\bNos?\.",
            )
        ],
    }  # fmt: skip


def rates(rows: Rows) -> dict[str, list[float]]:
    """All rates of a set by the name of their row."""
    return label_rates(rows) | (text_rates(rows) if all("funding_statement" in row for row in rows) else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("-n", type=int, default=3400, help="how many synthetic statements")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    columns = {"synthetic": rates([dict(row) for row in synthesize(arguments.n, arguments.seed)])}
    for path in arguments.files:
        lines = path.read_text(encoding="utf-8").splitlines()
        columns[path.stem] = rates([json.loads(line) for line in lines if line.strip()])
    table = Table()
    for head in ("", *columns):
        table.add_column(head, justify="right" if head else "left")
    for row in columns["synthetic"]:
        shown = [" ".join(f"{n:.3f}".removeprefix("0") for n in column.get(row, ())) for column in columns.values()]
        table.add_row(row, *shown)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
