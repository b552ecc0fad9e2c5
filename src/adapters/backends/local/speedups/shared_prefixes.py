"""Which tokens of a pass need not be computed twice: those of a prefix that rows have in common.

In a causal model the states of a prefix do not depend on what follows. The answers to one prompt share that prompt, the
two sides of a pair share theirs, and all rows share the system message.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

LEAST = 8
"""Shorter prefixes are computed for every row: they save less than the bookkeeping costs."""


class Shared(NamedTuple):
    """The tokens of all rows, one after the other, and those of them that are computed."""

    computed: torch.Tensor
    """The tokens that are computed, in this order: places among the tokens of all rows."""
    source: torch.Tensor
    """For each token of all rows, where among the computed ones its state is."""
    pieces: list[int]
    """Lengths into which the computed tokens are cut, so that every row is made of whole pieces."""
    rows: list[tuple[list[int], int]]
    """Rows with tokens of their own, in the order of computing: their pieces, and how many tokens are their own."""


def shared_prefixes(rows: Sequence[torch.Tensor], *, least: int = LEAST) -> Shared:
    """What is computed of rows of token ids, when a prefix of at least `least` tokens is computed once."""
    tokens = [row.tolist() for row in rows]
    starts = torch.tensor([0, *map(len, tokens)]).cumsum(0).tolist()
    order = sorted(range(len(rows)), key=tokens.__getitem__)  # a row's longest prefix is the one with its neighbour
    computed, new, cuts = [], [], set[int]()
    places: dict[int, torch.Tensor] = {}
    before, where, total = list[int](), torch.empty(0, dtype=torch.long), 0
    for n in order:
        common = common_prefix(before, tokens[n])
        common = common if common >= least else 0
        before, known = tokens[n], where[:common]
        cuts |= {total, *(known[-1:] + 1).tolist()}
        new.append(len(before) - common)
        computed.append(torch.arange(starts[n] + common, starts[n + 1]))
        where = places[n] = torch.cat([known, torch.arange(total, total + new[-1])])
        total += new[-1]
    ends = torch.tensor(sorted(cuts - {0} | {total}))
    lengths = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long)).tolist()
    pieces = [list(dict.fromkeys(torch.bucketize(places[n], ends, right=True).tolist())) for n in order]
    made = [(row, own) for row, own in zip(pieces, new, strict=True) if own]
    source = torch.cat([places[n] for n in range(len(rows))])
    return Shared(torch.cat(computed), source, lengths, made)


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common before they part."""
    parted = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(parted, min(len(one), len(other)))
