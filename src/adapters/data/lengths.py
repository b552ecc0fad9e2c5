"""Token counts of prompts and targets by source, and the rows that exceed the length limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapters.types import Example, Lengths

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99, "max": 1.0}


def by_source(examples: Sequence[Example], lengths: Sequence[Lengths], kept: Sequence[bool]) -> list[dict[str, Any]]:
    """One entry for each source: rows, kept, dropped, and tokens of prompts, targets and (of pairs) rejected sides.

    The token counts include end tokens and the dropped rows.
    """
    out = []
    for source in dict.fromkeys(e.source for e in examples):
        rows = [n for n, e in enumerate(examples) if e.source == source]
        fitting = sum(kept[n] for n in rows)
        columns = {
            "prompt": [lengths[n].prompt for n in rows],
            "target": [lengths[n].completion for n in rows],
            "rejected": [lengths[n].rejected for n in rows],
        }
        out.append(
            {
                "source": source,
                "rows": len(rows),
                "kept": fitting,
                "dropped": len(rows) - fitting,
                **{name: quantiles(values) for name, values in columns.items() if name != "rejected" or any(values)},
            }
        )
    return out


def quantiles(values: Sequence[int]) -> dict[str, int]:
    """Nearest-rank quantiles."""
    ordered = sorted(values)
    return {name: ordered[round(q * (len(ordered) - 1))] for name, q in QUANTILES.items()}
