"""Weights that DeepSpeed shares out over the processes: which launches can be had, and whole weights where needed."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from accelerate.utils import DistributedType
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from adapters.errors import UserError

SAVES = "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"


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
        raise UserError("DeepSpeed is not installed: pip install -e '.[deepspeed]' in the repository.")
    if _asked("ACCELERATE_USE_CPU"):
        raise UserError(
            "accelerate leaves DeepSpeed out without a word when the launch config says use_cpu; remove that line "
            "(and set DS_ACCELERATOR=cpu to rehearse without a GPU)."
        )
    stage, saves = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"), _asked(SAVES)
    if own := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        try:
            zero = json.loads(Path(own).read_text(encoding="utf-8"))["zero_optimization"]
            stage, saves = str(zero["stage"]), zero.get("stage3_gather_16bit_weights_on_model_save") is True
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{own} cannot be read as a DeepSpeed config with a zero_optimization: {error!r}") from None
    if stage == "3" and not saves:
        raise UserError(
            "ZeRO-3 needs zero3_save_16bit_model: true in the launch config (in a DeepSpeed file: "
            "stage3_gather_16bit_weights_on_model_save), or its checkpoints would hold empty tensors."
        )
    if stage == "3" and os.environ.get("ACCELERATE_DEEPSPEED_ZERO3_INIT", "").lower() != "false":
        raise UserError(
            "ZeRO-3 needs zero3_init_flag: false in the launch config: the adapter is put on whole weights, which "
            "the trainer partitions afterwards."
        )
    return f"zero{stage}"


def verify_gathered(trainer: Any) -> None:
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
    import deepspeed

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(parts)
    return gathered


def forget() -> None:
    """End a stage's ZeRO-3: the next model is loaded whole."""
    unset_hf_deepspeed_config()


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
