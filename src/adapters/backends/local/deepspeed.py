"""DeepSpeed: check the launch, and gather partitioned weights where needed."""

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


def check_launch() -> str | None:
    """The launcher's sharding, "zero1" to "zero3"; None for whole weights everywhere.

    Raises UserError for launches that would train something else than they say.
    """
    if _asked("ACCELERATE_USE_FSDP"):
        raise UserError(
            "FSDP is refused: accelerate ignores it silently for processes on a CPU, so that its checkpoints "
            "cannot be tested. recipes/accelerate/zero3.yaml shards the weights too."
        )
    if not _asked("ACCELERATE_USE_DEEPSPEED"):
        return None
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install -e '.[deepspeed]' in the repository.")
    if _asked("ACCELERATE_USE_CPU"):
        raise UserError(
            "accelerate ignores DeepSpeed silently when the launch config says use_cpu; remove that line "
            "(and set DS_ACCELERATOR=cpu to rehearse without a GPU)."
        )
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    saves = _asked("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL")
    if file := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        try:
            zero = json.loads(Path(file).read_text(encoding="utf-8"))["zero_optimization"]
            stage, saves = str(zero["stage"]), zero.get("stage3_gather_16bit_weights_on_model_save") is True
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{file} cannot be read as a DeepSpeed config with a zero_optimization: {error!r}"
            ) from None
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
    """Raise RuntimeError when the launch asks for DeepSpeed that is not in use."""
    if check_launch() and trainer.accelerator.distributed_type != DistributedType.DEEPSPEED:
        raise RuntimeError(f"DeepSpeed was asked for and is not in use: {trainer.accelerator.distributed_type}")


@contextmanager
def not_yet(trainer: Any) -> Iterator[None]:
    """Hide ZeRO-3 from TRL's head before the training starts, while weights are whole."""
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
    """Gather the adapter's partitioned weights (ZeRO-3), for reading only.

    All processes must enter it together. Changes are lost when the weights are partitioned again.
    """
    partitioned = [p for name, p in model.named_parameters() if "lora_" in name and hasattr(p, "ds_id")]
    if not partitioned:
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(partitioned)
    return gathered


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
