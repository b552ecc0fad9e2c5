"""SFT and GRPO through TRL's trainers."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils as trl_utils
from accelerate import PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerState
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from adapters.backends.batches import layout
from adapters.backends.jobs import Job
from adapters.backends.local import deepspeed
from adapters.backends.local.checkpoints import Checkpoints, last_good, rewind
from adapters.backends.local.health_callback import HealthWatch
from adapters.backends.local.model import Encoder, mismatch, on_gpu
from adapters.backends.local.speedups.grpo import grpo_speedups
from adapters.backends.local.speedups.padding_free import in_use
from adapters.backends.local.trainer_args import options
from adapters.backends.local.trl_reward import TrlReward
from adapters.console import phase
from adapters.errors import UserError
from adapters.files import append_jsonl
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Grpo, Sft
from adapters.types import Progress

# The name is TRL's own business, which is why the supported TRL is one minor version (pyproject.toml).
_on_triton = trl_utils._use_triton


def _score_targets_only(device: torch.device) -> bool:
    # TRL's fused head skips prompt positions on Triton devices and projects every position elsewhere, because some
    # compilers want static shapes. Eager CPU code does not; with short targets this saves a fifth of the step.
    return device.type == "cpu" or bool(_on_triton(device))


trl_utils._use_triton = _score_targets_only


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports progress, writes the metrics log, checks the reference at step 1."""

    def __init__(self, job: Job, log: Path, progress: Progress) -> None:
        self.job, self.log, self.progress = job, log, progress
        self.last: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the step at which the training starts or continues."""
        self.last["resumed"] = state.global_step
        self.on_step_end(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the progress display."""
        self.progress(state.global_step, state.max_steps, self.last)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Append the figures to the stage's log.

        Raises RuntimeError when the reference should be the start and is not.
        """
        figures = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
        if state.is_world_process_zero:
            append_jsonl(self.log, [{"step": state.global_step, **figures}])
        self.last.update(figures)
        stage = self.job.stage
        if state.global_step == 1 and not isinstance(stage, Sft) and stage.reference == "start":
            # Policy and reference are the same weights before the first update. Half a nat is what bf16 may make of
            # the sums over a completion when the two were computed in batches of different widths.
            zero = {"rewards/margins": 0.5 * stage.beta, "rewards/chosen": 0.5 * stage.beta} | {"kl": 1e-3}
            for name in zero.keys() & figures.keys():
                if not abs(figures[name]) < zero[name]:
                    what = "KL" if name == "kl" else name
                    raise RuntimeError(
                        f"the reference is not the starting adapter: first {what} is {figures[name]:g}, not 0"
                    )


def train_sft(
    model: PeftModel, encoder: Encoder, job: Job, stage: Sft, recipe: Recipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Train one SFT stage. Returns its steps, and NLL per token before and after.

    `folder` keeps the trainer's checkpoints.
    """
    phase("tokenising")
    rows = _tokens(encoder, job.examples)
    by_length = stage.group_by_length and not in_use(model)
    order = layout(rows["length"], stage.batch_size, job.steps, recipe.seed, by_length=by_length)
    args = SFTConfig(
        **options(stage, recipe, folder, job),
        max_length=None,  # over-long rows were dropped and counted by the plan; nothing is cut here
        train_sampling_strategy="sequential",
    )
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows.select(order),
        processing_class=encoder.tokenizer,
        callbacks=callbacks(job, folder, progress),
    )
    only_our_progress(trainer)
    held_out = _tokens(encoder, job.validation) if job.validation else None
    phase("measuring before training")
    with deepspeed.not_yet(trainer):
        before = nll(trainer, held_out, progress) if held_out and not last_good(folder) else None
    if before is not None:
        (folder.parent / "nll_before.json").write_text(json.dumps(before))
    state = train_to_the_end(trainer, folder, job.steps)
    stored = folder.parent / "nll_before.json"
    figures: dict[str, Any] = {"steps": state.global_step}
    if held_out:
        figures["nll_before"] = json.loads(stored.read_text()) if stored.is_file() else None
        phase("measuring after training")
        figures["nll_after"] = nll(trainer, held_out, progress)
    release(trainer)
    return figures


