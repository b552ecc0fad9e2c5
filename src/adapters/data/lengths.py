"""Token counts of prompts and targets by source, and the rows that exceed the length limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from adapters.types import Example, Lengths

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}


def by_source(examples: Sequence[Example], lengths: Sequence[Lengths], kept: Sequence[bool]) -> list[dict[str, Any]]:
    """Rows, kept, dropped, and tokens (with end tokens, of dropped rows too) by source."""
    out = []
    for source in dict.fromkeys(e.source for e in examples):
        rows = [n for n, e in enumerate(examples) if e.source == source]
        fitting = sum(kept[n] for n in rows)
        prompts, targets, rejected = zip(*(lengths[n] for n in rows), strict=True)
        entry = {"source": source, "rows": len(rows), "kept": fitting, "dropped": len(rows) - fitting}
        entry |= {"prompt": quantiles(prompts), "target": quantiles(targets)}
        out.append(entry | ({"rejected": quantiles(rejected)} if any(rejected) else {}))
    return out


def answer_limit(answers: Iterable[int]) -> int:
    """Most tokens of a model's answer: 1.5 times the longest gold one, 32 at least."""
    return max(32, 16 * math.ceil(1.5 * max(answers, default=0) / 16))


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles."""
    ordered = sorted(values)
    return {name: ordered[round(q * (len(ordered) - 1))] for name, q in QUANTILES.items()}
