"""The memory plan of a recipe on this machine's devices, or on a named device."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState, init_empty_weights
from peft.tuners.lora import Linear, LoraLayer
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from adapters.backends import memory
from adapters.backends.adapter_folder import WEIGHTS, shapes
from adapters.backends.jobs import Evaluation, Job
from adapters.backends.local.activation_trace import CHUNK, Trace
from adapters.backends.local.base_model import Base, load_config, unusable_config
from adapters.backends.local.model import DTYPES, new_adapter, on_gpu, precision
from adapters.backends.local.sharding import shards_weights
from adapters.backends.local.speedups.caches import can_decode
from adapters.backends.local.speedups.turns import TURNS_ROOM
from adapters.backends.local.trainer_args import micro_batch
from adapters.backends.memory import (
    CPU_PROCESS,
    GB,
    Layers,
    Shape,
    StagePlan,
    StandardLayers,
    Use,
    VllmUse,
    merged_copy_fits,
    plan_stage,
    weight_bytes,
)
from adapters.backends.selection import Selection
from adapters.errors import UserError
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Grpo

WITHOUT_KERNELS = (
    "linear attention or state space layers are planned as transformers computes them in torch; kernels such as "
    "flash-linear-attention take less memory"
)


def _attention(recipe: Recipe) -> dict[str, str]:
    # Packages of flash attention need not be installed to plan for them.
    plain = recipe.model.attention in ("eager", "sdpa")
    return {"attn_implementation": recipe.model.attention} if plain else {}


def _layers(adapter: Any, recipe: Recipe, use: Use, standard: StandardLayers) -> tuple[Layers, str]:
    """The layers as traced, or by a formula, and what to say about it."""
    fused = use.gpu and importlib.util.find_spec("fla") is not None
    attention = recipe.model.attention
    try:
        trace = Trace(adapter, compute_bytes=use.compute_bytes, gpu=use.gpu, attention=attention, fused=fused)
        trace.training(1, 2 * CHUNK)
        trace.sampling(1, 2 * CHUNK)
    except Exception as error:  # another project's model code, on tensors that it was not written for
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:120]
        return standard, f"activations are a formula for standard layers; the model's own were not traced ({reason})"
    if trace.fused:
        return trace, "linear attention is planned from flash-linear-attention's source, not measured on a GPU"
    return trace, WITHOUT_KERNELS if trace.recurrent else ""


def _standard_layers(text: Any, linear: int, use: Use) -> StandardLayers:
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    c = use.compute_bytes
    return StandardLayers(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        attention=heads * head_dim,
        kv=(getattr(text, "num_key_value_heads", None) or heads) * head_dim,
        compute_bytes=c,
        cast=c * linear / text.num_hidden_layers if use.weight_bits > 8 * c else 0.0,
    )


def _quantised_bits(quantization: Any) -> float | None:
    if not quantization:
        return None
    config = quantization if isinstance(quantization, dict) else getattr(quantization, "to_dict", dict)()
    if config.get("load_in_4bit"):
        return 4.5  # with the scales of its blocks
    if config.get("load_in_8bit") or "fp8" in str(config.get("quant_method", "")):
        return 8.0
    return float(config["bits"]) + 0.5 if isinstance(config.get("bits"), int) else None


def devices() -> tuple[float, bool]:
    """Bytes of the smallest device of a process, and whether it is a GPU."""
    if on_gpu() and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
        return float(min(gpu.total_memory for gpu in gpus)), True
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return host_memory() / local, False


def plan_memory(
    recipe: Recipe,
    base: Base,
    jobs: Sequence[Job],
    tests: Sequence[Evaluation],
    *,
    device: float | None = None,
    world: int = 1,
    zero: int = 0,
    machines: int = 1,
) -> list[StagePlan]:
    """The memory plans of all stages and test sets, and of loading on a GPU's host. Raises UserError.

    `device` is the memory of a GPU that is not in this machine, in bytes; `world` counts the processes of all
    `machines`.
    """
    available, gpu = (device, True) if device is not None else devices()
    common, shape, note = _model(recipe, base, gpu=gpu)
    loaded = common.weight_bits
    plans = []
    for job in jobs:
        use, share = _training_use(job, recipe, shape, replace(common, world=world, zero=zero), available)
        plans.append(plan_stage(job.name, shape, use, available, f"stages.{job.index}", share, note))
        if job.select:
            beside = memory.components(shape, use).get("vLLM", 0.0)
            left = None if available is None else available - beside
            use = _measuring_use(job, job.select, recipe, shape, use, left)
            name = f"{job.name}, answering held-out rows"
            plans.append(plan_stage(name, shape, use, left, f"stages.{job.index}", share, note))
    # A CPU evaluates in bf16 where it has it, the merged model cast in place.
    bits = max(16.0, common.weight_bits) if gpu else 8.0 * common.compute_bytes
    common = replace(common, trains=False, checkpointing=False, weight_bits=bits)
    for n, test in enumerate(tests):
        size = min(test.batch_size or (64 if gpu else 32), len(test.examples))
        prompt = max((e["prompt"]["max"] for e in test.lengths), default=0)
        turns = 1 if test.environment is None else 2 * test.environment.max_turns - 1  # replies as long as turns
        tokens = prompt + turns * test.max_new_tokens
        use = replace(common, tokens=tokens, micro_batch=size, generated=size, prompt=prompt)
        use = _with_turns(use, len(test.examples)) if test.environment else use
        plans.append(plan_stage(f"evaluate {test.name}", shape, use, available, f"evaluate.{n}", size, note))
    if gpu:
        bits = max(loaded, common.weight_bits) if tests else loaded  # evaluation merges into unquantised weights
        plans.append(_host(shape, replace(common, weight_bits=bits), max(1, world // machines), known=device is None))
    return plans


def _host(shape: Shape, use: Use, ranks: int, *, known: bool) -> StagePlan:
    """Every process loads the whole base into the host's memory first; 4-bit weights go to the GPU one by one."""
    weights = 0.0 if use.weight_bits < 8 else ranks * weight_bytes(shape, use)
    parts = {"process": ranks * CPU_PROCESS, "weights": weights}
    advice = "start fewer processes on each machine, or take machines with more memory"
    return StagePlan("loading, on the host", parts, sum(parts.values()), host_memory() if known else None, advice)