def train_grpo(
    model: PeftModel, encoder: Encoder, job: Job, stage: Grpo, recipe: Recipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Train one GRPO stage. Returns its steps, first KL, rewards and zero variance.

    The KL reference is set as the recipe names it, and checked at the first step.
    """
    shared = options(stage, recipe, folder, job)
    args = GRPOConfig(
        **shared,
        steps_per_generation=shared["gradient_accumulation_steps"],
        num_generations=stage.group_size,
        max_completion_length=stage.max_completion_length,
        temperature=stage.temperature,
        beta=stage.beta,
        scale_rewards=stage.scale_rewards,
        reward_weights=[r.weight for r in job.rewards],
        chat_template_kwargs=encoder.template,
        disable_dropout=True,  # with it, policy and reference would differ before the first update
    )
    rollouts = folder.parent / f"rollouts-{PartialState().process_index}.jsonl"
    # Gold goes by row number: Arrow would rewrite nested labels (missing keys come back as null).
    rows = Dataset.from_list([{"prompt": list(e.prompt), "row": n} for n, e in enumerate(job.examples)])
    trainer = GRPOTrainer(
        model=model,
        args=args,
        reward_funcs=[TrlReward(r, job.examples, rollouts) for r in job.rewards],
        train_dataset=rows,
        processing_class=encoder.tokenizer,
        callbacks=callbacks(job, folder, progress),
    )
    only_our_progress(trainer)
    if stage.beta:
        set_reference(trainer.accelerator.unwrap_model(trainer.model), stage.reference)
    with grpo_speedups(model, args) if recipe.model.speedups else nullcontext():
        state = train_to_the_end(trainer, folder, job.steps)
    log = [entry for entry in state.log_history if "reward" in entry]
    figures: dict[str, Any] = {"steps": state.global_step}
    if log:
        figures["first_kl"] = log[0].get("kl")
        figures |= {"reward_first": log[0]["reward"], "reward_last": log[-1]["reward"]}
        figures["zero_variance_share"] = sum(e.get("frac_reward_zero_std", 0.0) for e in log) / len(log)
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    release(trainer)
    return figures


def set_reference(model: PeftModel, reference: str) -> None:
    """TRL copied the starting adapter into "ref"; make it what the recipe names."""
    if reference == "start":
        return
    if reference == "base":
        for name, parameter in model.named_parameters():
            if ".lora_B.ref." in name:
                parameter.data.zero_()  # a zero B makes the adapter the base itself
        return
    set_peft_model_state_dict(model, load_file(Path(reference) / "adapter_model.safetensors"), adapter_name="ref")
    if problem := mismatch(model, Path(reference), "ref"):
        raise UserError(f"the reference {reference} does not fit this adapter: {problem}")


def callbacks(job: Job, folder: Path, progress: Progress) -> list[TrainerCallback]:
    """The callbacks of every stage's trainer; `folder` holds its checkpoints."""
    return [Watch(job, folder.parent / "log.jsonl", progress), HealthWatch(job.stage.health), Checkpoints()]


def train_to_the_end(trainer: Any, folder: Path, steps: int) -> TrainerState:
    """Train all steps, from the newest valid checkpoint if there is one."""
    phase("training")
    deepspeed.verify_gathered(trainer)
    checkpoint = last_good(folder)
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    # A record of step n is logged at its end, and its rollouts are written while n - 1 steps are done.
    rewind(folder.parent / f"rollouts-{PartialState().process_index}.jsonl", step)
    if PartialState().is_main_process:
        rewind(folder.parent / "log.jsonl", step + 1)
    if checkpoint and step >= steps:
        # Died after the last step: the trainer itself would take one more before it notices.
        weights = load_file(checkpoint / "adapter_model.safetensors")
        set_peft_model_state_dict(trainer.accelerator.unwrap_model(trainer.model), weights, adapter_name="default")
        return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.state


def _tokens(encoder: Encoder, examples: Sequence[Any]) -> Dataset:
    """Token ids, labels and lengths of the rows.

    TRL's own preparation is skipped, so that prompt and mask are those of inference.
    """
    prompts = encoder.prompts([e.prompt for e in examples])
    answers = encoder.completions([e.completion for e in examples])
    return Dataset.from_dict(
        {
            "input_ids": [p + a for p, a in zip(prompts, answers, strict=True)],
            "labels": [[-100] * len(p) + a for p, a in zip(prompts, answers, strict=True)],
            "length": [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)],
        }
    )


def nll(trainer: SFTTrainer, rows: Dataset, progress: Progress) -> float:
    """Mean negative log-likelihood per target token over all rows, in nats."""
    accelerator = trainer.accelerator
    model = trainer.model_wrapped if trainer.model_wrapped is not trainer.model else trainer.model
    order = sorted(range(len(rows)), key=lambda i: rows[i]["length"])
    size = trainer.args.per_device_eval_batch_size
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    total = torch.zeros(2, dtype=torch.float64)
    model.to(accelerator.device).eval()  # under DeepSpeed nothing has moved the model before the training starts
    with torch.no_grad():
        # Every process runs the same number of forwards, which sharded models need; the padding ones count nothing.
        for n in range(math.ceil(len(batches) / accelerator.num_processes)):
            mine = n * accelerator.num_processes + accelerator.process_index
            batch = trainer.data_collator(
                [{k: rows[i][k] for k in ("input_ids", "labels")} for i in batches[min(mine, len(batches) - 1)]]
            )
            batch = {k: v.to(accelerator.device) for k, v in batch.items()}
            with accelerator.autocast():
                out = model(**batch, fused_lm_head=True)
            if mine < len(batches):
                total += torch.tensor([-out.log_probs.double().sum().item(), float(out.label_mask.sum().item())])
            progress(min((n + 1) * accelerator.num_processes, len(batches)), len(batches), {})
    model.train()
    total = accelerator.reduce(total.float().to(accelerator.device), reduction="sum").cpu()
    value = float(total[0] / total[1])
    progress(len(batches), len(batches), {"nll": value})
    return value


def only_our_progress(trainer: Any) -> None:
    """Remove the trainer's own progress bar and printing."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


def release(trainer: Any) -> None:
    """Free the stage's memory before the next one starts."""
    trainer.accelerator.free_memory()
    trainer.optimizer = trainer.lr_scheduler = trainer.model = trainer.model_wrapped = None
    AcceleratorState._reset_state(reset_partial_state=False)
    deepspeed.forget()
    gc.collect()
    if on_gpu():
        torch.accelerator.empty_cache()
