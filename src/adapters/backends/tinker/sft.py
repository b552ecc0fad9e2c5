"""SFT on the service: the next step is sent before the last one is answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.backends.batches import layout
from adapters.backends.tinker.cost import Tokens
from adapters.backends.tinker.objectives import TrainRow, micro_batches, sft_rows
from adapters.backends.tinker.service import logprobs_of
from adapters.backends.tinker.stage import HostedStage
from adapters.console import phase
from adapters.recipe.stages import Sft
from adapters.types import Example

EVALUATED_AT_ONCE = 64


def train_sft(run: HostedStage, stage: Sft) -> dict[str, Any]:
    """Train one SFT stage, as the local trainer does, and return its figures."""
    job = run.job
    tokens = run.encoder.labelled(job.examples)
    lengths = [len(ids) for ids, _ in tokens]
    order = layout(lengths, stage.batch_size, job.steps, run.recipe.seed, by_length=stage.group_by_length)
    if job.validation and not run.done:
        run.once("nll_before", lambda: nll(run, job.validation))
    for step in range(run.done + 1, job.steps + 1):
        batch = order[(step - 1) * stage.batch_size : step * stage.batch_size]
        need = Tokens(train=sum(lengths[i] for i in batch))
        run.account.allow(need)
        run.spend(need)
        rows = sft_rows([tokens[i] for i in batch])
        passes = micro_batches(rows, stage.micro_batch_size)
        run.submit(step, [run.run.learn(rows, "cross_entropy") for rows in passes], _measure(passes))
        run.settle(keep=1)
    run.settle()
    figures: dict[str, Any] = {"steps": run.done}
    if job.validation:
        figures["nll_before"] = run.once("nll_before", lambda: None)
        figures["nll_after"] = nll(run, job.validation)
    return figures


def _measure(passes: Sequence[Sequence[TrainRow]]) -> Any:
    def measure(answers: list[Any]) -> Mapping[str, float]:
        loss = 0.0
        for rows, answer in zip(passes, answers, strict=True):
            for row, logprobs in zip(rows, logprobs_of(answer), strict=True):
                loss -= sum(w * lp for w, lp in zip(row.columns["weights"], logprobs, strict=True))
        return {"loss": loss}

    return measure


def nll(run: HostedStage, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood per target token (nats) of the current weights."""
    phase("measuring after training" if run.done else "measuring before training")
    tokens = run.encoder.labelled(examples)
    run.spend(Tokens(prefill=sum(len(ids) for ids, _ in tokens)))
    rows = sft_rows(tokens)
    passes = micro_batches(rows, EVALUATED_AT_ONCE)
    pending = [run.run.forward(rows) for rows in passes]
    return float(_measure(passes)([p.result() for p in pending])["loss"])
