"""The order in which rows are trained on."""

from __future__ import annotations

import random
from collections.abc import Sequence


def layout(lengths: Sequence[int], batch: int, steps: int, seed: int, *, by_length: bool) -> list[int]:
    """Row indices in the order they are trained on: `steps` full batches, as many shuffled epochs as that takes.

    The rows of a batch are random; only inside it are they sorted, so that the forward passes it is cut into pad
    little. Drawing whole batches of one length, as samplers do that group the data by length, makes batches of short
    targets, whose mean over few tokens weighs each of them many times over: a model then learns the empty answer.
    """
    rng = random.Random(seed)
    order: list[int] = []
    while len(order) < batch * steps:
        epoch = list(range(len(lengths)))
        rng.shuffle(epoch)
        order += epoch
    batches = [order[n * batch : (n + 1) * batch] for n in range(steps)]
    return [i for rows in batches for i in (sorted(rows, key=lambda i: -lengths[i]) if by_length else rows)]
