"""The arithmetic of hosted training, without the service: rows, advantages, losses, schedules.

The service sums every loss over tokens and rows and knows no KL, no normalisation and no schedule; all of that is put
into the numbers sent with the tokens, here. Where TRL and the service can be made to agree, these functions make them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainRow:
    """One sequence as the service trains on it: inputs, the next token at each place, and numbers for each place.

    Every column of `columns` has as many entries as `tokens` and `targets`.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    columns: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        if not self.tokens:
            raise ValueError("a row needs at least two tokens")
        for name, values in {"targets": self.targets, **self.columns}.items():
            if len(values) != len(self.tokens):
                raise ValueError(f"{name} has {len(values)} entries for {len(self.tokens)} tokens")
            # A server may train on what is not a number without a word.
            if not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name} holds a number that is not finite")


def answer_row(prompt: Sequence[int], answer: Sequence[int], columns: Mapping[str, Sequence[float]]) -> TrainRow:
    """A prompt with its answer, shifted by one; each column has one number per answer token, 0 stands elsewhere."""
    if not prompt or not answer:
        raise ValueError("a row needs a prompt and an answer")
    for name, values in columns.items():
        if len(values) != len(answer):
            raise ValueError(f"{name} has {len(values)} numbers for an answer of {len(answer)} tokens")
    whole = (*prompt, *answer)
    rest = (0.0,) * (len(prompt) - 1)
    return TrainRow(whole[:-1], whole[1:], {name: (*rest, *map(float, values)) for name, values in columns.items()})


def sft_rows(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[TrainRow]:
    """Rows whose summed cross-entropy is the mean negative log-likelihood per answer token of this batch."""
    scale = 1 / sum(map(len, answers))
    return [answer_row(p, a, {"weights": [scale] * len(a)}) for p, a in zip(prompts, answers, strict=True)]


def answer_logprobs(logprobs: Sequence[float], prompt: int) -> list[float]:
    """The answer's part of a row's log-probabilities; `prompt` is the prompt's length in tokens."""
    return list(logprobs[prompt - 1 :])


def group_advantages(rewards: Sequence[Sequence[float | None]], scale: str) -> list[list[float]]:
    """Rewards minus their group's mean, divided by the deviation of the group, of the batch, or not at all.

    As TRL does it: sample deviation plus 1e-4; what could not be scored (None) is left out of mean and deviation and
    gets 0.
    """
    known = [[r for r in group if r is not None] for group in rewards]
    everything = _deviation([r for group in known for r in group])
    out = []
    for group, scored in zip(rewards, known, strict=True):
        mean = sum(scored) / len(scored) if scored else 0.0
        by = {"group": _deviation(scored) + 1e-4, "batch": everything + 1e-4, "none": 1.0}[scale]
        out.append([0.0 if r is None else (r - mean) / by for r in group])
    return out


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))


def weighted_reward(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted sum of the rewards that apply; None when none does."""
    known = [s * w for s, w in zip(scores, weights, strict=True) if s is not None]
    return sum(known) if known else None


def fold_kl(advantage: float, policy: Sequence[float], reference: Sequence[float], beta: float) -> list[float]:
    """Token advantages with the KL to the reference in them: A - beta (log pi - log pi_ref), no gradient through it.

    On the policy that sampled, the gradient of this is that of TRL's KL term, whose k3 estimate is corrected by the
    probability ratio: d(r k3) = (log pi - log pi_ref) d log pi at r = 1.
    """
    return [advantage - beta * (p - r) for p, r in zip(policy, reference, strict=True)]


def kl_estimate(policy: Sequence[float], reference: Sequence[float]) -> float:
    """Sum over tokens of the k3 estimate exp(d) - d - 1, d = log pi_ref - log pi (Schulman 2020); never negative."""
    return sum(math.exp(min(r - p, 50.0)) - (r - p) - 1 for p, r in zip(policy, reference, strict=True))


def dpo_loss(
    chosen: Any, rejected: Any, chosen_reference: Any, rejected_reference: Any, beta: float
) -> tuple[Any, dict[str, float]]:
    """Mean of -log sigmoid(beta (policy log-ratio - reference log-ratio)) over pairs (Rafailov et al. 2023, eq. 7).

    Arguments are 1-D tensors of summed log-probabilities, an entry a pair. The figures are `accuracy` (share of pairs
    whose chosen side is preferred), `margin` and the two implicit rewards, means over pairs.
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
    """Learning rate of 1-based `step`, as transformers' schedulers have it: warm up, then constant, line or cosine."""
    done, warm = step - 1, math.ceil(warmup * steps)
    if done < warm:
        return peak * done / max(1, warm)
    share = (done - warm) / max(1, steps - warm)
    if schedule == "linear":
        return peak * max(0.0, 1 - share)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * share))
    return peak


def parts(rows: Sequence[TrainRow], size: int | None) -> Iterator[Sequence[TrainRow]]:
    """The rows of one optimizer step in passes of `size` (all at once when None); gradients add up over passes."""
    size = size or len(rows)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
