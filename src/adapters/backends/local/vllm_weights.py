"""The weights that vLLM samples from: the base with the adapter, computed beside the base, which stays as it is.

TRL's own transfer adds the adapter to the base in place, sends the sum, and subtracts it again. In bfloat16 the
difference is not the base that was there before, so the adapter comes to belong to a base that no longer exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer


def merged_weights(generation: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and values of the weights that vLLM loads: the base with the active adapter, the base left as it is.

    Takes the place of `VLLMGeneration._iter_named_params`. Weights that are partitioned (ZeRO-3, FSDP2) are gathered
    one at a time, so all processes must iterate.
    """
    model = generation.model
    adapted = {id(layer.get_base_layer().weight): layer for layer in model.modules() if isinstance(layer, LoraLayer)}
    for name, weight in model.named_parameters():
        name = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if model.prefix in name or "original_module" in name:  # what vLLM has no counterpart of
            continue
        layer = adapted.get(id(weight))
        own = [p for part, p in layer.named_parameters() if model.prefix in part] if layer is not None else []
        with generation._dist.gather_params([weight, *own]):
            value = _merged(weight, layer).to(generation.accelerator.device)
            yield generation._fix_param_name_to_vllm(name, extra_prefixes=["modules_to_save.default."]), value


@torch.no_grad()
def _merged(weight: torch.Tensor, layer: Any) -> torch.Tensor:
    """W + scaling * B * A in W's type, rounded once, in memory of its own; W itself where no adapter is active."""
    value = _whole(weight.detach())
    known = () if layer is None or layer.disable_adapters else {*layer.lora_A, *layer.lora_embedding_A}
    active = [adapter for adapter in getattr(layer, "active_adapters", ()) if adapter in known]
    if not active:
        return value
    total = value.to(torch.float32, copy=True)
    for adapter in active:
        total += _whole(layer.get_delta_weight(adapter))
    return total.to(value.dtype)


def _whole(tensor: Any) -> torch.Tensor:
    full: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # FSDP2
    return full
