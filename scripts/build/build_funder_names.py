"""Rebuild the compact list of funder names from a JSONL export of the Crossref Funder Registry (CC0).

    python scripts/build/build_funder_names.py funders.jsonl [-o data_aug/funding_statements/funders.tsv.gz] [-n 6000]

Input rows: {"funder_id", "name", "aliases": [...], ...}. Output rows: name, acronym, another full name, kind; tab
separated, sorted, gzip without a time stamp, so that the same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
from pathlib import Path

KINDS = (
    ("university", r"Universi|College|Institute of Technology|Hochschule|Polytechni|Politecnic|Hospital|School|Facult"),
    ("government", r"Minist|Department|Government|Agency|Council|Commission|Authority|State|Bundes|Administration"),
    ("foundation", r"Foundation|Fund\b|Trust|Stiftung|Fondation|Fundaci|Fondazione|Fonds|Charit|Society|Association"),
    ("institute", r"Institut|Cent(er|re)|Laborator|Academ|Research|Observator|Centro"),
)
OUTPUT = Path(__file__).parents[2] / "data_aug" / "funding_statements" / "funders.tsv.gz"


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "company")


def usable(name: str) -> bool:
    return 5 <= len(name) <= 75 and not re.search(r'["<>{}|\[\]/;:#]|\d{3}|^\W|\s\s|\bformer|\bn/a\b', name)


def record(row: dict[str, object]) -> tuple[str, str, str, str] | None:
    name = str(row["name"]).strip()
    aliases = row["aliases"]
    if not usable(name) or not isinstance(aliases, list):
        return None
    acronyms = [a for a in aliases if re.fullmatch(r"[A-Z][A-Za-z&-]{1,9}", a) and sum(c.isupper() for c in a) >= 2]
    others = [a for a in aliases if " " in a and usable(a) and len(a) > 10 and a != name]
    foreign = [a for a in others if a.isascii() != name.isascii()]
    return name, (acronyms or [""])[0], (foreign or others or [""])[0], kind_of(name)


def choose(rows: list[tuple[str, str, str, str]], count: int) -> list[tuple[str, str, str, str]]:
    """A fixed pseudo-random selection; firms are thinned out, because few of them are named as funders."""

    def order(row: tuple[str, str, str, str]) -> float:
        share = int(hashlib.sha256(row[0].encode()).hexdigest()[:12], 16) / 16**12
        return share * (4 if row[3] == "company" else 1)

    return sorted(sorted(set(rows), key=order)[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("registry", type=Path, help="JSONL file of the registry")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("-n", "--count", type=int, default=6000, help="how many funders to keep")
    arguments = parser.parse_args()
    with arguments.registry.open(encoding="utf-8") as lines:
        rows = [found for line in lines if (found := record(json.loads(line)))]
    kept = choose(rows, arguments.count)
    text = "".join("\t".join(row) + "\n" for row in kept)
    arguments.output.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    print(f"{len(kept)} of {len(rows)} funders, {arguments.output.stat().st_size} bytes, {arguments.output}")


if __name__ == "__main__":
    main()
