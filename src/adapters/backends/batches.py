"""The order in which rows are trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence


def layout(lengths: Sequence[int], batch: int, steps: int, seed: int, *, by_length: bool) -> list[int]:
    """Row indices in training order: `steps` full batches of shuffled epochs.

    `by_length` sorts the rows inside each batch, so that its micro-batches need little padding.
    """
    # Length-grouping samplers also draw batches of short targets only. Their mean over few tokens gives each token a
    # large weight, and a model learns the empty answer.
    rng = random.Random(seed)
    order: list[int] = []
    while len(order) < batch * steps:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        order += epoch
    batches = [order[n * batch : (n + 1) * batch] for n in range(steps)]
    return [i for rows in batches for i in (sorted(rows, key=lambda i: -lengths[i]) if by_length else rows)]
