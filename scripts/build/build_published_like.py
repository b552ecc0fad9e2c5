"""Test statements for the labels of published records: FOLDER/published_like.jsonl.

    python scripts/build/build_published_like.py FOLDER

FOLDER/structures.jsonl holds the labels (funders and awards of published papers, CC0, without texts). The sentences in
tests/vectors/published_like.jsonl were written for 197 of them by a large language model, with a slot for each value;
60 more have no funder. Nothing here was trained on. The slots keep the published values out of this repository.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

SENTENCES = Path(__file__).parents[2] / "tests/vectors/published_like.jsonl"


def value_at(funders: Any, path: str) -> str:
    """The value of a dotted path."""
    for part in path.split("."):
        funders = funders[int(part) if part.isdigit() else part]
    return str(funders)


def main() -> None:
    """Fill the slots and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    records = {r["id"]: r["funders"] for r in map(json.loads, (folder / "structures.jsonl").open(encoding="utf-8"))}
    rows = []
    for line in SENTENCES.open(encoding="utf-8"):
        row = json.loads(line)
        funders = records[row["record"]] if "record" in row else []
        text = re.sub("⟦(.*?)⟧", lambda m, labels=funders: value_at(labels, m.group(1)), row["funding_statement"])
        rows.append({"id": row["id"], "funding_statement": text, "funders": funders})
    out = folder / "published_like.jsonl"
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{out}: {len(rows)} rows")


if __name__ == "__main__":
    main()
