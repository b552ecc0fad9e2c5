"""A stage's settings as TRL's config, and the check of a stage's `trl:` section."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments
from trl import DistillationConfig, DPOConfig, GRPOConfig, SFTConfig

from adapters.backends.jobs import Job
from adapters.backends.local import tracking
from adapters.backends.local.model import on_gpu, precision
from adapters.errors import KeyPath, UserError, first_line, hint
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Dpo, Grpo, Stage, TokenClassification, own_options

CONFIGS = {
    "sft": SFTConfig,
    "grpo": GRPOConfig,
    "dpo": DPOConfig,
    "distill": DistillationConfig,
    "token_classification": TrainingArguments,
}
LOSSES = {
    "sft": ("nll", "dft"),
    "grpo": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "dpo": (
        *("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft"),
        *("nca_pair", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down"),
    ),
    "distill": ("top_k_reverse_kl",),
}
BY_ROWS = ("grpo", "sapo", "dr_grpo", "luspo")
"""GRPO's losses that divide by rows or a constant: a masked completion stays in their denominator."""
ENTROPY = {"entropy_coef": 0.0, "use_adaptive_entropy": False, "top_entropy_quantile": 1.0}
"""TRL options that look at the entropy of what is not masked, with the values that switch them off."""
OF_DISTILL = {
    "beta": "the stage itself: the loss is the reverse KL on the teacher's top_k tokens",
    "top_k": "the stage's own top_k (TRL's is another thing, a limit of what is sampled)",
    "disable_dropout": "the run itself: an answer is judged as it was sampled, without dropout",
    **dict.fromkeys(("use_vllm", "vllm_mode"), "the stage itself: the student samples without vLLM"),
    **dict.fromkeys(("teacher_model_name_or_path", "teacher_model_init_kwargs", "teacher_model_revision"), "teachers"),
}
"""TRL options that mean something else in a distill stage, or nothing -> what decides."""
WITHOUT_DROPOUT = ("dpo", "grpo", "distill")
"""Methods that compare probabilities, which dropout would change."""
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
DIVERGENCE_LOSSES = LOSSES["dpo"][:8]  # the losses that TRL computes with another divergence than reverse_kl
OWNED = {
    "learning_rate": "learning_rate",
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "batch_size",
    "generation_batch_size": "updates_per_generation",
    "steps_per_generation": "updates_per_generation",
    "num_iterations": "updates_per_generation",
    "num_generations": "group_size",
    "temperature": "temperature",
    "beta": "beta",
    "scale_rewards": "scale_rewards",
    "max_length": "max_length",
    "max_completion_length": "max_completion_length",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "save_steps": "save_every",
    "gradient_checkpointing": "gradient_checkpointing",
    "reward_weights": "rewards[].weight",
    "train_sampling_strategy": "group_by_length",
    "length_column_name": "group_by_length",
    "use_vllm": "vllm",
    "vllm_mode": "vllm",
    "vllm_server_base_url": "vllm_server",
    "vllm_server_host": "vllm_server",
    "vllm_server_port": "vllm_server",
}
"""TRL option -> recipe key that decides it; two spellings of one setting could contradict each other."""
REMOTE_CODE = "trust_remote_code"
ELSEWHERE = {
    "seed": "the recipe's seed",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "output_dir": "run_dir",
    "report_to": "report_to",
    "chat_template_kwargs": "model.thinking",
    "chat_template_path": "the base model: training on another template than inference renders is a trap",
    "eos_token": "the chat template: the token that ends a turn is learned and stops generation",
    "push_to_hub": "adapters publish",
    "hub_token": "the environment: HF_TOKEN, or hf auth login",
    "logging_steps": "the run itself: GRPO and DPO log every step, SFT about a hundred times",
    "save_strategy": "save_every",
    "save_total_limit": "the run itself: two checkpoints are kept",
    "logging_nan_inf_filter": "the run itself: a loss that is not finite stops it",
    "eval_strategy": "the run itself: the loss before and after, and the test sets at the end",
    "shuffle_dataset": "the run itself: rows come in an order of their own, in which a stopped run continues",
    "packing": "packing of an SFT stage, without trl:",
    "padding_free": "packing of an SFT stage, without trl:",
    "packing_strategy": "the run itself: the rows of micro_batch_size make one pass",
    "eval_packing": "packing of an SFT stage, without trl:",
    "dataset_kwargs": "the run itself: the trainer gets ready tokens",
    "disable_dropout": "the run itself: policy and reference must agree at the start",
    "precompute_ref_log_probs": "the run itself: DPO's reference is computed once, before the first step",
    "precompute_ref_batch_size": "micro_batch_size",
    "sync_ref_model": "reference: it stays what the recipe names",
    "truncation_mode": "max_length: nothing is cut, pairs that are longer are dropped and counted",
    "vllm_max_model_length": "max_prompt_length and max_completion_length",
    REMOTE_CODE: "model.trust_remote_code",
    "resume_from_checkpoint": "the run itself: a stopped run continues when started again",
}


