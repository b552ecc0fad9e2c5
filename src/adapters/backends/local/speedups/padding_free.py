"""Padding-free scoring passes on a CPU, with the same output.

TRL pads the rows of a pass to the longest of them, and on a CPU a token of padding costs as much as any other. Here the
rows are concatenated, positions restart in every row, and attention stays within its row. Attention runs in 32 bits,
because the CPU kernels for 16 are slower. Savings: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapters.backends.local.model import on_gpu
from adapters.backends.local.sharding import shards_weights
from adapters.backends.local.speedups.decoding import plain_attention

NAME = "padding_free"
"""Name of the attention function. transformers builds no mask for a name that it does not know."""


@contextmanager
def without_padding(model: PeftModel, *, checkpointing: bool) -> Iterator[None]:
    """Compute passes of `model` without padding while the context is open.

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
        if rows.verified():
            rows.backbone.forward = rows.forward
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
        self.lengths: list[int] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's forward pass, changed only for scoring padded text."""
        # Which logits are kept is no matter of the backbone, whose callers cut its output themselves.
        given = {name: value for name, value in kwargs.items() if value is not None and name != "logits_to_keep"}
        if args or given.keys() != {"input_ids", "attention_mask", "use_cache"} or given["use_cache"]:
            return self.plain(*args, **kwargs)
        real = given["attention_mask"].bool()
        self.lengths = [n for n in real.sum(1).tolist() if n]
        config, ids = self.backbone.config, given["input_ids"]
        # Under autocast a linear layer casts its input itself, whatever PEFT has cast it to before.
        casts = disable_input_dtype_casting if torch.is_autocast_enabled(ids.device.type) else nullcontext
        usual, config._attn_implementation = config._attn_implementation, NAME
        try:
            with casts(self.model):
                positions = real.cumsum(1) - 1
                output = self.plain(input_ids=ids[real][None], position_ids=positions[real][None], use_cache=False)
        finally:
            config._attn_implementation = usual
        hidden = output.last_hidden_state
        padded = hidden.new_zeros(*real.shape, hidden.shape[-1])
        output.last_hidden_state = padded.masked_scatter(real[..., None], hidden)
        return output

    def attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **rest: Any
    ) -> tuple[torch.Tensor, None]:
        """As `sdpa_attention_forward`, on (1, heads, tokens of all rows, head width)."""
        with torch.autocast(query.device.type, enabled=False):
            rows = zip(*(t.float().split_with_sizes(self.lengths, dim=2) for t in (query, key, value)), strict=True)
            rest["is_causal"] = True
            outputs = [sdpa_attention_forward(module, *row, None, **rest)[0] for row in rows]
        return torch.cat(outputs, dim=1).to(query.dtype), None

    def verified(self) -> bool:
        """Whether two rows give the same output as with padding."""
        # A model may make masks or positions of its own.
        mask = torch.ones(2, 16, dtype=torch.long)
        mask[1, 8:] = 0
        ids = torch.arange(32).reshape(2, 16) % self.backbone.get_input_embeddings().num_embeddings
        given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
        exact = all(p.dtype == torch.float32 for p in self.backbone.parameters())
        training = self.backbone.training
        self.backbone.eval()
        with torch.no_grad():
            usual, ours = (forward(**given).last_hidden_state[mask.bool()] for forward in (self.plain, self.forward))
        self.backbone.train(training)
        return bool((usual - ours).norm() < (1e-3 if exact else 2e-2) * usual.norm())
