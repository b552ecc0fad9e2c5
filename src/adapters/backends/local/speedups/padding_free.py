"""Scoring passes on a CPU without padding, and with common prefixes read once, with the same output.

TRL pads the rows of a pass to the longest of them, and on a CPU a token of padding costs as much as any other. Here the
rows are concatenated, positions restart in every row, and attention stays within its row. What rows have in common at
their beginning is computed once (`shared_prefixes.py`). LoRA layers, and attention under autocast, are those of
`layers.py`. PyTorch's own attention, of longer rows and with dropout, runs in 32 bits, because its CPU kernels for 16
are slower. Savings: docs/benchmarks.md.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from peft.tuners.lora import LoraLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapters.backends.local.model import on_gpu
from adapters.backends.local.sharding import shards_weights
from adapters.backends.local.speedups import layers
from adapters.backends.local.speedups.caches import plain_attention
from adapters.backends.local.speedups.casts import Casts
from adapters.backends.local.speedups.shared_prefixes import LEAST, Shared, shared_prefixes

NAME = "padding_free"
"""Name of the attention function. transformers builds no mask for a name that it does not know."""
OTHER_ATTENTION = ("position_bias", "softcap", "s_aux")
"""Arguments by which attention is more than a softmax of scores."""


@contextmanager
def without_padding(model: PeftModel, *, checkpointing: bool, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Compute passes of `model` without padding while the context is open; `dtype`: of their arithmetic.

    Does nothing on a GPU, for models whose rows cannot be concatenated, and with gradient checkpointing, which
    recomputes activations where the rows are unknown.
    """
    base = model.get_base_model()
    if (
        on_gpu()
        or checkpointing
        or shards_weights()
        or base.config._attn_implementation != "sdpa"
        or not plain_attention(base)
    ):
        yield
        return
    rows = PackedRows(model)
    ALL_ATTENTION_FUNCTIONS[NAME] = rows.attention
    try:
        if rows.verified(dtype):
            rows.backbone.forward = rows.forward
        else:
            logging.getLogger(__name__).warning("rows of this model cannot be concatenated: passes have padding")
        yield
    finally:
        vars(rows.backbone).pop("forward", None)
        del ALL_ATTENTION_FUNCTIONS[NAME]


def in_use(model: PeftModel) -> bool:
    """Whether passes of `model` are computed without padding now."""
    # Then rows of mixed lengths should share a pass: sorted, the long ones make one pass larger than the CPU caches.
    return "forward" in vars(model.get_base_model().base_model)