def check_options(stage: Stage, at: KeyPath) -> None:
    """Check a stage's `trl:` section (an encoder's `training_args:`) against the trainer's own config class.

    Raises UserError for unknown names, wrong types, and options that a recipe key decides.
    """
    config = CONFIGS[stage.method]
    fields = {f.name: f for f in dataclasses.fields(config) if f.init}
    hints = typing.get_type_hints(config)
    section, given_options = own_options(stage)
    for name, value in given_options.items():
        key = (*at, section, name)
        if isinstance(stage, Distill) and name in OF_DISTILL:
            raise UserError(f"this is decided by {OF_DISTILL[name]}.", at=key)
        if (own := OWNED.get(name)) and own.partition("[")[0] in type(stage).model_fields:
            raise UserError(f"the recipe decides this: set {'.'.join(map(str, at))}.{own} instead.", at=key)
        if own and name in fields:
            raise UserError(f"the recipe decides this, by {own}, which a {stage.kind} stage does not have.", at=key)
        if name in ELSEWHERE:
            raise UserError(f"this is decided by {ELSEWHERE[name]}.", at=key)
        _refuse_remote_code(value, key)
        if name not in fields:
            raise UserError(f"{config.__name__} has no such option.{hint(name, list(fields))}", at=key)
        if name == "loss_type" and isinstance(stage, Dpo) and isinstance(value, str):
            value = [value]  # as DPOConfig itself takes it
        try:
            TypeAdapter(hints[name]).validate_python(value, strict=not isinstance(value, list | dict))
        except ValidationError as error:
            raise UserError(f"{config.__name__}: {error.errors()[0]['msg'].lower()}, not {value!r}.", at=key) from None
    if not isinstance(stage, TokenClassification):
        _check_losses(stage, at)
    micro_batch(stage, at)
    try:  # the config class's own checks, which would otherwise run after the stages before this one
        rows = {"per_device_train_batch_size": 8, "num_generations": 8} if stage.method == "grpo" else {}
        config(output_dir="unused", use_cpu=not on_gpu(), bf16=False, report_to="none", **rows, **given_options)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{config.__name__}: {first_line(error)}", at=(*at, section)) from None


def _check_losses(stage: Any, at: KeyPath) -> None:
    choices = LOSSES[stage.method]
    given = stage.trl.get("loss_type", choices[0])
    losses = given if isinstance(given, list) else [given]
    if unknown := [loss for loss in losses if loss not in choices]:
        raise UserError(f"TRL has no such loss.{hint(unknown[0], choices)}", at=(*at, "trl", "loss_type"))
    if isinstance(stage, Dpo):
        _check_dpo_losses(stage.trl, losses, (*at, "trl"))


def denominator_notes(stage: Stage, at: KeyPath) -> list[str]:
    """A note on a loss in whose denominator flat groups stay that are left out. Raises UserError if nothing changes."""
    if not isinstance(stage, Grpo) or stage.flat_groups == "keep" or stage.trl.get("loss_type") not in BY_ROWS:
        return []
    loss = f"the loss {stage.trl['loss_type']} does not count tokens"
    masked = stage.beta or any(stage.trl.get(name, off) != off for name, off in ENTROPY.items())
    if stage.flat_groups == "leave_out" and not masked:
        fault = f"{loss}, so leaving flat groups out changes nothing; use keep, or dapo, bnpo, cispo or vespo."
        raise UserError(fault, at=(*at, "flat_groups"))
    return [f"stage {int(at[-1]) + 1}: {loss}, so flat groups that are left out stay in its denominator"]


def _refuse_remote_code(value: Any, at: KeyPath) -> None:
    # Options of transformers inside an option, such as model_init_kwargs, may be JSON text too.
    if REMOTE_CODE in json.dumps(value, default=str):
        raise UserError(f"{REMOTE_CODE} is decided by {ELSEWHERE[REMOTE_CODE]}, and needs --trust-remote-code.", at=at)


def _check_dpo_losses(trl: Mapping[str, Any], losses: Sequence[str], at: KeyPath) -> None:
    # DPOTrainer itself refuses these only after the stages before this one have run.
    divergence = trl.get("f_divergence_type", DIVERGENCES[0])
    if divergence not in DIVERGENCES:
        raise UserError(f"TRL has no such divergence.{hint(divergence, DIVERGENCES)}", at=(*at, "f_divergence_type"))
    if divergence != DIVERGENCES[0] and (odd := set(losses) - set(DIVERGENCE_LOSSES)):
        raise UserError(f"the loss {min(odd)} has no form with {divergence}.", at=(*at, "f_divergence_type"))
    if "exo_pair" in losses and not trl.get("label_smoothing"):
        raise UserError("exo_pair needs label_smoothing above 0, such as 1e-3.", at=(*at, "loss_type"))
    if trl.get("use_weighting") and {"aot", "aot_unpaired"} & set(losses):
        raise UserError("use_weighting does not go with the aot losses.", at=(*at, "use_weighting"))


