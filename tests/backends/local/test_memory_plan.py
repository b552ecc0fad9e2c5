"""The memory plan: layers traced without data against real ones, caches, vLLM's share, and the host."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from tiny import funding_rows, write_jsonl
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from adapters.backends.local import memory_plan
from adapters.backends.local.activation_trace import Trace
from adapters.backends.local.base_model import Base
from adapters.backends.local.model import new_adapter
from adapters.backends.local.top_k_kl import Head, token_figures
from adapters.backends.memory import (
    GB,
    Shape,
    StandardLayers,
    Use,
    VllmUse,
    components,
    merged_copy_bytes,
    merged_copy_fits,
    peak,
    vllm_bytes,
    vllm_share,
)
from adapters.recipe.recipe import Lora, Model, Recipe

SMALL = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
DENSE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, **HEADS}
DELTA = {
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
SCALED = {
    "llama": DENSE,
    "qwen3": {**DENSE, "head_dim": 32},
    "qwen3_5_text": {**DENSE, **DELTA, "num_hidden_layers": 4, "head_dim": 32},
    "gemma3_text": {**DENSE, "num_hidden_layers": 6, "head_dim": 32, "sliding_window": 32},
    "gpt_oss": {**DENSE, "head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32},
    "olmo2": DENSE,
    "glm4": {**DENSE, "head_dim": 16},
}
"""Five architectures, and two that were taken after the trace was written; two layers or one period of kinds each."""
TRUE = {
    "llama": {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "num_hidden_layers": 1},
    "qwen3": {
        "hidden_size": 4096, "intermediate_size": 12288, "num_key_value_heads": 8, "head_dim": 128,
        "num_hidden_layers": 1,
    },
    "qwen3_5_text": {"num_hidden_layers": 4},
    "gemma3_text": {
        "hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 256, "num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"],
    },
    "gpt_oss": {"num_hidden_layers": 2, "num_local_experts": 8},
    "olmo2": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32,
        "num_hidden_layers": 1,
    },
    "glm4": {"num_hidden_layers": 1},
}  # fmt: skip


def wrapped(name: str, rank: int = 8, **settings: Any) -> Any:
    """A PEFT model on the meta device, its base in bf16."""
    config = CONFIG_MAPPING[name](**SMALL, **settings)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        return new_adapter(model, Lora(rank=rank, alpha=16), Base("none", "none"))


def traced(model: Any, **options: Any) -> Trace:
    return Trace(model, **{"compute_bytes": 2, "gpu": True, "attention": "auto", "fused": False, **options})


def exact(model: Any, rows: int, tokens: int, *, padded: bool) -> list[float]:
    """Bytes that each layer of a real forward pass under autocast saves for its backward pass, parameters left out."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                filled = torch.full(parameter.shape, 0.01, dtype=parameter.dtype)
                module._parameters[name] = torch.nn.Parameter(filled, parameter.requires_grad)
    base = model.train().get_base_model()
    known = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    sizes: list[float] = []
    open_layers: list[tuple[Any, dict[int, int]]] = []
    alive = []  # or another tensor would get the same address

    def enter(*call: Any) -> None:
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                found[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor.detach())
            return tensor.detach()  # the tensor itself would keep its own graph alive

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        hooks.__enter__()
        open_layers.append((hooks, found))

    def leave(*call: Any) -> None:
        hooks, found = open_layers.pop()
        hooks.__exit__()
        sizes.append(float(sum(found.values())))

    for layer in (m for m in base.modules() if isinstance(m, GradientCheckpointingLayer)):
        layer.register_forward_pre_hook(enter)
        layer.register_forward_hook(leave)
    base.get_input_embeddings().register_forward_hook(lambda *call: call[2].requires_grad_())
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[0, : tokens // 2] = 0 if padded else 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        base.base_model(input_ids=torch.randint(3, 100, (rows, tokens)), attention_mask=mask, use_cache=False)
    return sizes


# --- the layers, traced ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_traced_layers_keep_what_real_ones_keep(name: str) -> None:
    for rows, tokens in ((2, 128), (1, 192)):
        planned = traced(wrapped(name, **SCALED[name])).training(rows, tokens).saved
        found = exact(wrapped(name, **SCALED[name]), rows, tokens, padded=rows > 1)
        assert list(planned) == pytest.approx(found, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rank"), [*((name, 128) for name in TRUE), ("qwen3_5_text", 16)])
def test_layers_of_true_size(name: str, rank: int) -> None:
    """KB a token of one layer of each kind: Llama 3 8B, Qwen3 8B, Qwen3.5 9B, Gemma 3 12B, gpt-oss 20B and others."""
    for rows, tokens in ((2, 256), (1, 512)) if rank == 16 else ((2, 256),):
        planned = traced(wrapped(name, rank, **TRUE[name])).training(rows, tokens).saved
        found = exact(wrapped(name, rank, **TRUE[name]), rows, tokens, padded=rows > 1)
        for kind in sorted(set(zip(planned, found, strict=True))):
            plan, real = (size / rows / tokens / 1e3 for size in kind)
            print(f"{name} r{rank} {rows} x {tokens}: planned {plan:.1f}, exact {real:.1f} KB a token")
        assert list(planned) == pytest.approx(found, rel=0.03)


@pytest.mark.slow
def test_a_9b_model_of_true_size_is_traced_without_weights() -> None:
    model = wrapped("qwen3_5_text", 128)
    trace = traced(model)
    found = trace.training(1, 1024)
    kinds = sorted({size / 1024 / 1e3 for size in found.saved})
    assert kinds == [pytest.approx(260, rel=0.03), pytest.approx(601, rel=0.03)], "as measured on real layers"
    assert found.saved.count(min(found.saved)) == 8
    caches, _ = trace.sampling(1, 4096)
    assert sum(caches) == pytest.approx(8 * 4096 * 2 * 4 * 256 * 2 + 50.3e6 + 24 * 4 * 8192 * 2, rel=0.01)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_layers_grow_linearly_and_masks_with_the_square() -> None:
    trace = traced(wrapped("llama", **SCALED["llama"]))
    one, two, three = (trace.training(1, n * 512).saved[0] for n in (1, 2, 3))
    assert three - two == two - one, "one row needs no mask"
    one, two, three = (trace.training(2, n * 512).saved[0] for n in (1, 2, 3))
    assert three - 2 * two + one == 2 * 2 * 2 * 512**2, "a bf16 mask of two rows, in each layer"
    flash = traced(wrapped("llama", **SCALED["llama"]), attention="flash_attention_2")
    one, two, three = (flash.training(2, n * 512).saved[0] for n in (1, 2, 3))
    assert three - two == two - one, "flash attention takes rows of several lengths without a mask"
    eager = traced(wrapped("llama", attn_implementation="eager", **SCALED["llama"]))
    assert eager.training(1, 512).saved[0] > trace.training(1, 512).saved[0] + 4 * 512**2 * 2


def test_sliding_windows_limit_the_cache() -> None:
    caches, _ = traced(wrapped("gemma3_text", **SCALED["gemma3_text"])).sampling(1, 256)
    whole = 2 * 2 * 32 * 2
    assert caches[5] == 256 * whole
    assert caches[0] == 31 * whole, "the token that is read comes on top"


def test_only_routed_experts_have_activations() -> None:
    few, many, twice = (
        traced(wrapped("gpt_oss", **{**SCALED["gpt_oss"], **changes})).training(1, 256).saved[0]
        for changes in ({}, {"num_local_experts": 8}, {"num_experts_per_tok": 4})
    )
    assert many < 1.05 * few
    assert twice > 1.3 * few


@pytest.mark.slow
def test_flash_linear_attention_keeps_less() -> None:
    usual = traced(wrapped("qwen3_5_text", 128)).training(2, 512)
    fused = traced(wrapped("qwen3_5_text", 128), fused=True)
    assert fused.fused
    assert fused.training(2, 512).saved[0] < 0.6 * usual.saved[0]
    assert fused.training(2, 512).saved[3] == usual.saved[3], "full attention is the same"


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    found = traced(wrapped("qwen3_5_text", **SCALED["qwen3_5_text"])).training(2, 256)
    kept, _ = found.kept(checkpointing=True)
    assert kept == found.outside + sum(found.inputs) + max(found.saved) - found.inputs[0]
    assert found.kept(checkpointing=False)[0] == found.outside + sum(found.saved)
    assert found.inputs == (2 * 256 * 64 * 2,) * 4


# --- sampling: vLLM, the merged copy ----------------------------------------------------------------------------

LAYERS = StandardLayers(32, 4096, 14336, 4096, 1024, 2)
LLAMA_8B = Shape(6_979_321_856, 1_050_939_392, 335_544_320, 6_979_321_856, 4096, 128_256, LAYERS)
GRPO = Use(tokens=4096, micro_batch=2, checkpointing=True, weight_bits=16, compute_bytes=2, generated=128, prompt=3072)


def test_vllm_gets_what_it_needs_or_what_is_left() -> None:
    row = 2 * 4096 * 1024 * 32 * 2
    use = replace(GRPO, vllm=VllmUse(16))
    need = vllm_bytes(LLAMA_8B, 4096, VllmUse(16))
    assert need == 2 * 8_030_261_248 + 16 * row + 3 * GB
    share = vllm_share(LLAMA_8B, use, 80 * GB)
    assert share is not None
    assert need <= share * 80 * GB < need + 0.8 * GB
    sizes = components(LLAMA_8B, replace(use, vllm=VllmUse(16, held=share * 80 * GB)))
    assert sizes["vLLM"] == share * 80 * GB
    assert "generation cache" not in sizes
    assert peak(sizes, gpu=True) <= 80 * GB
    less = vllm_share(LLAMA_8B, replace(GRPO, vllm=VllmUse(128)), 80 * GB)
    assert less is not None
    assert vllm_bytes(LLAMA_8B, 4096, VllmUse(1)) < less * 80 * GB < vllm_bytes(LLAMA_8B, 4096, VllmUse(128))
    assert peak(components(LLAMA_8B, replace(GRPO, vllm=VllmUse(128, held=less * 80 * GB))), gpu=True) <= 80 * GB
    asleep = vllm_share(LLAMA_8B, replace(GRPO, vllm=VllmUse(128, sleeps=True)), 80 * GB)
    assert asleep is not None
    assert asleep >= less
    assert vllm_share(LLAMA_8B, use, 40 * GB) is None


def test_the_merged_copy_takes_turns_with_training() -> None:
    use = replace(GRPO, generated=16, prompts=2)
    copied = replace(use, merged_copy=True)
    assert merged_copy_bytes(LLAMA_8B, use) == 2 * LLAMA_8B.adapted
    assert merged_copy_bytes(LLAMA_8B, replace(use, weight_bits=4.5)) == 2 * LLAMA_8B.adapted
    need = peak(components(LLAMA_8B, copied), gpu=True)
    assert need > peak(components(LLAMA_8B, use), gpu=True)
    assert merged_copy_fits(LLAMA_8B, use, need)
    assert not merged_copy_fits(LLAMA_8B, use, need - 1)
    small = replace(use, generated=1, prompts=1)  # now training is the larger side
    longer = replace(small, micro_batch=16, checkpointing=False)
    both = [peak(components(LLAMA_8B, replace(longer, merged_copy=m)), gpu=True) for m in (False, True)]
    assert both[0] == both[1]


class Held(TorchDispatchMode):
    """The most bytes of tensors that are alive at once, those that were there before left out."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for storage in (t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)):
            if storage._cdata not in self.known:
                self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.alive = {key: held for key, held in self.alive.items() if not held[0].expired()}
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return out


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.bfloat16, 16)])
@pytest.mark.parametrize("tokens", [200, 1030])
@pytest.mark.parametrize("hidden", [16, 128])
def test_the_logits_of_a_distillation_are_planned_as_they_are_held(
    dtype: torch.dtype, bits: int, tokens: int, hidden: int
) -> None:
    vocabulary = 3000  # of short hidden states the support's own rows of the head are taken, of long ones all
    head = torch.randn(vocabulary, hidden).to(dtype)
    student, teacher = (torch.randn(tokens, hidden).to(dtype).requires_grad_(side) for side in (True, False))
    with Held(head, student, teacher) as held:
        token_figures(student, teacher, Head(head), Head(head), 64).loss.sum().backward()
    shape = replace(LLAMA_8B, vocabulary=vocabulary, hidden=hidden)
    use = replace(GRPO, micro_batch=1, target=tokens, teachers=1, weight_bits=bits, compute_bytes=bits // 8)
    assert components(shape, use)["logits"] == pytest.approx(held.most, rel=0.05)
    wide = components(shape, replace(use, weight_bits=32, compute_bytes=2))["logits"]
    narrow = components(shape, replace(use, weight_bits=16, compute_bytes=2))["logits"]
    assert wide - narrow == 2 * head.numel(), "a head of another type is cast"


# --- whole recipes ----------------------------------------------------------------------------------------------


def checked(tiny_model: Path, folder: Path, *arguments: str, model: str = "", grpo: str = "") -> dict[str, Any]:
    write_jsonl(folder / "train.jsonl", funding_rows(32))
    (folder / "r.yaml").write_text(
        "name: r\ntask: {use: funding, target: compact, system: Extract., user: '{statement}'}\n"
        f"model: {{base: {tiny_model}{model}}}\nlora: {{rank: 8, alpha: 16}}\nstages:\n"
        "  - {kind: grpo, data: [{path: train.jsonl}], batch_size: 4, learning_rate: 1e-5, rewards: [funding], "
        f"max_prompt_length: 512, max_completion_length: 64{grpo}}}\n"
    )
    command = [sys.executable, "-m", "adapters", "check", "r.yaml", "--json", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_the_parts_of_a_grpo_stage(tiny_model: Path, tmp_path: Path) -> None:
    own = checked(tiny_model, tmp_path, "--device", "80GB")["memory"]
    assert [plan["name"] for plan in own] == ["1-grpo", "loading, on the host"]
    assert {"generation cache", "reading prompts", "merged copy"} < own[0]["parts"].keys()
    found = checked(tiny_model, tmp_path, "--device", "80GB", grpo=", select: {rows: 4}, validation: 0.2")
    training, measuring = found["memory"][:2]
    assert measuring["name"] == "1-grpo, answering held-out rows"
    assert measuring["parts"]["optimizer"] == training["parts"]["optimizer"]
    assert 0 < measuring["parts"]["generation cache"] < training["parts"]["generation cache"], "4 answers, not 32"
    assert any("its states are measured 8 times, 4 held-out rows each" in note for note in found["notes"])
    vllm = checked(tiny_model, tmp_path, "--device", "80GB", grpo=", trl: {vllm_gpu_memory_utilization: 0.25}")
    assert "vLLM" not in vllm["memory"][0]["parts"], "nothing says that vLLM samples"
    (tmp_path / "many.yaml").write_text("num_processes: 16\nnum_machines: 2\n")
    hosts = checked(tiny_model, tmp_path, "--device", "80GB", "--launch", "many.yaml")["memory"][-1]
    assert hosts["parts"]["weights"] == 8 * own[-1]["parts"]["weights"]


def test_a_host_that_cannot_hold_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "host_memory", lambda: 128 * GB)
    eight, one = (memory_plan._host(LLAMA_8B, GRPO, ranks, known=True) for ranks in (8, 1))
    assert one.fits
    assert not eight.fits
    assert eight.peak == 8 * (2 * 8_030_261_248 + 0.74 * GB)
    assert "fewer processes on each machine" in eight.advice
    four_bit = memory_plan._host(LLAMA_8B, replace(GRPO, weight_bits=4.5), 8, known=True)
    assert four_bit.fits, "4-bit weights go to the GPU as they are read"
    assert memory_plan._host(LLAMA_8B, GRPO, 8, known=False).available is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_5_text", "qwen3_moe"])
def test_the_sizes_of_a_model(name: str, tmp_path: Path) -> None:
    parts = SCALED.get(name) or {**DENSE, "num_experts": 4, "num_experts_per_tok": 2}
    CONFIG_MAPPING[name](**SMALL, **parts).save_pretrained(tmp_path)
    recipe = Recipe.model_construct(model=Model(base="any", precision="bf16"), lora=Lora(rank=4))
    use, shape, note = memory_plan._model(recipe, Base(str(tmp_path), "none"), gpu=True)
    assert (use.weight_bits, use.compute_bytes) == (16, 2)
    assert isinstance(shape.layers, Trace), note
    assert ("torch" in note) == (name == "qwen3_5_text")
    assert (shape.adapted > 0) == (name == "qwen3_5_text"), "an adapter on stacked experts is not merged for sampling"
    recipe = recipe.model_copy(update={"model": Model(base="any", precision="bf16", quantize="nf4")})
    assert memory_plan._model(recipe, Base(str(tmp_path), "none"), gpu=True)[0].weight_bits == 4.5


def test_layers_that_cannot_be_traced_are_a_formula(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no data\nin these tensors")

    monkeypatch.setattr(Trace, "_training", broken)
    CONFIG_MAPPING["llama"](**SMALL, **DENSE).save_pretrained(tmp_path)
    recipe = Recipe.model_construct(model=Model(base="any", precision="bf16"), lora=Lora(rank=4))
    _, shape, note = memory_plan._model(recipe, Base(str(tmp_path), "none"), gpu=True)
    assert isinstance(shape.layers, StandardLayers)
    assert "a formula for standard layers" in note
    assert "(RuntimeError: no data)" in note
