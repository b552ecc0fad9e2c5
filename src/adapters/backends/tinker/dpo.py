"""DPO on the service, which computes log-probabilities; the loss is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.backends.batches import layout
from adapters.backends.figures import DPO_FIGURES, dpo_figures
from adapters.backends.tinker.cost import Tokens
from adapters.backends.tinker.objectives import TrainRow, answer_logprobs, answer_row, dpo_loss
from adapters.backends.tinker.service import Pending, Sampler, logprobs_of
from adapters.backends.tinker.stage import HostedStage
from adapters.types import Example


class Pairs:
    """Tokens of preference pairs: prompt, chosen side, rejected side."""

    def __init__(self, run: HostedStage, examples: Sequence[Example]) -> None:
        rows = run.encoder.tokens(examples)
        self.prompts, self.sides = [prompt for prompt, *_ in rows], [sides for _, *sides in rows]

    def tokens(self, batch: Sequence[int]) -> int:
        """Tokens of both sides with their prompts."""
        return sum(2 * len(self.prompts[i]) + sum(map(len, self.sides[i])) for i in batch)

    def rows(self, batch: Sequence[int]) -> list[TrainRow]:
        """Chosen and rejected side of each pair in turn; weights mark the answer."""
        sides = [(self.prompts[i], side) for i in batch for side in self.sides[i]]
        return [answer_row(prompt, side, {"weights": [1] * len(side)}) for prompt, side in sides]

    def ask(self, reference: Sampler, batch: Sequence[int]) -> list[Pending]:
        """Ask the reference for the log-probabilities of both sides of each pair."""
        return [reference.logprobs(self.prompts[i] + side) for i in batch for side in self.sides[i]]

    def starts(self, batch: Sequence[int]) -> list[int]:
        """Length of the prompt before each side."""
        return [len(self.prompts[i]) for i in batch for _ in self.sides[i]]

    def sums(self, logprobs: Sequence[Sequence[float]], batch: Sequence[int]) -> list[float]:
        """Log-probability of each side, summed over the answer's tokens."""
        return [sum(answer_logprobs(row, n)) for row, n in zip(logprobs, self.starts(batch), strict=True)]


def train_dpo(run: HostedStage, stage: Any) -> dict[str, Any]:
    """Train one DPO stage. Returns first, last and held-out figures."""
    job = run.job
    pairs = Pairs(run, job.examples)
    lengths = [len(p) + max(map(len, s)) for p, s in zip(pairs.prompts, pairs.sides, strict=True)]
    order = layout(lengths, stage.batch_size, job.steps, run.recipe.seed, by_length=stage.group_by_length)
    reference = run.reference(stage.reference)
    batches = [order[n * stage.batch_size : (n + 1) * stage.batch_size] for n in range(job.steps)]

    def ask(step: int) -> list[Pending]:
        run.spend(Tokens(prefill=pairs.tokens(batches[step - 1])))
        return pairs.ask(reference, batches[step - 1])

    pending: list[Pending] | None = None
    for step in range(run.done + 1, job.steps + 1):
        batch = batches[step - 1]
        # The custom loss costs a forward pass besides the one of training.
        need = pairs.tokens(batch)
        run.account.allow(Tokens(prefill=2 * need, train=need))
        sums = pairs.sums([p.result()[1:] for p in pending or ask(step)], batch)
        run.spend(Tokens(prefill=need, train=need))
        size = stage.micro_batch_size or len(batch)
        passes, measures = [], []
        for first in range(0, len(batch), size):
            micro = batch[first : first + size]
            reference_sums = sums[2 * first : 2 * (first + size)]
            loss, measure = _loss(reference_sums, stage.beta, len(micro) / len(batch), pairs, micro)
            passes.append(run.run.learn_custom(pairs.rows(micro), loss))
            measures.append(measure)
        run.submit(step, passes, _averaged(measures))
        pending = ask(step + 1) if step < job.steps else None
        run.settle(keep=1)
    run.settle()
    return _summary(run, stage, reference)


def _loss(
    reference: Sequence[float], beta: float, share: float, pairs: Pairs, batch: Sequence[int]
) -> tuple[Any, dict[str, float]]:
    """The loss of one pass in the SDK's form, and the figures that its call fills in."""
    figures = {"share": share}
    starts = pairs.starts(batch)

    def loss(logprobs: list[Any]) -> Any:
        import torch

        sums = torch.stack([lp[n - 1 :].sum() for lp, n in zip(logprobs, starts, strict=True)])
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
    figures: dict[str, Any] = {"steps": run.done, **dpo_figures(run.logged())}
    if run.job.validation:
        import torch

        pairs = Pairs(run, run.job.validation)
        every_pair = range(len(run.job.validation))
        run.spend(Tokens(prefill=2 * pairs.tokens(every_pair)))
        pending, own = pairs.ask(reference, every_pair), run.run.forward(pairs.rows(every_pair))
        fixed = torch.tensor(pairs.sums([p.result()[1:] for p in pending], every_pair))
        sums = torch.tensor(pairs.sums(logprobs_of(own.result()), every_pair))
        value, measured = dpo_loss(sums[::2], sums[1::2], fixed[::2], fixed[1::2], stage.beta)
        figures |= {f"{name}_held_out": v for name, v in {"loss": float(value), **measured}.items()}
    return figures