def micro_batch(stage: Stage, at: KeyPath = ()) -> tuple[int, int]:
    """Rows (DPO: pairs) of a process and forward pass, and forward passes of a step."""
    world = PartialState().num_processes
    rows = stage.batch_size * (stage.group_size if isinstance(stage, Grpo) else 1)
    if rows % world:
        raise UserError(f"a global batch of {rows} rows cannot be shared by {world} processes.", at=(*at, "batch_size"))
    share = rows // world
    most = 4 if isinstance(stage, Dpo) else 16 if isinstance(stage, TokenClassification) else 8
    micro = stage.micro_batch_size or max(m for m in range(1, min(most, share) + 1) if share % m == 0)
    if share % micro:
        raise UserError(f"{micro} does not divide the {share} rows of a process.", at=(*at, "micro_batch_size"))
    return micro, share // micro


def trainer_config(
    job: Job, recipe: Recipe, folder: Path, template: Mapping[str, Any], sampling: dict[str, Any], *, packed: bool
) -> Any:
    """TRL's config of a stage.

    `template` are the arguments of the chat template, `sampling` the options of `vllm_sampling`. `packed`: TRL joins
    the rows of a pass into one sequence, in which positions restart with every row.
    """
    stage = job.stage
    options = _shared_options(job, recipe, folder)
    if isinstance(stage, Grpo):
        options |= {
            "steps_per_generation": stage.updates_per_generation * options["gradient_accumulation_steps"],
            "shuffle_dataset": False,  # the rows come in the order of `batches.layout`
            "num_generations": stage.group_size,
            "max_completion_length": stage.max_completion_length,
            "temperature": stage.temperature,
            "scale_rewards": stage.scale_rewards,
            "reward_weights": [reward.weight for reward in job.all_rewards],
            "chat_template_kwargs": template,
            "disable_dropout": True,  # with it, policy and reference would differ before the first update
        }
    elif isinstance(stage, TokenClassification):
        options |= {"train_sampling_strategy": "sequential", "label_names": ["labels"]}
        options["gradient_checkpointing"] = bool(stage.gradient_checkpointing)
    elif isinstance(stage, Distill):
        options |= {
            "shuffle_dataset": False,  # the rows come in the order of `batches.stratified`
            "max_completion_length": stage.max_completion_length,
            "temperature": stage.temperature,
            "chat_template_kwargs": template,
            "disable_dropout": True,
        }
    else:  # rows that are too long were dropped and counted by the plan; nothing is cut here
        options |= {"max_length": None, "train_sampling_strategy": "sequential"}
    if packed:
        options["padding_free"] = True
    if isinstance(stage, Dpo | Grpo):
        options["beta"] = stage.beta
    return CONFIGS[stage.method](**options | dict(own_options(stage)[1]) | sampling)


def _shared_options(job: Job, recipe: Recipe, folder: Path) -> dict[str, Any]:
    stage, steps, kind = job.stage, job.steps, precision(recipe.model)
    micro, accumulate = micro_batch(stage)
    # A launcher's config file may have put another precision here, and it would win over the arguments below.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if kind == "fp32" else kind
    # Whole generations only: a checkpoint does not hold what is left of one.
    unit = stage.updates_per_generation if isinstance(stage, Grpo) else 1
    constant = "constant_with_warmup" if stage.warmup else "constant"
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": accumulate,
        "max_steps": steps,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": constant if stage.schedule == "constant" else stage.schedule,
        "warmup_steps": math.ceil(stage.warmup * steps),
        "weight_decay": stage.weight_decay,
        "seed": recipe.seed,
        "bf16": kind == "bf16",
        "fp16": kind == "fp16",
        "use_cpu": not on_gpu(),
        "gradient_checkpointing": on_gpu() if stage.gradient_checkpointing is None else stage.gradient_checkpointing,
        "logging_steps": max(1, steps // 100) if stage.method in ("sft", "token_classification") else 1,
        "save_steps": stage.save_every or unit * max(1, steps // (10 * unit)),
        "save_total_limit": None,  # checkpoints.py drops the old ones
        "logging_nan_inf_filter": False,  # it would hide a loss that is not finite
        "report_to": list(recipe.report_to) or "none",
        "run_name": tracking.run_name(recipe, stage, folder.parent),
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu(),
        "ddp_find_unused_parameters": False,
        "push_to_hub": False,
    }
