"""Forward passes that score text, without their padding. What comes out of the model stays what it is.

TRL pads the rows of a pass to the longest of them, and on a CPU a token of padding costs as much as any other. Here the
rows are laid end to end, positions start anew in every row, and attention looks into its own row only. Attention takes
32 bits: the CPU kernels for 16 are slower. How much that is: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapters.backends.local.model import on_gpu
from adapters.backends.local.speedups.decoding import plain_attention

NAME = "unpadded"
"""Of the attention. transformers builds no mask for a name that it does not know one for."""


@contextmanager
def without_padding(model: PeftModel, *, checkpointing: bool) -> Iterator[None]:
    """Train `model` inside of this. Does nothing on a GPU, and for models whose rows cannot be laid end to end.

    `checkpointing` says that activations are computed again during backward, where the rows would not be known.
    """
    base = model.get_base_model()
    if (
        on_gpu()
        or checkpointing
        or is_deepspeed_zero3_enabled()
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
    """Whether passes of `model` are computed without padding now.

    Then rows of any lengths may share one, and had better: sorted, the long ones make one pass larger than the caches.
    """
    return "forward" in vars(model.get_base_model().base_model)


class PackedRows:
    """The rows of a pass, end to end."""

    def __init__(self, model: PeftModel) -> None:
        self.model, self.backbone = model, model.get_base_model().base_model
        self.plain = self.backbone.forward
        self.lengths: list[int] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's forward pass, which is used as it is for anything but the scoring of padded text."""
        given = {name: value for name, value in kwargs.items() if value is not None}
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
                out = self.plain(input_ids=ids[real][None], position_ids=positions[real][None], use_cache=False)
        finally:
            config._attn_implementation = usual
        hidden = out.last_hidden_state
        padded = hidden.new_zeros(*real.shape, hidden.shape[-1])
        out.last_hidden_state = padded.masked_scatter(real[..., None], hidden)
        return out

    def attention(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **rest: Any
    ) -> tuple[torch.Tensor, None]:
        """See `sdpa_attention_forward`; tensors are (1, heads, tokens of all rows, width of a head)."""
        with torch.autocast(query.device.type, enabled=False):
            rows = zip(*(t.float().split_with_sizes(self.lengths, dim=2) for t in (query, key, value)), strict=True)
            rest["is_causal"] = True
            found = [sdpa_attention_forward(module, *row, None, **rest)[0] for row in rows]
        return torch.cat(found, dim=1).to(query.dtype), None

    def verified(self) -> bool:
        """Whether two rows come out as they do with padding: a model may make masks or positions of its own."""
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
