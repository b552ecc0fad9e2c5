"""The weights that vLLM gets are the base with the adapter, and the base stays as it was."""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen3_5ForCausalLM, Qwen3_5TextConfig
from trl.distributed import DistributedBackend
from trl.generation.vllm_generation import VLLMGeneration

from adapters.backends.local.vllm_weights import merged_weights

ROOT = Path(__file__).parents[3]
QWEN = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "tie_word_embeddings": True,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip


def base_model(kind: str, tiny_model: Path) -> Any:
    torch.manual_seed(0)
    if kind == "llama":
        return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2)).to(torch.bfloat16)
    return Qwen3_5ForCausalLM(Qwen3_5TextConfig(**QWEN)).to(torch.bfloat16)


def with_adapter(base: Any, **options: Any) -> Any:
    """A PeftModel with the adapter "default", trained by chance, and a second one that is not active."""
    config = LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | options))
    peft = get_peft_model(base, config)
    peft.add_adapter("ref", config)
    generator = torch.Generator().manual_seed(1)
    for name, p in peft.named_parameters():
        if "lora_" in name:
            p.data = 0.05 * torch.randn(p.shape, generator=generator).to(p.dtype)
    peft.set_adapter("default")
    return peft


def generation(peft: Any, accelerator: Any = None) -> VLLMGeneration:
    """TRL's object as it is after its start, without vLLM."""
    made = VLLMGeneration.__new__(VLLMGeneration)
    made.model, made.accelerator = peft, accelerator or Accelerator(cpu=True)
    made._dist, made.mode, made._weight_metadata = DistributedBackend(made.accelerator), "server", None
    return made


def hashes(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {
        k: hashlib.sha256(v.detach().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
        for k, v in tensors.items()
    }


KINDS = [
    ("llama", {}),
    ("qwen3_5", {}),
    ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 32}}),
    ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_hundred_transfers_leave_the_base_as_it_was(
    kind: str, options: dict, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = with_adapter(base_model(kind, tiny_model), **options)
    before = hashes(peft.state_dict())
    made, received = generation(peft), {}
    monkeypatch.setattr(VLLMGeneration, "_iter_named_params", merged_weights)
    # A server that keeps what it is sent, behind TRL's own `sync_weights`.
    client = SimpleNamespace(reset_prefix_cache=lambda: None)
    client.update_named_params = lambda metadata, pairs: received.update({k: v.clone() for k, v in pairs})
    made.vllm_client = client
    for _ in range(100):
        made.sync_weights()
    assert hashes(peft.state_dict()) == before, "base and adapters, bit by bit"
    assert [name for name, *_ in made._weight_metadata] == list(received)
    merged = dict(peft.merge_and_unload().named_parameters())
    assert received.keys() == merged.keys()
    assert {k: v.dtype for k, v in received.items()} == dict.fromkeys(received, torch.bfloat16)
    for name, value in merged.items():
        assert torch.equal(received[name], value), f"{name} is what PEFT merges, rounded once"
    changed = [name for name, value in received.items() if hashes({"": value})[""] not in before.values()]
    assert changed, "the adapter is in what was sent"


@pytest.mark.parametrize("kind", ["llama", "qwen3_5"])
def test_trls_own_transfer_gives_the_same_once_and_drifts(kind: str, tiny_model: Path) -> None:
    peft = with_adapter(base_model(kind, tiny_model))
    made = generation(peft)
    ours = {name: value.clone() for name, value in merged_weights(made)}
    before = {k: v.clone() for k, v in peft.state_dict().items()}
    theirs = {name: value.clone() for name, value in VLLMGeneration._iter_named_params(made)}
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    after = peft.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before), "when TRL keeps the base, ours is not needed"


def test_merging_is_out_of_place_in_fp32_too(tiny_model: Path) -> None:
    peft = with_adapter(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32))
    before = hashes(peft.state_dict())
    sent = {name: value.clone() for name, value in merged_weights(generation(peft))}
    assert hashes(peft.state_dict()) == before
    for name, value in peft.merge_and_unload().named_parameters():
        assert torch.equal(sent[name], value)


def test_without_an_active_adapter_the_base_is_sent(tiny_model: Path) -> None:
    base = base_model("llama", tiny_model)
    plain = hashes(dict(base.named_parameters()))
    peft = with_adapter(base)
    with peft.disable_adapter():
        assert hashes(dict(merged_weights(generation(peft)))) == plain


def test_what_is_replaced_is_still_there() -> None:
    """A new TRL that sends weights in another way must be looked at before it is allowed."""
    assert list(inspect.signature(VLLMGeneration._iter_named_params).parameters) == ["self"]
    assert inspect.isgeneratorfunction(VLLMGeneration._iter_named_params)
    source = inspect.getsource(VLLMGeneration.sync_weights)
    assert source.count("self._iter_named_params()") == 4
    assert "merge_adapter" not in source
    for name in ("merge_adapter", "unmerge_adapter"):
        assert inspect.getsource(VLLMGeneration).count(f"model.{name}()") == 1, "in the replaced generator alone"
    assert list(inspect.signature(VLLMGeneration._fix_param_name_to_vllm).parameters) == [
        "self", "name", "extra_prefixes",
    ]  # fmt: skip
    assert list(inspect.signature(DistributedBackend.gather_params).parameters) == ["self", "params"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero3", "fsdp2"])
def test_partitioned_weights_are_gathered_one_by_one(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    if kind == "zero3":
        pytest.importorskip("deepspeed")
        text = (ROOT / "recipes" / "accelerate" / "zero3.yaml").read_text()
        (tmp_path / "zero3.yaml").write_text(
            text.replace("num_processes: 8", "num_processes: 2").replace("steps: auto", "steps: 1")
        )
        start = ["accelerate.commands.accelerate_cli", "launch", "--config_file", str(tmp_path / "zero3.yaml")]
    else:
        start = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    script = Path(__file__).with_name("vllm_weights_process.py")
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", *start, str(script), kind, str(tiny_model)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("same: 20 tensors") == 2, done.stdout
