"""How far the policy has moved from the one that sampled a generation, in the log of every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from trl import GRPOTrainer


def log_importance_ratio(trainer: GRPOTrainer) -> None:
    """Log mean and largest importance ratio of each step: a token's probability now by that at its sampling.

    TRL itself logs only the shares of the tokens whose ratio it clips (`clip_ratio/…`).
    """
    compute_loss, score = trainer._compute_loss, trainer._get_per_token_logps_and_entropies
    scored: list[torch.Tensor] = []

    def score_and_keep(*args: Any, **kwargs: Any) -> Any:
        out = score(*args, **kwargs)
        scored[:] = [out[0].detach()]
        return out

    def loss_and_ratio(model: Any, inputs: Mapping[str, Any]) -> Any:
        loss = compute_loss(model, inputs)
        if (sampled := inputs.get("old_per_token_logps")) is not None:
            mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
            _log(trainer, torch.exp((scored[0] - sampled) * mask), mask)
        scored.clear()
        return loss

    trainer._get_per_token_logps_and_entropies, trainer._compute_loss = score_and_keep, loss_and_ratio


def _log(trainer: GRPOTrainer, ratio: torch.Tensor, mask: torch.Tensor) -> None:
    accelerator, figures = trainer.accelerator, trainer._metrics["train"]
    total, tokens = accelerator.reduce(
        torch.stack([(ratio * mask).sum(), mask.sum().float()]), reduction="sum"
    ).tolist()
    largest = accelerator.gather((ratio * mask).max()).max().item()
    figures["importance_ratio/mean"].append(total / max(1.0, tokens))
    # TRL logs the mean over a step's passes, which of a maximum is none.
    figures["importance_ratio/max"] = [max([*figures["importance_ratio/max"], largest])]
