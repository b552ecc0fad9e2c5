"""What `adapters annotate` and `adapters mine` print at their end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapters.console import console, new_table

if TYPE_CHECKING:
    from adapters.mining.program import Program


def print_annotation(out: Path, counts: Mapping[str, Any], as_json: bool) -> None:
    """Rows, answers without labels, requests and cost."""
    if as_json:
        print(json.dumps(counts))
        return
    bad = sum(counts["errors"].values())
    lines = [f"{out}: {counts['rows']:,} rows of {counts['texts']:,} texts, {bad:,} without labels"]
    if bad:
        lines[0] += f" ({', '.join(f'{n:,} {kind}' for kind, n in counts['errors'].items())})"
    if counts["not_verbatim"]:
        lines.append(f"{counts['not_verbatim']:,} strings are not in their text, and were left out")
    if counts["empty_share"] is not None:
        lines.append(f"nothing found, or false: {counts['empty_share']:.0%} of the labelled rows")
    tokens = counts["prompt_tokens"] + counts["completion_tokens"]
    cost = f", cost {counts['cost']:.4f}" if counts["cost"] is not None else ""
    guessed = f" ({counts['estimated']:,} answers estimated)" if counts["estimated"] else ""
    known = f"{counts['requests']:,} requests, {counts['cached']:,} answers were there before"
    lines.append(f"{known}, {tokens:,} tokens{guessed}{cost}")
    console(stderr=True).print("\n".join(lines), soft_wrap=True)


def print_steps(program: Program, counts: Mapping[str, Any]) -> None:
    """How often each step of a program was asked, and found something."""
    table = new_table(f"{counts['kept']:,} of {counts['records']:,} texts are kept", ["step"], ["asked", "found"])
    for path, _, ask in program.asks:
        step = counts["steps"][path]
        table.add_row(f"{ask.kind} {path}", f"{step['asked']:,}", f"{step['found']:,}")
    screen = console(stderr=True)
    screen.print(table)
    if counts["clipped"]:
        what = "beyond the fiftieth of their text, or too long to stand in a question"
        screen.print(f"{counts['clipped']:,} times a span was not asked about: {what}", soft_wrap=True)
