"""Keys and values of what rows have read, so that the next turn of a conversation does not read it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from transformers import DynamicCache

from adapters.backends.local.speedups.caches import Read

TURNS_ROOM: Final = 65_536
"""Tokens that are kept between two turns, at most."""


class Turns:
    """What rows have read in their last turn, found again by prompts that begin with it.

    For models whose layers all have plain caches. At most `room` tokens are kept; the rest is read again.
    """

    def __init__(self, room: int = TURNS_ROOM) -> None:
        self._left, self.room = room, room
        self._kept: dict[tuple[int, ...], Read] = {}

    def keep(self, tokens: Sequence[int], cache: DynamicCache, place: int, mask: torch.Tensor) -> None:
        """Keep what the row at a place of a batch has read: `tokens`, those of its cache that `mask` has."""
        if (name := tuple(tokens)) not in self._kept and len(tokens) <= self._left:
            self._left -= len(tokens)
            columns = mask.bool()
            self._kept[name] = [
                (layer.keys[place][:, columns], layer.values[place][:, columns]) for layer in cache.layers
            ]

    def take(self, prompts: Sequence[Sequence[int]]) -> dict[int, Read]:
        """Of the prompts that go on, by place, what is read; all else is forgotten."""
        lengths = sorted({len(tokens) for tokens in self._kept}, reverse=True)
        found = {}
        for place, prompt in enumerate(prompts):
            begins = (tuple(prompt[:length]) for length in lengths if length < len(prompt))
            if (tokens := next((t for t in begins if t in self._kept), None)) is not None:
                found[place] = self._kept[tokens]
        self.forget()
        return found

    def forget(self) -> None:
        """Free all."""
        self._kept.clear()
        self._left = self.room
