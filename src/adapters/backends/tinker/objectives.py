"""Arithmetic of hosted training: rows, advantages, losses, schedules.

The service sums every loss over tokens and rows and has no KL, normalisation or schedule. These functions put them into
the numbers that are sent with the tokens, so that results agree with TRL where possible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One training sequence: inputs, next tokens, and columns of numbers as long."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    columns: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ValueError("a row needs at least two tokens")
        for name, values in {"targets": self.targets, **self.columns}.items():
            if len(values) != len(self.tokens):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.tokens)} tokens")
            # A server may train on NaN without an error.
            if not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name} holds a number that is not finite")


def answer_row(prompt: Sequence[int], answer: Sequence[int], columns: Mapping[str, Sequence[float]]) -> TrainRow:
    """A prompt with its answer, shifted by one; columns have a number an answer token."""
    if not prompt or not answer:
        raise ValueError("a row needs a prompt and an answer")
    for name, values in columns.items():
        if len(values) != len(answer):
            raise ValueError(f"{name} has {len(values)} numbers for an answer of {len(answer)} tokens")
    tokens = (*prompt, *answer)
    padding = (0.0,) * (len(prompt) - 1)
    return TrainRow(
        tokens[:-1], tokens[1:], {name: (*padding, *map(float, values)) for name, values in columns.items()}
    )


def sft_rows(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TrainRow]:
    """Rows of (ids, labels) whose summed cross-entropy is the batch's mean NLL per learned token (label not -100)."""
    scale = 1 / sum(label != -100 for _, labels in rows for label in labels)
    return [
        TrainRow(tuple(ids[:-1]), tuple(ids[1:]), {"weights": tuple(scale * (n != -100) for n in labels[1:])})
        for ids, labels in rows
    ]


def answer_logprobs(logprobs: Sequence[float], prompt: int) -> list[float]:
    """The answer's log-probabilities in a row; `prompt` is the prompt's length."""
    return list(logprobs[prompt - 1 :])


def group_advantages(rewards: Sequence[Sequence[float | None]], scale: str) -> list[list[float]]:
    """Rewards minus their group's mean, scaled as TRL's `scale_rewards` says.

    The divisor is the sample deviation of the group or of the batch plus 1e-4, or 1. Unscored answers (None) count in
    neither mean nor deviation and get 0.
    """
    scored_groups = [[r for r in group if r is not None] for group in rewards]
    batch_deviation = deviation([r for group in scored_groups for r in group])
    advantages = []
    for group, scored in zip(rewards, scored_groups, strict=True):
        mean = sum(scored) / len(scored) if scored else 0.0
        divisor = {"group": deviation(scored) + 1e-4, "batch": batch_deviation + 1e-4, "none": 1.0}[scale]
        advantages.append([0.0 if r is None else (r - mean) / divisor for r in group])
    return advantages


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def weighted_reward(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted sum of the rewards that apply; None when none does."""
    weighted = [s * w for s, w in zip(scores, weights, strict=True) if s is not None]
    return sum(weighted) if weighted else None


def fold_kl(advantage: float, policy: Sequence[float], reference: Sequence[float], beta: float) -> list[float]:
    """Token advantages with the KL term folded in: A - beta (log pi - log pi_ref).

    There is no gradient through the KL term. On the policy that sampled, the gradient of this is that of TRL's KL term,
    whose k3 estimate is corrected by the probability ratio: d(r k3) = (log pi - log pi_ref) d log pi at r = 1.
    """
    return [advantage - beta * (p - r) for p, r in zip(policy, reference, strict=True)]


def kl_estimate(policy: Sequence[float], reference: Sequence[float]) -> float:
    """Sum over tokens of the k3 estimate of the KL (Schulman 2020); never negative.

    k3 = exp(d) - d - 1 with d = log pi_ref - log pi.
    """
    return sum(math.exp(min(r - p, 50.0)) - (r - p) - 1 for p, r in zip(policy, reference, strict=True))


def dpo_loss(
    chosen: Any, rejected: Any, chosen_reference: Any, rejected_reference: Any, beta: float
) -> tuple[Any, dict[str, float]]:
    """The DPO loss (Rafailov et al. 2023, eq. 7), mean over pairs.

    Per pair it is -log sigmoid(beta (policy log-ratio - reference log-ratio)). Arguments are 1-D tensors of summed
    log-probabilities, an entry a pair. The figures are `accuracy` (share of pairs whose chosen side is preferred),
    `margin` and the two implicit rewards, means over pairs.
    """
    import torch

    won = beta * (chosen - chosen_reference)
    lost = beta * (rejected - rejected_reference)
    margin = won - lost
    figures = {
        "accuracy": (margin > 0).float().mean(),
        "margin": margin.mean(),
        "chosen": won.mean(),
        "rejected": lost.mean(),
    }
    loss = -torch.nn.functional.logsigmoid(margin).mean()
    return loss, {name: float(value.detach()) for name, value in figures.items()}


def learning_rate(step: int, steps: int, peak: float, schedule: str, warmup: float) -> float:
    """Learning rate of 1-based `step`, as transformers' schedulers compute it."""
    done, warm = step - 1, math.ceil(warmup * steps)
    if done < warm:
        return peak * done / max(1, warm)
    share = (done - warm) / max(1, steps - warm)
    if schedule == "linear":
        return peak * max(0.0, 1 - share)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    return peak


def micro_batches(rows: Sequence[Row], size: int | None) -> list[Sequence[Row]]:
    """The rows of one optimizer step in micro-batches of `size`, or all at once."""
    size = size or len(rows)
    return [rows[start : start + size] for start in range(0, len(rows), size)]
