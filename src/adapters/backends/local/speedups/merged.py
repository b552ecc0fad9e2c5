"""Sampling in GRPO with the adapter merged into copies of its layers' weights.

A LoRA layer that is not merged launches several small kernels a token, which is what sampling waits for; savings:
docs/benchmarks.md. The base's own tensors are put back afterwards, so that nothing is ever rounded into the base.

In 16 bits the merged copy is rounded, and the answers come from a slightly different policy than the one that is
trained. How different is measured, logged, and limited. On a CPU whose arithmetic has 16 bits all weights are rounded
for the time of the sampling.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, MutableMapping, Set
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import torch
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer

from adapters.backends.local.model import on_gpu
from adapters.backends.local.sharding import shards_weights

METRIC: Final = "sampling/merge_kl"
"""Name in `log.jsonl`: KL of the merged and the trained policy, in nats a token."""
MOST_KL: Final = 5e-3
"""Nats a token; above it a stage stops merging. A 135M model in bfloat16 has a tenth: docs/benchmarks.md."""
EVERY: Final = 10
"""Generations from one measurement to the next; the first one of a stage is measured."""
ROWS: Final = 4
"""Completions of a measurement."""
_LOG: Final = logging.getLogger(__name__)
MARGIN: Final = 2 * 2**30
"""Bytes of a GPU that stay free beside the copy, for keys, values and activations."""


@contextmanager
def merged(model: PeftModel) -> Iterator[None]:
    """Merge the active adapter into new tensors while the context is open.

    Sums are made in 32 bits and rounded once. The weights themselves are put back, whatever happens.
    """
    kept: list[tuple[Any, dict[str, Any]]] = []
    try:
        for layer in _layers(model):
            base = layer.get_base_layer()
            kept.append((layer, dict(base._parameters)))
            # PEFT merges in place, and a parameter may be tied to another module: it is given others to merge into.
            copies = {name: p.detach().to(torch.float32, copy=True) for name, p in base.named_parameters(recurse=False)}
            base._parameters.update({n: torch.nn.Parameter(c, requires_grad=False) for n, c in copies.items()})
            layer.merge()
            for name, parameter in base.named_parameters(recurse=False):
                parameter.data = parameter.data.to(kept[-1][1][name].dtype)
        yield
    finally:
        for layer, parameters in kept:
            layer.get_base_layer()._parameters.update(parameters)
            layer.merged_adapters.clear()


@contextmanager
def in_16_bits(model: torch.nn.Module) -> Iterator[None]:
    """Frozen weights rounded to bfloat16 while the context is open: decoding on a CPU takes half the time."""
    kept = [(p, p.data) for p in model.parameters() if not p.requires_grad and p.dtype == torch.float32]
    try:
        for parameter, data in kept:
            parameter.data = data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


class MergedSampling:
    """Samples with the adapter merged, as long as that is possible and exact enough.

    `metrics` are the trainer's, by name, and `done` the generations before a resume; `again` says whether what is
    sampled now belongs to the generation before; `stopped` says why nothing is merged any more.
    """

    def __init__(
        self,
        model: PeftModel,
        args: Any,
        metrics: MutableMapping[str, list[float]],
        done: int = 0,
        again: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.metrics, self.again = model, metrics, again
        self.first = self.generations = done
        self.stopped: str | None = None
        # On a CPU the weights have 32 bits also where the arithmetic has 16.
        self.rounds = bool(args.bf16) and not on_gpu()
        if args.use_vllm or getattr(args, "use_transformers_continuous_batching", False):
            self._stop(f"{'vLLM' if args.use_vllm else 'continuous batching'} samples")

    def __call__(self, sample: Callable[[], torch.Tensor], prompt_mask: torch.Tensor, stops: Set[int]) -> torch.Tensor:
        """What `sample` returns: prompts, of which `prompt_mask` tells padding, and answers up to one of `stops`."""
        if self.generations == self.first and (reason := obstacle(self.model)):
            self._stop(reason)
        again = self.again()
        self.generations += not again
        if self.stopped:
            return sample()
        sequences = None
        try:
            with merged(self.model), in_16_bits(self.model) if self.rounds else nullcontext():
                sequences = sample()
                due = self.generations % EVERY == 1 and not again
                score = self._scoring(sequences, prompt_mask, stops) if due else None
                ours = score() if score else None
        except torch.OutOfMemoryError:
            sequences = None
        if sequences is None:  # outside the handler, whose traceback would keep the failed batch's memory
            torch.accelerator.empty_cache()
            self._stop("the memory holds no second copy of the adapted weights beside the answers")
            return sample()
        if score and ours is not None:
            self._judge(kl(score(), ours))
        return sequences

    def _scoring(
        self, sequences: torch.Tensor, prompt_mask: torch.Tensor, stops: Set[int]
    ) -> Callable[[], torch.Tensor]:
        """A function of the current weights: log-probabilities of some answers' tokens."""
        rows = slice(None, None, max(1, len(sequences) // ROWS))  # of different prompts
        ids, mask = sequences[rows][:ROWS], prompt_mask[rows][:ROWS]
        width = mask.shape[1]
        ends = torch.isin(ids[:, width:], torch.tensor(sorted(stops), device=ids.device)).int()
        answer = (ends.cumsum(1) - ends == 0).to(mask.dtype)
        mask = torch.cat([mask, answer], dim=1)
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :width] = -100

        @torch.no_grad()
        def score() -> torch.Tensor:
            # The model below the trainer's autocast, in which the answers were sampled too.
            output = self.model.base_model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
            scored: torch.Tensor = output.log_probs[labels[:, 1:] != -100]
            return scored

        return score

    def _judge(self, divergence: float) -> None:
        self.metrics[METRIC].append(divergence)
        if divergence <= MOST_KL:
            return
        reason = f"the rounded weights are {divergence:.2g} nats a token from the trained ones (most: {MOST_KL})"
        if self.rounds:
            self.rounds = False
            _LOG.warning("sampling goes on with weights of 32 bits: %s", reason)
        else:
            self._stop(reason)

    def _stop(self, reason: str) -> None:
        self.stopped = reason
        _LOG.warning("the adapter is not merged for sampling: %s", reason)


def kl(trained: torch.Tensor, sampled: torch.Tensor) -> float:
    """KL of the sampling and the trained policy in nats a token, from the sampled tokens' log-probabilities.

    The estimator with the low variance (k3 of Schulman 2020, http://joschu.net/blog/kl-approx.html), as in TRL's `kl`.
    """
    ratio = trained.double() - sampled.double()
    return float((ratio.exp() - 1 - ratio).mean())


def obstacle(model: PeftModel) -> str | None:
    """Why the adapter of `model` cannot be merged for sampling; None if it can."""
    if shards_weights():
        return "the weights are sharded"
    layers = _layers(model)
    weights = [layer.get_base_layer().weight for layer in layers]
    if not all(weight.is_floating_point() and weight.element_size() > 1 for weight in weights):
        return "the base weights are quantised"
    if any(type(layer) not in (lora.Linear, lora.Embedding) or layer.lora_variant for layer in layers):
        return "the adapter is not plain LoRA"
    device = weights[0].device
    if device.type != "cpu":
        copy = sum(weight.numel() * weight.element_size() for weight in weights)
        cached = torch.accelerator.memory_reserved(device) - torch.accelerator.memory_allocated(device)
        if torch.accelerator.get_memory_info(device)[0] + cached < copy + MARGIN:
            return f"the memory holds no second copy of the adapted weights ({copy / 1e9:.1f} GB)"
    return None


def _layers(model: PeftModel) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
