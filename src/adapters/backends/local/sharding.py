"""Several processes: check the launch, and gather sharded weights (DeepSpeed, FSDP2) where needed."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from adapters.backends.local.model import on_gpu
from adapters.environment import LATER, PROCESSES
from adapters.errors import UserError

FSDP = {
    "fsdp_version": ("2", "version 1 is another implementation, which is not supported"),
    "fsdp_state_dict_type": ("FULL_STATE_DICT", "a checkpoint holds the adapter as one file"),
    "fsdp_cpu_ram_efficient_loading": ("false", "an adapter is put on whole weights, which the trainer then shards"),
    "fsdp_offload_params": ("false", "weights are measured where they are trained"),
    "fsdp_activation_checkpointing": ("false", "the recipe's gradient_checkpointing decides"),
}
"""Setting of a launch file -> the value that it must have, and why."""


def check_processes(state: PartialState) -> None:
    """Raise UserError when a launch asked for more processes than there are."""
    # DeepSpeed's own launcher sets CROSS_SIZE, and accelerate uses it for several machines only.
    if _asked("ACCELERATE_USE_DEEPSPEED") and os.environ.get("CROSS_SIZE") == "1":
        raise UserError(
            "several machines were asked for, and DeepSpeed's launcher found no hostfile and started this machine "
            "alone: set deepspeed_multinode_launcher: standard in the launch file, as recipes/accelerate/zero3.yaml."
        )
    # accelerate sets the address for several processes, and here starts one without a rank.
    launched = "ACCELERATE_DYNAMO_MODE" in os.environ and "MASTER_ADDR" in os.environ and "RANK" not in os.environ
    if launched and state.num_processes == 1:
        raise UserError(
            "accelerate launch was asked for several processes and started one; it starts several with "
            "distributed_type: MULTI_GPU, DEEPSPEED or FSDP, as the files in recipes/accelerate/ (without GPUs too)."
        )
    given = [os.environ.get(name, "") for name in (PROCESSES, "WORLD_SIZE")]
    asked = max([int(number) for number in given if number.isdecimal()], default=1)
    if state.num_processes < asked:
        raise UserError(
            f"the launch asked for {asked} processes, and {state.num_processes} run together: start the recipe with "
            "adapters run RECIPE --launch FILE, or accelerate launch --config_file FILE."
        )


def check_devices(state: PartialState) -> None:
    """Raise UserError for one process that sees several GPUs: TRL's trainers refuse it."""
    several = on_gpu() and torch.accelerator.device_count() > 1
    if state.num_processes == 1 and several and os.environ.get(PROCESSES) != LATER:
        raise UserError(
            f"this process sees {torch.accelerator.device_count()} GPUs and would train on one of them: use all with "
            "--launch recipes/accelerate/ddp.yaml, or choose one with CUDA_VISIBLE_DEVICES=0."
        )


def check_launch() -> str | None:
    """The launcher's sharding, "zero1" to "zero3" or "fsdp2"; None for whole weights.

    Raises UserError for launches that would train something else than they say.
    """
    if _asked("ACCELERATE_USE_FSDP"):
        for setting, (value, reason) in FSDP.items():
            if os.environ.get(setting.upper(), "").lower() != value.lower():
                raise UserError(f"FSDP needs {setting}: {value} in the launch config: {reason}.")
        return "fsdp2"
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


def prepare(trainer: Any) -> None:
    """Adapt a trainer to its launch, before it shards the model.

    Raises UserError when accelerate leaves out the sharding that the launch asks for.
    """
    used, asked = trainer.accelerator.distributed_type, check_launch()
    wanted = DistributedType.FSDP if asked == "fsdp2" else DistributedType.DEEPSPEED
    if asked and used != wanted:
        raise UserError(
            f"the launch asks for {wanted.value}, and accelerate trains whole copies on this device "
            f"({trainer.accelerator.device.type}): use recipes/accelerate/ddp.yaml, or an accelerator."
        )
    policy = asked == "fsdp2" and trainer.accelerator.state.fsdp_plugin.mixed_precision_policy
    if policy:  # accelerate rounds log-probabilities (the output) and sums of gradients to 16 bits
        exact = replace(policy, output_dtype=None, reduce_dtype=torch.float32)
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = exact


def prepared(model: Any) -> None:
    """Raise UserError when the weights should be sharded now and are whole."""
    asked = check_launch()
    if asked not in ("zero3", "fsdp2"):
        return
    weights = list(model.parameters())
    if whole_ones := sum(not (_is_dtensor(p) or hasattr(p, "ds_id")) for p in weights):
        raise UserError(f"the launch asks for {asked}, and {whole_ones} of {len(weights)} weights are not sharded.")
    # Processes whose answers have ended must go on with the forward passes of the others.
    model.get_base_model()._is_fsdp_managed_module = asked == "fsdp2"


def shards_weights() -> bool:
    """Whether the launch shards weights, so that all processes make the same passes."""
    return check_launch() in ("zero3", "fsdp2")


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


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """Gather the adapter's sharded weights (ZeRO-3, FSDP2), for reading only.

    All processes must enter it together. Changes are lost when the weights are sharded again.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    adapter = {name: p for name, p in model.named_parameters() if "lora_" in name}
    if partitioned := [p for p in adapter.values() if hasattr(p, "ds_id")]:
        import deepspeed

        with deepspeed.zero.GatheredParameters(partitioned):
            yield
        return
    sharded = {name: p for name, p in adapter.items() if _is_dtensor(p)}
    for name, p in sharded.items():
        _replace(model, name, torch.nn.Parameter(p.detach().full_tensor(), requires_grad=p.requires_grad))
    try:
        yield
    finally:
        for name, p in sharded.items():
            _replace(model, name, p)


def _replace(model: Any, name: str, parameter: torch.nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    model.get_submodule(parent)._parameters[leaf] = parameter


def _is_dtensor(parameter: torch.Tensor) -> bool:
    return isinstance(parameter, DTensor)


def _asked(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true")
