"""The order in which rows are trained on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


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


def stratified(domains: Sequence[str], batch: int, steps: int, seed: int) -> list[int]:
    """Row indices in training order: in each batch equally many rows of each domain, in random order.

    A domain whose rows are used up starts over, shuffled anew. `batch` is a multiple of the number of domains.
    """
    rng = random.Random(seed)
    rows: dict[str, list[int]] = {}
    for n, domain in enumerate(domains):
        rows.setdefault(domain, []).append(n)
    streams = [_endless(rows[domain], random.Random(rng.random())) for domain in sorted(rows)]
    order: list[int] = []
    for _ in range(steps):
        drawn = [next(stream) for stream in streams for _ in range(batch // len(streams))]
        rng.shuffle(drawn)
        order += drawn
    return order


def _endless(rows: Sequence[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(rows, len(rows))
