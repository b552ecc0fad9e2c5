"""DPO through TRL's trainer, on the adapter that all stages train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset
from trl import DPOTrainer

from adapters.backends.figures import DPO_FIGURES, dpo_figures
from adapters.backends.local import sharding
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.training import LocalStage, dataset, release, set_reference, verify_reference
from adapters.console import phase
from adapters.recipe.stages import Dpo
from adapters.types import Example, Progress


def train_dpo(run: LocalStage, stage: Dpo) -> dict[str, Any]:
    """Train one DPO stage; the reference's log-probabilities are computed once.

    Returns loss, margin, accuracy and both rewards of the first and the last tenth of the steps, and of held-out pairs.
    """
    # The trainer would tokenize prompt and completion as one text and search for the seam, and end completions with
    # the tokenizer's end token, which need not be the template's. So it is made with a pair that is replaced below;
    # its seam is one of tokens, or run.log would warn of it.
    trainer = run.trainer(DPOTrainer, Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]))
    set_reference(run.model, stage.reference)
    verify_reference(run.model, stage.reference)
    phase("measuring the reference")
    with sharding.not_yet(trainer):
        rows = _with_reference(trainer, _pairs(run.encoder, run.job.examples), run.progress)
        if run.job.validation:
            trainer.eval_dataset = _with_reference(trainer, _pairs(run.encoder, run.job.validation), run.progress)
    trainer.train_dataset = rows.select(run.order(rows["length"]))
    trainer.precompute_ref_logps = True
    # Its log-probabilities are all that is needed of the reference; checkpoints then hold one adapter.
    run.model.delete_adapter("ref")
    state = run.train(trainer)
    figures: dict[str, Any] = {"steps": state.global_step, **dpo_figures(state.log_history)}
    if run.job.validation:
        phase("measuring after training")
        held_out = trainer.evaluate()
        figures |= {f"{name}_held_out": held_out[f"eval_{key}"] for name, key in DPO_FIGURES.items()}
    release(trainer)
    return figures


def _pairs(encoder: Encoder, examples: Sequence[Example]) -> Dataset:
    # The context of both sides is exactly inference's prompt, and both learn the end token.
    return dataset(
        examples,
        lambda block: (
            {"prompt_ids": p, "chosen_ids": c, "rejected_ids": r, "length": len(p) + max(len(c), len(r))}
            for p, c, r in encoder.tokens(block)
        ),
    )


def _with_reference(trainer: DPOTrainer, rows: Dataset, progress: Progress) -> Dataset:
    """The rows with the reference's log-probabilities, computed by all processes."""
    # TRL's own precomputation keeps them in a cache file whose path differs between processes for data in memory.
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
