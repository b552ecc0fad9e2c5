"""Weights that are shared out over the processes: whole while they are read, and which launches can be had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.distributed.tensor import DTensor


def strategy() -> str | None:
    """How the launcher shards: "zero2", "zero3", "fsdp", or None for whole weights in every process."""
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        return "fsdp"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        return "zero" + os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    return None


def whole(model: Any) -> AbstractContextManager[None]:
    """While it lasts, every adapter weight under ZeRO-3 is a whole tensor. All processes must enter it together.

    Reading only: what is written inside is lost when the weights are partitioned again.
    """
    parts = [p for name, p in model.named_parameters() if "lora_" in name and hasattr(p, "ds_id")]
    if not parts:
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    gathered: AbstractContextManager[None] = GatheredParameters(parts)
    return gathered