class PackedRows:
    """The rows of a pass, concatenated."""

    def __init__(self, model: PeftModel) -> None:
        self.model, self.backbone = model, model.get_base_model().base_model
        self.plain = self.backbone.forward
        self.shared: Shared
        self.dropouts = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
        self.adapted = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self.casts = Casts()
        self.in_32_bits = layers.in_32_bits(self.backbone)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's forward pass, changed only for scoring padded text."""
        # Which logits are kept is no matter of the backbone, whose callers cut its output themselves.
        given = {name: value for name, value in kwargs.items() if value is not None and name != "logits_to_keep"}
        if args or given.keys() != {"input_ids", "attention_mask", "use_cache"} or given["use_cache"]:
            return self.plain(*args, **kwargs)
        real = given["attention_mask"].bool()
        config, ids = self.backbone.config, given["input_ids"]
        rows = [row[used] for row, used in zip(ids, real, strict=True)]
        self.shared = shared_prefixes(rows, least=sys.maxsize if self._drops() else LEAST)
        computed = self.shared.computed.to(ids.device)
        usual, config._attn_implementation = config._attn_implementation, NAME
        try:
            with self._fast_layers(ids.device.type):
                positions = real.cumsum(1) - 1
                packed = {"input_ids": ids[real][computed][None], "position_ids": positions[real][computed][None]}
                output = self.plain(**packed, use_cache=False)
        finally:
            config._attn_implementation = usual
        hidden = output.last_hidden_state[0]
        padded = hidden.new_zeros(*real.shape, hidden.shape[-1])
        states = hidden.index_select(0, self.shared.source.to(ids.device))
        output.last_hidden_state = padded.masked_scatter(real[..., None], states)
        return output

    def _drops(self) -> bool:
        """Whether a pass draws at random for every row, which a common prefix could not."""
        config = vars(self.backbone.config)
        written = any(value for name, value in config.items() if "drop" in name and isinstance(value, float))
        noise = getattr(self.backbone.get_input_embeddings(), "neftune_noise_alpha", None)
        modules = any(module.p and module.training for module in self.dropouts)
        return modules or bool(self.backbone.training and (written or noise))

    @contextmanager
    def _fast_layers(self, device: str) -> Iterator[None]:
        """The LoRA layers of `layers.py`, and under autocast no casts that are for nothing."""
        if not torch.is_autocast_enabled(device):
            with layers.low_rank(self.adapted if self.in_32_bits else (), self.casts, torch.float32):
                yield
            return
        dtype = torch.get_autocast_dtype(device)
        # A linear layer casts its input itself, whatever PEFT has cast it to before.
        with disable_input_dtype_casting(self.model), layers.low_rank(self.adapted, self.casts, dtype):
            yield

    def attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **rest: Any
    ) -> tuple[torch.Tensor, None]:
        """As `sdpa_attention_forward`, on (1, heads, computed tokens of all rows, head width)."""
        outputs = []
        cut = [tensor.split_with_sizes(self.shared.pieces, dim=2) for tensor in (query, key, value)]
        for pieces, new in self.shared.rows:
            row = [torch.cat([parts[n] for n in pieces], dim=2) if pieces[1:] else parts[pieces[0]] for parts in cut]
            outputs.append(self._of_row(module, row, new, **rest))
        return torch.cat(outputs, dim=1).to(query.dtype), None

    def _of_row(self, module: Any, row: Sequence[torch.Tensor], new: int, **rest: Any) -> Any:
        """Attention of a row's last `new` tokens: (1, new, heads, head width)."""
        query, key, value = row
        plain = not rest.get("dropout") and all(rest.get(name) is None for name in OTHER_ATTENTION)
        if torch.is_autocast_enabled(query.device.type) and plain and key.shape[2] <= layers.LONGEST:
            scale = query.shape[-1] ** -0.5 if rest.get("scaling") is None else rest["scaling"]
            dtype = torch.get_autocast_dtype(query.device.type)
            output = layers.Attention.apply(query[0, :, -new:], key[0], value[0], scale, dtype)  # type: ignore[no-untyped-call]
            return output.transpose(0, 1)[None]
        with torch.autocast(query.device.type, enabled=False):
            # The queries of a shared prefix run again: attention is cheap beside the layers, and stays square.
            states = (tensor.float() for tensor in (query, key, value))
            output = sdpa_attention_forward(module, *states, None, **{**rest, "is_causal": True})[0]
        return output[:, -new:]

    def verified(self, dtype: torch.dtype) -> bool:
        """Whether two rows with a common prefix give the same output as with padding, up to the rounding of a pass."""
        # A model may make masks or positions of its own.
        mask = torch.ones(2, 16, dtype=torch.long)
        mask[1, 12:] = 0
        ids = torch.arange(32).reshape(2, 16) % self.backbone.get_input_embeddings().num_embeddings
        ids[1, :8] = ids[0, :8]
        training = self.backbone.training
        self.backbone.eval()

        @torch.no_grad()
        def states(forward: Callable[..., Any], *, autocast: bool) -> torch.Tensor:
            with torch.autocast("cpu", dtype, enabled=autocast):
                output = forward(input_ids=ids, attention_mask=mask, use_cache=False)
            hidden: torch.Tensor = output.last_hidden_state[mask.bool()].float()
            return hidden

        half = dtype != torch.float32
        exact = states(self.plain, autocast=False)
        usual, ours = (states(forward, autocast=half) for forward in (self.plain, self.forward))
        self.backbone.train(training)
        rounding = 2 * (usual - exact).norm() + (1e-3 if self.in_32_bits else 2e-2) * exact.norm()
        return bool((ours - exact).norm() < rounding)
