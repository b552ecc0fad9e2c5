"""DPO on the service, which computes log-probabilities; the loss is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.backends.batches import layout
from adapters.backends.figures import DPO_FIGURES, dpo_figures
from adapters.backends.tinker.cost import Tokens
from adapters.backends.tinker.objectives import TrainRow, answer_logprobs, answer_row, dpo_loss, micro_batches
from adapters.backends.tinker.service import Pending, Sampler, logprobs_of
from adapters.backends.tinker.stage import HostedStage
from adapters.files import read_jsonl
from adapters.types import Example

Side = tuple[list[int], list[int]]
"""Tokens of a prompt and of an answer. A batch lists the chosen and the rejected side of each pair in turn."""


def _pairs(run: HostedStage, examples: Sequence[Example]) -> list[tuple[Side, Side]]:
    return [((prompt, chosen), (prompt, rejected)) for prompt, chosen, rejected in run.encoder.tokens(examples)]


def _tokens(batch: Sequence[Side]) -> int:
    return sum(len(prompt + answer) for prompt, answer in batch)


def _rows(batch: Sequence[Side]) -> list[TrainRow]:
    return [answer_row(prompt, answer, {"weights": [1] * len(answer)}) for prompt, answer in batch]


def _ask(reference: Sampler, batch: Sequence[Side]) -> list[Pending]:
    return [reference.logprobs(prompt + answer) for prompt, answer in batch]


def _sums(logprobs: Sequence[Sequence[float]], batch: Sequence[Side]) -> list[float]:
    """Log-probability of each side, summed over the answer's tokens."""
    return [sum(answer_logprobs(row, len(prompt))) for row, (prompt, _) in zip(logprobs, batch, strict=True)]


def train_dpo(run: HostedStage, stage: Any) -> dict[str, Any]:
    """Train one DPO stage. Returns first, last and held-out figures."""
    job = run.job
    pairs = _pairs(run, job.examples)
    lengths = [max(len(prompt + answer) for prompt, answer in pair) for pair in pairs]
    order = layout(lengths, stage.batch_size, job.steps, run.recipe.seed, by_length=stage.group_by_length)
    batches = [[side for i in rows for side in pairs[i]] for rows in micro_batches(order, stage.batch_size)]
    reference = run.reference(stage.reference)

    def ask(step: int) -> list[Pending]:
        run.spend(Tokens(prefill=_tokens(batches[step - 1])))
        return _ask(reference, batches[step - 1])

    pending: list[Pending] | None = None
    for step in range(run.done + 1, job.steps + 1):
        batch = batches[step - 1]
        # The custom loss costs a forward pass besides the one of training.
        need = _tokens(batch)
        run.account.allow(Tokens(prefill=2 * need, train=need))
        sums = _sums([p.result()[1:] for p in pending or ask(step)], batch)
        run.spend(Tokens(prefill=need, train=need))
        size = 2 * (stage.micro_batch_size or stage.batch_size)
        passes, measures = [], []
        for micro, fixed in zip(micro_batches(batch, size), micro_batches(sums, size), strict=True):
            loss, measure = _loss(micro, fixed, stage.beta, len(micro) / len(batch))
            passes.append(run.run.learn_custom(_rows(micro), loss))
            measures.append(measure)
        run.submit(step, passes, _averaged(measures))
        pending = ask(step + 1) if step < job.steps else None
        run.settle(keep=1)
    run.settle()
    return _summary(run, stage, reference)


def _loss(batch: Sequence[Side], reference: Sequence[float], beta: float, share: float) -> tuple[Any, dict[str, float]]:
    """The loss of one pass in the SDK's form, and the figures that its call fills in."""
    figures = {"share": share}

    def loss(logprobs: list[Any]) -> Any:
        import torch

        sums = torch.stack([row[len(prompt) - 1 :].sum() for row, (prompt, _) in zip(logprobs, batch, strict=True)])
        fixed = torch.tensor(reference, dtype=sums.dtype)
        value, measured = dpo_loss(sums[::2], sums[1::2], fixed[::2], fixed[1::2], beta)
        figures.update({"loss": float(value.detach()), **measured})
        return share * value

    return loss, figures


def _averaged(measures: Sequence[Mapping[str, float]]) -> Any:
    def measure(_: list[Any]) -> Mapping[str, float]:
        return {logged: sum(m["share"] * m[name] for m in measures) for name, logged in DPO_FIGURES.items()}

    return measure


def _summary(run: HostedStage, stage: Any, reference: Sampler) -> dict[str, Any]:
    figures: dict[str, Any] = {"steps": run.done, **dpo_figures(read_jsonl(run.log))}
    if run.job.validation:
        import torch

        batch = [side for pair in _pairs(run, run.job.validation) for side in pair]
        run.spend(Tokens(prefill=2 * _tokens(batch)))
        pending, own = _ask(reference, batch), run.run.forward(_rows(batch))
        fixed = torch.tensor(_sums([p.result()[1:] for p in pending], batch))
        sums = torch.tensor(_sums(logprobs_of(own.result()), batch))
        value, measured = dpo_loss(sums[::2], sums[1::2], fixed[::2], fixed[1::2], stage.beta)
        figures |= {f"{name}_held_out": v for name, v in {"loss": float(value), **measured}.items()}
    return figures
