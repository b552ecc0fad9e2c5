"""Which token comes next: the likeliest or a drawn one, with its log-probability."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch

Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Takes logits in 32 bits (rows, vocabulary) and the numbers of the rows, which have not ended; a token for each."""
Restrict = Callable[[torch.Tensor, Sequence[int], Choose], torch.Tensor]
"""Takes what `Choose` takes, and a way to choose, which it uses among the tokens that are allowed."""


def best(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The likeliest token of each row; see `Choose`."""
    return logits.argmax(dim=-1)


class Scored:
    """Keeps the model's log-probability of each chosen token, in nats: one pass more over the logits of a step."""

    def __init__(self, rows: int, choose: Choose = best) -> None:
        self.choose = choose
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """See `Choose`."""
        chosen = self.choose(logits, rows)
        scores = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        for row, score in zip(rows, scores.tolist(), strict=True):
            self.logprobs[row].append(score)
        return chosen


class Draws:
    """Draws tokens at random: each row has random numbers of its own, whatever rows stand beside it.

    `seeds` are of the rows; None draws greedily. `logprobs` are the log-probabilities of each row's tokens,
    in nats, at temperature 1. `held` restricts the choice; the log-probabilities are the model's own with it too.
    """

    def __init__(self, seeds: Sequence[str | None], temperature: float, held: Restrict | None = None) -> None:
        self.streams = [None if seed is None else random.Random(seed) for seed in seeds]
        self.temperature, self.held = temperature, held
        self.logprobs: list[list[float]] = [[] for _ in seeds]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """See `Choose`."""
        chosen = self.held(logits, rows, self._drawn) if self.held else self._drawn(logits, rows)
        scores = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        for row, score in zip(rows, scores.tolist(), strict=True):
            self.logprobs[row].append(score)
        return chosen

    def _drawn(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        # Inversion: one number a token. In 32 bits the sum over a large vocabulary would lose the rare tokens.
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        below = (logits / self.temperature).softmax(-1).to(wide).cumsum(-1)
        streams = [self.streams[row] for row in rows]
        numbers = torch.tensor([s.random() if s else 0.0 for s in streams], dtype=wide, device=logits.device)
        drawn = torch.searchsorted(below, numbers[:, None] * below[:, -1:], right=True)[:, 0]
        greedy = torch.tensor([s is None for s in streams], device=logits.device)
        return torch.where(greedy, logits.argmax(-1), drawn.clamp(max=logits.shape[-1] - 1))
