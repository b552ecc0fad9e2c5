"""Joining the rows of a pass into one sequence: where attention keeps them apart, and whether it does.

TRL's collator joins the `micro_batch_size` rows of a pass, with positions that restart in every row (`padding_free`),
so an optimizer step has the rows that it has without. On a CPU, `speedups.padding_free` does the same below TRL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers.utils.generic import is_flash_attention_requested

from adapters.backends.local import sharding
from adapters.backends.local.kernels import RECURRENT
from adapters.backends.local.model import on_gpu
from adapters.errors import KeyPath, UserError
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Supervised

NEEDS = (
    "on a GPU, model.attention: flash_attention_2 or flash_attention_3 keeps joined rows apart; on a CPU, "
    "model.attention: sdpa with model.speedups and without gradient_checkpointing"
)


def check(recipe: Recipe, stage: Supervised, layers: Sequence[str], at: KeyPath) -> None:
    """Raise UserError where nothing would keep joined rows apart. `layers`: the base's layer types, if known."""
    if mixing := sorted({kind for kind in layers if kind in RECURRENT}):
        raise UserError(
            f"a row would see the rows before it through the base's {mixing[0]} layers; leave packing out.", at=at
        )
    attention = recipe.model.attention
    if on_gpu():
        apart = is_flash_attention_requested(requested_attention_implementation=attention)
    else:
        apart = attention in ("auto", "sdpa") and recipe.model.speedups and not stage.gradient_checkpointing
    if not apart:
        raise UserError(f"here a row would see the rows before it: {NEEDS}. Leave packing out, or set these.", at=at)


def verify(trainer: Any, rows: Sequence[Mapping[str, Any]], at: KeyPath) -> None:
    """Raise UserError when the model gives two rows other hidden states joined than alone."""
    # On a CPU the model has come here because `speedups.padding_free` refused it; on a GPU, recurrent layers, positions
    # of a model's own, or an attention without boundaries would mix the rows without a word.
    if not on_gpu() or not rows_stay_apart(trainer, rows):
        raise UserError(
            f"with this base the rows of a joined pass are not kept apart; leave packing out. For most, {NEEDS}.",
            at=at,
        )


@torch.no_grad()
def rows_stay_apart(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the last hidden states of joined rows are those of each row alone, up to rounding."""
    accelerator = trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    backbone, training = model.get_base_model().base_model, model.training
    model.to(accelerator.device).eval()

    def states(some: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        batch = send_to_device(trainer.data_collator(list(some)), accelerator.device)
        batch.pop("labels")
        hidden: torch.Tensor = backbone(**batch, use_cache=False).last_hidden_state[0].float()
        return hidden

    try:
        with sharding.not_yet(trainer), accelerator.autocast():
            joined, alone = states(rows), torch.cat([states([row]) for row in rows])
    except ValueError:  # transformers refuses row boundaries where a kernel cannot keep them
        return False
    finally:
        model.train(training)
    exact = accelerator.mixed_precision == "no" and next(backbone.parameters()).dtype == torch.float32
    return bool((joined - alone).norm() < (1e-3 if exact else 2e-2) * alone.norm())
