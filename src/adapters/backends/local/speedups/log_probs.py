"""Log-probabilities of a frozen vocabulary head on a CPU, with the same output as TRL's function.

Without Triton, TRL's function makes a dozen passes in 32 bits over the logits of all tokens and 32,768 words at a time,
and multiplies in 32 bits for the gradient. Here a few rows of logits at a time stay in the processor's cache, are
changed in place, and both products are in the type of the pass. The gradient of the last states is then rounded to
that type once, as that of every other linear layer. Savings: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
import trl.trainer.utils as trl_utils
from torch.nn.functional import linear

from adapters.backends.local.model import on_gpu
from adapters.backends.local.sharding import shards_weights
from adapters.backends.local.speedups.casts import Casts

ROWS: Final = 16
"""Rows of logits that are worked on together: 3 MB for a vocabulary of 49,152."""
PRODUCT: Final = 512
"""Rows of logits that are computed together."""
OUTPUTS: Final = {"log_probs", "entropy", "mean_logits", "is_top1"}


@contextmanager
def fast_log_probs() -> Iterator[None]:
    """Use the function below, where it serves, for TRL's heads while the context is open."""
    if on_gpu() or shards_weights():  # a sharded head is gathered by TRL's own passes alone
        yield
        return
    usual = trl_utils._ChunkedLogProbFunction
    trl_utils._ChunkedLogProbFunction = _Either(usual)
    try:
        yield
    finally:
        trl_utils._ChunkedLogProbFunction = usual


class _Either:
    """TRL's function, or the one below where the head is a plain frozen one on a CPU."""

    def __init__(self, usual: Any) -> None:
        self.usual, self.casts = usual, Casts()

    def apply(
        self, hidden: torch.Tensor, weight: torch.nn.Parameter, bias: Any, targets: torch.Tensor, *rest: Any
    ) -> Any:
        """As TRL's: log-probabilities of the targets; as far as asked for, entropy, mean logit, whether they are first.

        Shapes: hidden (tokens, width), weight (vocabulary, width), targets (tokens); each output (tokens).
        """
        temperature, _, softcap, scale, outputs = rest
        plain = hidden.device.type == "cpu" and bias is None and softcap is None and not weight.requires_grad
        if not plain or not set(outputs) <= OUTPUTS:
            return self.usual.apply(hidden, weight, bias, targets, *rest)
        on = torch.is_autocast_enabled("cpu")
        kind = torch.get_autocast_dtype("cpu") if on else hidden.dtype
        found, entropy, mean, first = LogProbs.apply(  # type: ignore[no-untyped-call]
            hidden, self.casts.of(weight, kind), targets, scale / temperature
        )
        asked = {"entropy": entropy, "log_sum_sq_probs": None, "mean_logits": mean, "is_top1": first}
        return found, *(value if name in outputs else None for name, value in asked.items())


class LogProbs(torch.autograd.Function):
    """Of logits hidden @ weight.T * scale: the target's log-probability, entropy, mean, whether the target is first."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, scale: float) -> Any:
        """See the class. Sums are in 32 bits."""
        ctx.set_materialize_grads(False)
        found, entropy, mean, norm = (torch.empty(len(hidden)) for _ in range(4))
        first = torch.empty(len(hidden), dtype=torch.bool)
        for start, block in _blocks(hidden, weight):
            for rows, logits in _rows(start, block, scale):
                mean[rows] = logits.mean(-1)
                highest, likeliest = logits.max(-1)
                first[rows] = likeliest == targets[rows]
                target = logits.gather(-1, targets[rows, None])[:, 0]
                chances = logits.sub_(highest[:, None]).exp()
                total = chances.sum(-1)
                norm[rows] = highest + total.log()
                found[rows] = target - norm[rows]
                entropy[rows] = total.log() - chances.mul_(logits).sum(-1) / total
        ctx.save_for_backward(hidden, weight, targets, norm, entropy)
        ctx.scale = scale
        ctx.mark_non_differentiable(mean, first)
        return found, entropy, mean, first

    @staticmethod
    def backward(ctx: Any, of_found: torch.Tensor | None, of_entropy: torch.Tensor | None, *_: None) -> Any:
        """The gradient of `hidden`.

        By logit j: [j is the target] - p(j) of the log-probability, -p(j) (log p(j) + entropy) of the entropy.
        """
        hidden, weight, targets, norm, entropy = ctx.saved_tensors
        gradient = torch.zeros_like(hidden)
        for start, block in _blocks(hidden, weight):
            for rows, logits in _rows(start, block, ctx.scale):
                chances = logits.sub_(norm[rows, None]).exp()
                if of_entropy is None:
                    chances.mul_(-of_found[rows, None])  # type: ignore[index]
                else:
                    slope = logits.add_(entropy[rows, None]).mul_(of_entropy[rows, None])
                    chances.mul_(-slope if of_found is None else -slope.add_(of_found[rows, None]))
                if of_found is not None:
                    chances.scatter_add_(-1, targets[rows, None], of_found[rows, None])
                block[rows.start - start : rows.stop - start] = chances.mul_(ctx.scale)
            gradient[start : start + len(block)] = block @ weight
        return gradient, None, None, None


def _blocks(hidden: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """The number of a block's first row, and its logits."""
    for start in range(0, len(hidden), PRODUCT):
        yield start, linear(hidden[start : start + PRODUCT].to(weight.dtype), weight)


def _rows(start: int, block: torch.Tensor, scale: float) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows of a block at a time, and their scaled logits in 32 bits, which may be changed in place."""
    for first in range(0, len(block), ROWS):
        logits = block[first : first + ROWS].float().mul_(scale)
        yield slice(start + first, start + first + len(logits)), logits