def host_memory() -> float:
    """Bytes of this machine's main memory."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def vllm_share(job: Job, recipe: Recipe, base: Base) -> float:
    """`vllm_gpu_memory_utilization` for a GRPO stage on this machine, in this launch.

    Raises UserError when vLLM does not fit beside the training.
    """
    available, gpu = devices()
    common, shape, _ = _model(recipe, base, gpu=gpu)
    world, zero = int(os.environ.get("WORLD_SIZE", "1")), 3 if shards_weights() else 0
    use, _ = _training_use(job, recipe, shape, replace(common, world=world, zero=zero), available)
    use = replace(use, vllm=use.vllm or VllmUse(use.generated))
    share = memory.vllm_share(shape, use, available)
    if share is None:
        need = memory.vllm_bytes(shape, use.tokens, replace(use.vllm or VllmUse(1), sequences=1))
        raise UserError(
            f"vLLM needs {need / GB:.1f} GB beside the training, and the GPU has {available / GB:.1f} GB in all; lower "
            "micro_batch_size, or give vLLM a GPU of its own (vllm: server).",
            at=("stages", job.index, "vllm"),
        )
    return share


def _model(recipe: Recipe, base: Base, *, gpu: bool) -> tuple[Use, Shape, str]:
    """What all stages share, the model's sizes, and how its layers are counted. Raises UserError."""
    compute = 4 if recipe.model.precision == "fp32" else 2
    if recipe.model.precision == "auto" and not gpu:
        compute = 4 if precision(recipe.model) == "fp32" else 2
    by_device = (torch.float32 if recipe.model.precision == "fp32" else torch.bfloat16) if gpu else torch.float32
    dtype = DTYPES.get(recipe.model.dtype, by_device)
    config = load_config(base)
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, **_attention(recipe))
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise unusable_config(base, error) from error
    # 4 bits of a block's entries, with the scales of its blocks.
    bits = 4.5 if recipe.model.quantize else _quantised_bits(getattr(config, "quantization_config", None))
    use = Use(0, 1, checkpointing=gpu, weight_bits=bits or 8.0 * dtype.itemsize, compute_bytes=compute, gpu=gpu)
    return use, *_shape(model, base, recipe, use)


def _shape(model: Any, base: Base, recipe: Recipe, use: Use) -> tuple[Shape, str]:
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    head = model.get_output_embeddings()
    linear -= head.weight.numel() if head is not None else 0
    total = sum(p.numel() for p in model.parameters())
    with init_empty_weights():
        adapter = new_adapter(model, recipe.lora, base)
    lora = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    changed = [m for m in adapter.modules() if isinstance(m, LoraLayer)]
    # Adapters on stacked experts (PEFT's ParamWrapper) are not merged for sampling.
    plain = all(type(m) is Linear for m in changed)
    adapted = sum(m.get_base_layer().weight.numel() for m in changed) if plain else 0
    text = model.config.get_text_config(decoder=True)
    layers, how = _layers(adapter, recipe, use, _standard_layers(text, linear, use))
    once = can_decode(model)
    return Shape(linear, total - linear, lora, adapted, text.hidden_size, text.vocab_size, layers, once), how


