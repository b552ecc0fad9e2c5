"""The memory plan of a recipe on this machine's devices, or on a named device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState, init_empty_weights
from transformers import AutoConfig, AutoModelForCausalLM

from adapters.backends.jobs import Evaluation, Job
from adapters.backends.local.base_model import AT, Base
from adapters.backends.local.model import new_adapter, on_gpu, precision
from adapters.backends.local.trainer_args import micro_batch
from adapters.backends.memory import Shape, StagePlan, Use, plan_stage
from adapters.errors import UserError
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Grpo

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def shape_of(base: Base, recipe: Recipe) -> tuple[Shape, float | None]:
    """The model's shape from its config, and the bits of a quantised base."""
    try:
        config = AutoConfig.from_pretrained(base.load, revision=base.revision)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config)
            linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
            head = model.get_output_embeddings()
            linear -= head.weight.numel() if head is not None else 0
            total = sum(p.numel() for p in model.parameters())
            adapter = new_adapter(model, recipe.lora, base)
        lora = sum(p.numel() for p in adapter.parameters() if p.requires_grad)
    except (OSError, ValueError, ImportError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the configuration of {base.load!r} cannot be used: {first}", at=AT) from error
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    shape = Shape(
        linear=linear,
        other=total - linear,
        lora=lora,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        attention=heads * head_dim,
        kv=kv_heads * head_dim,
        vocabulary=text.vocab_size,
    )
    return shape, _quantised_bits(getattr(config, "quantization_config", None))


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
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / local, False


def plan_memory(
    recipe: Recipe,
    base: Base,
    jobs: Sequence[Job],
    tests: Sequence[Evaluation],
    *,
    device: float | None = None,
    world: int = 1,
    zero: int = 0,
) -> list[StagePlan]:
    """The memory plans of all stages and test sets. Raises UserError.

    `device` is the memory of a GPU that is not in this machine, in bytes.
    """
    shape, bits = shape_of(base, recipe)
    available, gpu = (device, True) if device is not None else devices()
    compute = 4 if recipe.model.precision == "fp32" else 2
    if recipe.model.precision == "auto" and not gpu:
        compute = 4 if precision(recipe.model) == "fp32" else 2
    stored = BYTES.get(recipe.model.dtype, (4 if recipe.model.precision == "fp32" else 2) if gpu else 4)
    common = Use(0, 1, checkpointing=gpu, weight_bits=bits or 8.0 * stored, compute_bytes=compute, gpu=gpu)
    plans = []
    for job in jobs:
        use, share = _training_use(job, replace(common, world=world, zero=zero))
        plans.append(plan_stage(job.name, shape, use, available, f"stages.{job.index}", share))
    # A CPU evaluates in bf16 where it has it, the merged model cast in place.
    common = replace(common, trains=False, weight_bits=common.weight_bits if gpu else 8.0 * compute)
    for n, test in enumerate(tests):
        size = min(test.batch_size or (64 if gpu else 32), len(test.examples))
        tokens = max((e["prompt"]["max"] for e in test.lengths), default=0) + test.max_new_tokens
        use = replace(common, tokens=tokens, micro_batch=size, checkpointing=False, generated=size)
        plans.append(plan_stage(f"evaluate {test.name}", shape, use, available, f"evaluate.{n}", size))
    return plans


def _training_use(job: Job, common: Use) -> tuple[Use, int]:
    stage: Any = job.stage
    micro, passes = micro_batch(stage)
    share = max(1, micro * passes * PartialState().num_processes // common.world)  # rows of one process and step
    checkpointing = stage.gradient_checkpointing
    samples_here = stage.kind == "grpo" and not stage.trl.get("use_vllm")
    use = replace(
        common,
        tokens=_longest(job),
        micro_batch=min(micro, share),
        sides=2 if stage.kind == "dpo" else 1,
        checkpointing=common.checkpointing if checkpointing is None else checkpointing,
        reference=stage.kind == "dpo" or getattr(stage, "beta", 0) > 0,
        generated=share * stage.updates_per_generation if samples_here else 0,
        optimizer_bytes=_optimizer_bytes(str(stage.trl.get("optim", "adamw_torch"))),
    )
    return use, share


def _longest(job: Job) -> int:
    stage = job.stage
    if isinstance(stage, Grpo):
        longest = max((e["prompt"]["max"] for e in job.lengths), default=stage.max_prompt_length)
        return min(longest, stage.max_prompt_length) + stage.max_completion_length
    sides = ("target", "rejected")
    totals = [e["prompt"]["max"] + max(e[side]["max"] for side in sides if side in e) for e in job.lengths]
    return min(max(totals, default=stage.max_length), stage.max_length)


def _optimizer_bytes(name: str) -> float:
    if "8bit" in name:
        return 2.0
    if name.startswith("sgd") or "adafactor" in name:
        return 0.0
    return 8.0
