"""Attention and LoRA layers of a training pass on a CPU, in fewer and faster operations.

PyTorch's fused attention is slow on a CPU in 16 bits, and up to several hundred tokens slower than plain products,
which take its place under autocast. PEFT's LoRA layer makes copies of its output to scale and to add, and under
autocast casts its input twice. The scores and softmax of a forward pass stay in 32 bits. Savings: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Final

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.autograd.function import once_differentiable

from adapters.backends.local.speedups.casts import Casts

LONGEST: Final = 512
"""Tokens of a row. The products keep a matrix of tokens by tokens for each head, which the fused kernel does not."""


class Attention(torch.autograd.Function):
    """Causal attention of the last tokens' queries.

    Shapes: query (heads, queries, width), key and value (key heads, tokens, width); queries <= tokens <= LONGEST.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, dtype: torch.dtype
    ) -> torch.Tensor:
        """See the class. Products with the values, and those of the backward pass, are in `dtype`."""
        (heads, queries, _), (groups, tokens, _) = query.shape, key.shape
        with torch.autocast("cpu", enabled=False):
            of_group = query.float().reshape(groups, -1, query.shape[-1])
            scores = torch.bmm(of_group, key.float().transpose(1, 2)).mul_(scale).view(heads, queries, tokens)
            chances = scores.add_(_causal_mask()[tokens - queries : tokens, :tokens]).softmax(-1).to(dtype)
            chances, values = chances.view(groups, -1, tokens), value.to(dtype)
            output = torch.bmm(chances, values).view(heads, queries, -1)
        ctx.save_for_backward(of_group.to(dtype), key.to(dtype), values, chances)
        ctx.scale, ctx.dtypes = scale, (query.dtype, key.dtype, value.dtype)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Gradients of query, key and value."""
        query, key, value, chances = ctx.saved_tensors
        slope = gradient.reshape(len(key), -1, value.shape[-1]).to(value.dtype)
        of_scores = torch.bmm(slope, value.transpose(1, 2))
        of_scores = torch._softmax_backward_data(of_scores, chances, -1, value.dtype).mul_(ctx.scale)
        of_query = torch.bmm(of_scores, key).view(len(gradient), -1, key.shape[-1])
        of_key = torch.bmm(of_scores.transpose(1, 2), query)
        of_value = torch.bmm(chances.transpose(1, 2), slope)
        made = (of_query, of_key, of_value)
        return *(each.to(dtype) for each, dtype in zip(made, ctx.dtypes, strict=True)), None, None


@cache
def _causal_mask() -> torch.Tensor:
    """What is added to the scores: minus infinity for tokens that come later."""
    return torch.full((LONGEST, LONGEST), -torch.inf).triu(1)


class LowRank(torch.autograd.Function):
    """A frozen linear layer with a LoRA adapter (Hu et al. 2021): x W' + bias + scale (x A') B'.

    Shapes: states (tokens, inputs), weight (outputs, inputs), bias (outputs), down = A (rank, inputs), up = B (outputs,
    rank). All products are in the type of `weight`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """See the class."""
        dtype = weight.dtype
        x, a, b = states.to(dtype), down.to(dtype), up.to(dtype)
        low = x @ a.T
        output = x @ weight.T if bias is None else torch.addmm(bias.to(dtype), x, weight.T)
        output.addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale, ctx.dtypes = scale, (states.dtype, down.dtype, up.dtype)
        return output  # no view: some models change it in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Gradients of states, down and up."""
        x, low, weight, a, b = ctx.saved_tensors
        slope = gradient.to(weight.dtype)
        of_low = (slope @ b).mul_(ctx.scale)
        of_states = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_states = (slope @ weight).addmm_(of_low, a).to(ctx.dtypes[0])
        if ctx.needs_input_grad[3]:
            of_down = (of_low.T @ x).to(ctx.dtypes[1])
        if ctx.needs_input_grad[4]:
            of_up = (slope.T @ low).to(ctx.dtypes[2]).mul_(ctx.scale)
        return of_states, None, None, of_down, of_up, None


@contextmanager
def low_rank(layers: Iterable[Any], casts: Casts, dtype: torch.dtype) -> Iterator[None]:
    """Let plain LoRA layers compute as `LowRank` while the context is open."""
    changed = [layer for layer in layers if _plain(layer)]
    for layer in changed:
        layer.forward = partial(_forward, layer, casts, dtype)
    try:
        yield
    finally:
        for layer in changed:
            del layer.forward


def in_32_bits(model: torch.nn.Module) -> bool:
    """Whether `low_rank` may take the place of layers without autocast."""
    return all(parameter.dtype == torch.float32 for parameter in model.parameters())


def _plain(layer: Any) -> bool:
    if type(layer) is not LoraLinear or layer.disable_adapters or layer.merged or "forward" in vars(layer):
        return False
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or names[0] in layer.lora_variant or layer.lora_B[names[0]].bias is not None:
        return False
    dropout, base = layer.lora_dropout[names[0]], layer.base_layer
    drops = layer.training and getattr(dropout, "p", 0) > 0
    parts = (base, layer.lora_A[names[0]], layer.lora_B[names[0]])
    hooked = any("forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks for part in parts)
    trained = any(parameter.requires_grad for parameter in base.parameters())
    return type(base) is torch.nn.Linear and not (drops or hooked or trained)


def _forward(layer: Any, casts: Casts, dtype: torch.dtype, states: torch.Tensor) -> Any:
    name = next(name for name in layer.active_adapters if name in layer.lora_A)
    down, up, base = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.base_layer
    weight, scale = casts.of(base.weight, dtype), layer.scaling[name]
    output: Any = LowRank.apply(states.flatten(0, -2), weight, base.bias, down, up, scale)  # type: ignore[no-untyped-call]
    return output.unflatten(0, states.shape[:-1])
