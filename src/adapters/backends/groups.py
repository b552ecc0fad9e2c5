"""GRPO's groups: which are flat, and the rows whose groups replace them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from adapters.data.load import ROUNDING


def is_flat(rewards: Iterable[float | None], below: float) -> bool:
    """Whether a group's rewards differ by less than `below`, or by rounding alone; None and NaN do not count."""
    known = [r for r in rewards if r is not None and not math.isnan(r)]
    return not known or max(known) - min(known) < max(below - ROUNDING, ROUNDING)


def fresh_rows(order: Sequence[int], rows: int, start: int, stop: int, seed: int, rounds: int) -> list[list[int]]:
    """Row numbers for each round of replacements of one generation, drawn at random.

    `order` has the rows in training order, and the generation from `start` to `stop` of it. Rows that it has within
    about a quarter of an epoch of the generation are not drawn. The draw depends on nothing else, so that a run that is
    resumed draws the same.
    """
    reach = max(0, rows - (stop - start)) // 4
    near = set(order[max(0, start - reach) : stop + reach])
    rest = [n for n in range(rows) if n not in near]
    drawn = random.Random(f"{seed} {start}").sample(rest, min(len(rest), rounds * (stop - start)))
    return [drawn[n::rounds] for n in range(rounds)]
