"""One of several processes over which a model is partitioned: what vLLM would get, against what it gets unpartitioned.

python vllm_weights_process.py zero3|fsdp2 MODEL, started by accelerate or torchrun; prints `same: N tensors`.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from test_vllm_weights import generation, with_adapter
from transformers import AutoModelForCausalLM

from adapters.backends.local.vllm_weights import merged_weights


def partitioned(kind: str, peft: Any) -> SimpleNamespace:
    """The accelerator's view of a partitioned model; the model itself is changed in place."""
    if kind == "zero3":
        PartialState(cpu=True)
        accelerator = Accelerator()
        sizes = {"train_micro_batch_size_per_gpu": 1, "train_batch_size": accelerator.num_processes}
        accelerator.state.deepspeed_plugin.deepspeed_config |= sizes
        trained = [p for p in peft.parameters() if p.requires_grad]
        accelerator.prepare(peft, torch.optim.SGD(trained, lr=0.1))
        assert accelerator.state.deepspeed_plugin.zero_stage == 3
        return SimpleNamespace(state=accelerator.state, device=accelerator.device)
    from torch.distributed.fsdp import fully_shard

    for layer in peft.get_base_model().model.layers:
        fully_shard(layer)
    fully_shard(peft)
    state = SimpleNamespace(deepspeed_plugin=None, fsdp_plugin=SimpleNamespace(fsdp_version=2))
    return SimpleNamespace(state=state, device=torch.device("cpu"))


def main(kind: str, folder: str) -> None:
    if kind == "fsdp2":
        torch.distributed.init_process_group("gloo")
    dtype = torch.float32 if kind == "zero3" else torch.bfloat16  # DeepSpeed casts, unless it is to train in bf16
    peft = with_adapter(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype))
    alone = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None), device=torch.device("cpu"))
    expected = {name: value.clone() for name, value in merged_weights(generation(peft, alone))}
    made = generation(peft, partitioned(kind, peft))
    parts = {name: _part(p).clone() for name, p in peft.named_parameters()}
    assert sum(part.numel() for part in parts.values()) < sum(value.numel() for value in expected.values())
    for _ in range(3):
        received = {name: value.clone() for name, value in merged_weights(made)}
        assert list(received) == list(expected)
        for name, value in expected.items():
            assert torch.equal(received[name].cpu(), value), name
    assert all(torch.equal(_part(p), parts[name]) for name, p in peft.named_parameters()), "nothing was changed"
    print(f"same: {len(expected)} tensors", flush=True)


def _part(parameter: Any) -> torch.Tensor:
    """This process's part of a parameter."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.detach()
    return parameter.to_local().detach() if hasattr(parameter, "to_local") else parameter.detach()


if __name__ == "__main__":
    main(*sys.argv[1:])
    torch.distributed.destroy_process_group()  # its threads may abort a process that ends before them
