"""Run a recipe under FSDP2 on a CPU, which accelerate itself does for accelerators only.

    accelerate launch --config_file recipes/accelerate/fsdp2.yaml tests/fsdp_on_cpu.py RECIPE KEY=VALUE …

Only what accelerate decides by the kind of device is changed: it is told of GPUs, whose device is the CPU. Everything
after that is accelerate's, torch's and TRL's own. Each process appends what its trained parameters are to
SHARDS-RANK.jsonl, in the folder that SHARDS names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
prepare = transformers.Trainer._prepare_for_training


def backend(self, cpu=False, sagemaker_dp=False, backend=None):
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return "gloo", DistributedType.MULTI_GPU


def note(self, *args, **kwargs):
    prepared = prepare(self, *args, **kwargs)
    trained = [p for p in self.model.parameters() if p.requires_grad]
    shards = {
        "trained": len(trained),
        "sharded": sum(isinstance(p, DTensor) and p.device_mesh.size() == 2 for p in trained),
        "share": sum(p.to_local().numel() for p in trained if isinstance(p, DTensor)) / sum(p.numel() for p in trained),
        "frozen": sum(isinstance(p, DTensor) for p in self.model.parameters() if not p.requires_grad),
    }
    with Path(os.environ["SHARDS"], f"shards-{os.environ['RANK']}.jsonl").open("a") as file:
        file.write(json.dumps(shards) + "\n")
    return prepared


PartialState._prepare_backend = backend
transformers.Trainer._prepare_for_training = note

if __name__ == "__main__":
    from adapters.cli.main import app

    app(["run", *sys.argv[1:]])