def _training_use(job: Job, recipe: Recipe, shape: Shape, common: Use, available: float | None) -> tuple[Use, int]:
    stage: Any = job.stage
    micro, passes = micro_batch(stage)
    share = max(1, micro * passes * PartialState().num_processes // common.world)  # rows of one process and step
    checkpointing = stage.gradient_checkpointing
    use = replace(
        common,
        tokens=_longest(job),
        micro_batch=min(micro, share),
        sides=2 if stage.kind == "dpo" else 1,
        target=stage.max_completion_length if isinstance(stage, Grpo | Distill) else 0,
        checkpointing=common.checkpointing if checkpointing is None else checkpointing,
        reference=stage.kind == "dpo" or getattr(stage, "beta", 0) > 0,
        teachers=sum(map(_values, stage.teachers.values())) if isinstance(stage, Distill) else 0,
        optimizer_bytes=_optimizer_bytes(str(stage.trl.get("optim", "adamw_torch"))),
    )
    if isinstance(stage, Grpo | Distill):
        updates = getattr(stage, "updates_per_generation", 1)
        use = _sampling_use(job, recipe, shape, replace(use, generated=share * updates), available)
        use = _with_turns(use, use.generated) if job.environment else use
    return use, share


def _with_turns(use: Use, episodes: int) -> Use:
    """A use of which the caches of episodes are kept between two turns, as far as there is room."""
    kept = min(episodes, TURNS_ROOM // use.tokens)
    return replace(use, generated=use.generated + kept)


def _values(teacher: str) -> int:
    """Values of an adapter; 0 where its file cannot be read, which the plan has said."""
    try:
        return sum(map(math.prod, shapes(Path(teacher) / WEIGHTS).values()))
    except (OSError, SafetensorError):
        return 0


def _sampling_use(job: Job, recipe: Recipe, shape: Shape, use: Use, available: float | None) -> Use:
    """Who generates a stage's completions."""
    stage: Any = job.stage
    how = vllm_mode(stage) if isinstance(stage, Grpo) else "off"
    if how == "server":
        return replace(use, generated=0)
    if how == "colocate":
        gpus = int(stage.trl.get("vllm_tensor_parallel_size", 1))
        vllm = VllmUse(use.generated * gpus, bool(stage.trl.get("vllm_enable_sleep_mode", False)), gpus)
        if available is None:
            return replace(use, vllm=vllm)
        given = stage.trl.get("vllm_gpu_memory_utilization")
        share = given or memory.vllm_share(shape, replace(use, vllm=vllm), available)
        one = replace(vllm, sequences=1)  # does not fit, which the plan then says
        return replace(use, vllm=replace(vllm, held=share * available) if share else one)
    speedups = recipe.model.speedups and use.zero < 3
    once = speedups and shape.reads_once
    prompts = -(-use.generated // getattr(stage, "group_size", 1)) if once else use.generated
    use = replace(use, prompt=use.tokens - stage.max_completion_length, prompts=prompts)
    mergeable = speedups and shape.adapted > 0 and use.weight_bits >= 16
    return replace(use, merged_copy=mergeable and (not use.gpu or merged_copy_fits(shape, use, available)))


def _measuring_use(
    job: Job, selected: Selection, recipe: Recipe, shape: Shape, use: Use, available: float | None
) -> Use:
    """A stage's use while it answers held-out rows, beside what training keeps."""
    rows = min(64 if use.gpu else 32, len(selected.judge.examples))
    prompt = max((e["prompt"]["max"] for e in job.lengths), default=use.tokens)
    tokens = _longest(job) if job.environment else prompt + selected.max_new_tokens
    use = replace(use, tokens=tokens, prompt=prompt, prompts=rows, generated=rows)
    use = _with_turns(use, len(selected.judge.examples)) if job.environment else use
    use = replace(use, micro_batch=1, vllm=None)  # the passes of training are over, or have not begun
    mergeable = recipe.model.speedups and shape.adapted > 0 and use.weight_bits >= 16
    return replace(use, merged_copy=mergeable and (not use.gpu or merged_copy_fits(shape, use, available)))


def vllm_mode(stage: Any) -> str:
    """Where vLLM samples a stage's completions: `colocate`, `server`, or `off`."""
    if stage.vllm == "auto":
        return "colocate" if on_gpu() and importlib.util.find_spec("vllm") is not None else "off"
    return str(stage.vllm)


def _longest(job: Job) -> int:
    stage = job.stage
    if isinstance(stage, Grpo | Distill):
        longest = max((e["prompt"]["max"] for e in job.lengths), default=stage.max_prompt_length)
        return min(longest, stage.max_prompt_length) + stage.max_completion_length
    sides = ("target", "rejected")
    answers = [max(job.answer_tokens, *(e[side]["max"] for side in sides if side in e)) for e in job.lengths]
    totals = [e["prompt"]["max"] + longest for e, longest in zip(job.lengths, answers, strict=True)]
    limit = stage.max_length or max(totals, default=0)
    return min(max(totals, default=limit), limit)


def _optimizer_bytes(name: str) -> float:
    if "8bit" in name:
        return 2.0
    if name.startswith("sgd") or "adafactor" in name:
        return 0.0
    return 8.0
