"""Weights that DeepSpeed shares out over the processes: which launches can be had, and whole weights where needed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from adapters.types import UserError


def check_launch() -> str | None:
    """What the launcher shards by: "zero1" to "zero3", or None for whole weights in every process.

    Raises UserError for launches that would not train what they say.
    """
    if _asked("ACCELERATE_USE_FSDP"):
        raise UserError(
            "FSDP is refused: accelerate leaves it out without a word for processes on a CPU, so that what it saves "
            "and resumes could not be proven. recipes/accelerate/zero3.yaml shards the weights too."
        )
    if not _asked("ACCELERATE_USE_DEEPSPEED"):
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install 'extraction-adapters[deepspeed]'.")
    if _asked("ACCELERATE_USE_CPU"):
        raise UserError(
            "accelerate leaves DeepSpeed out without a word when the launch config says use_cpu; remove that line "
            "(and set DS_ACCELERATOR=cpu to rehearse without a GPU)."
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if stage == "3" and not _asked("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"):
        raise UserError("ZeRO-3 needs zero3_save_16bit_model: true, or its checkpoints would hold empty tensors.")
    if stage == "3" and _asked("ACCELERATE_DEEPSPEED_ZERO3_INIT"):
        raise UserError("ZeRO-3 needs zero3_init_flag: false: the adapter is put on whole weights.")
    return f"zero{stage}"


def prove(trainer: Any) -> None:
    """A sharded launch whose trainer does not shard is an error, not a run that quietly takes more memory."""
    if check_launch() and trainer.accelerator.distributed_type != DistributedType.DEEPSPEED:
        raise RuntimeError(f"DeepSpeed was asked for and is not in use: {trainer.accelerator.distributed_type}")


@contextmanager
def not_yet(trainer: Any) -> Iterator[None]:
    """Before the training starts the weights are whole, though ZeRO-3 is configured, which is what TRL's head asks."""
    plugin = trainer.accelerator.state.deepspeed_plugin
    if plugin is None or trainer.model_wrapped is not trainer.model:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(plugin.hf_ds_config)


def whole(model: Any) -> AbstractContextManager[None]:
    """While it lasts, every adapter weight under ZeRO-3 is a whole tensor. All processes must enter it together.

    For reading: what is written inside is lost when the weights are partitioned again.
    """
    parts = [p for name, p in model.named_parameters() if "lora_" in name and hasattr(p, "ds_id")]
    if not parts:
        return nullcontext()
    from deepspeed.zero import GatheredParameters

    gathered: AbstractContextManager[None] = GatheredParameters(parts)
    return gathered


def forget() -> None:
    """End a stage's ZeRO-3: the next model is loaded whole."""
    unset_hf_deepspeed_config()


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
