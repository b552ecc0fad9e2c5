"""DPO through TRL's trainer, on the one adapter that is carried through the stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from accelerate.utils import gather_object
from datasets import Dataset
from peft import PeftModel
from trl import DPOConfig, DPOTrainer

from adapters.backends.batches import layout
from adapters.backends.jobs import Job
from adapters.backends.local import deepspeed
from adapters.backends.local.model import Encoder
from adapters.backends.local.speedups.padding_free import in_use
from adapters.backends.local.trainer_args import options
from adapters.backends.local.training import callbacks, only_our_progress, release, set_reference, train_to_the_end
from adapters.console import phase
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Dpo
from adapters.types import Example, Progress

STAND_IN: Final = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
FIGURES: Final = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
}
"""Name in the manifest -> name in TRL's log. Rewards are beta times the log ratio of policy and reference."""


def train_dpo(
    model: PeftModel, encoder: Encoder, job: Job, stage: Dpo, recipe: Recipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """One DPO stage against the start, the base or a path, whose log-probabilities are computed once, at the start.

    Returns loss, margin, accuracy and both rewards of the first and the last tenth of the steps, and of held-out pairs.
    """
    args = DPOConfig(
        **options(stage, recipe, folder, job),
        beta=stage.beta,
        max_length=None,  # over-long pairs were dropped and counted by the plan; nothing is cut here
        train_sampling_strategy="sequential",
    )
    trainer = DPOTrainer(
        model=model,
        args=args,
        # The trainer would tokenize prompt and completion as one text and search for the seam, and end completions
        # with the tokenizer's end token, which need not be the template's. It gets ready tokens below.
        train_dataset=Dataset.from_list(STAND_IN),
        processing_class=encoder.tokenizer,
        callbacks=callbacks(job, folder, progress),
    )
    only_our_progress(trainer)
    set_reference(trainer.accelerator.unwrap_model(trainer.model), stage.reference)
    phase("measuring the reference")
    with deepspeed.not_yet(trainer):
        rows = _with_reference(trainer, _pairs(encoder, job.examples), progress)
    by_length = stage.group_by_length and not in_use(model)
    order = layout(rows["length"], stage.batch_size, job.steps, recipe.seed, by_length=by_length)
    trainer.train_dataset = rows.select(order)
    if job.validation:
        with deepspeed.not_yet(trainer):
            trainer.eval_dataset = _with_reference(trainer, _pairs(encoder, job.validation), progress)
    trainer.precompute_ref_logps = True
    # Its log-probabilities are all that is needed of the reference; checkpoints then hold one adapter.
    model.delete_adapter("ref")
    state = train_to_the_end(trainer, folder, job.steps)
    log = [entry for entry in state.log_history if FIGURES["margin"] in entry]
    figures: dict[str, Any] = {"steps": state.global_step}
    if log:
        last = log[-max(1, len(log) // 10) :]
        for name, key in FIGURES.items():
            figures |= {f"{name}_first": log[0][key], f"{name}_last": sum(e[key] for e in last) / len(last)}
    if job.validation:
        phase("measuring after training")
        held_out = trainer.evaluate()
        figures |= {f"{name}_held_out": held_out[f"eval_{key}"] for name, key in FIGURES.items()}
    release(trainer)
    return figures


def _pairs(encoder: Encoder, examples: Sequence[Example]) -> Dataset:
    """Ready tokens: the context of both sides is exactly inference's prompt, and both learn the end token."""
    prompts = encoder.prompts([e.prompt for e in examples])
    chosen = encoder.completions([e.completion or "" for e in examples])
    rejected = encoder.completions([e.rejected or "" for e in examples])
    return Dataset.from_dict(
        {
            "prompt_ids": prompts,
            "chosen_ids": chosen,
            "rejected_ids": rejected,
            "length": [len(p) + max(len(c), len(r)) for p, c, r in zip(prompts, chosen, rejected, strict=True)],
        }
    )


def _with_reference(trainer: DPOTrainer, rows: Dataset, progress: Progress) -> Dataset:
    """The rows with the reference's log-probabilities (sums over a completion's tokens), shared among the processes.

    TRL's own precomputation keeps them in a cache file whose path differs between processes for data in memory.
    """
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    model.to(accelerator.device).eval()  # under DeepSpeed nothing has moved the model before the training starts
    size = trainer.args.per_device_eval_batch_size
    order = sorted(range(len(rows)), key=lambda i: -rows[i]["length"])
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    mine: list[tuple[int, float, float]] = []
    for n, batch in enumerate(batches[accelerator.process_index :: accelerator.num_processes]):
        inputs = trainer.data_collator([rows[i] for i in batch])
        sides = trainer.compute_ref_log_probs(model, {k: v.to(accelerator.device) for k, v in inputs.items()})
        mine += zip(batch, *(side.tolist() for side in sides), strict=True)
        progress(min((n + 1) * accelerator.num_processes, len(batches)), len(batches), {})
    model.train()
    everyone = sorted(gather_object(mine) if accelerator.num_processes > 1 else mine)
    _, chosen, rejected = zip(*everyone, strict=True)
    return rows.add_column("ref_chosen_logps", list(chosen)).add_column("ref_rejected_logps", list(rejected))
