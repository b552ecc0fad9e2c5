"""GRPO steps without redundant work, and with unchanged losses and gradients.

TRL pads all rows of a step to the longest prompt and completion, and shuffles them before it cuts them into forward
passes: one endless completion makes every pass as long. In generation, it reads each prompt once for every completion
of its group, continues rows that have ended until the last one ends, and computes the adapter beside every layer
(`merged.py`). Savings: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import trl.trainer.grpo_trainer as trl_grpo
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOConfig

from adapters.backends.local.encoder import end_tokens
from adapters.backends.local.sharding import shards_weights
from adapters.backends.local.speedups.caches import can_decode, new_cache, plain_attention
from adapters.backends.local.speedups.decoding import decode_groups
from adapters.backends.local.speedups.merged import MergedSampling
from adapters.backends.local.speedups.padding_free import in_use
from adapters.backends.local.speedups.turns import Turns

COLUMNS = {"input_ids", "attention_mask", "labels"}
"""Inputs of a pass that scores text tokens; with any other, such as images, nothing is changed."""
SAMPLING = {
    *("max_new_tokens", "do_sample", "temperature", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("disable_compile", "transformers_version"),
}
"""Keys of a generation config that are no rules about tokens."""


@contextmanager
def grpo_speedups(
    model: Any,
    args: GRPOConfig,
    metrics: MutableMapping[str, list[float]],
    done: int = 0,
    again: Callable[[], bool] = lambda: False,
    turns: Turns | None = None,
) -> Iterator[None]:
    """Use the speed-ups for `model` (a PeftModel) while the context is open.

    `metrics` are the trainer's of the training, by name; `done` are the generations before a resume; `again` says
    whether what is sampled now belongs to the generation before. `turns` keeps what episodes have read.
    """
    trim = TrimPadding()
    hooks = [model.register_forward_pre_hook(trim.cut, with_kwargs=True), model.register_forward_hook(trim.fill)]
    shuffle = trl_grpo.shuffle_sequence_dict
    if not _order_matters(args):
        trl_grpo.shuffle_sequence_dict = _as_sampled if in_use(model) else _by_length
    try:
        with fast_sampling(model, args, metrics, done, again, turns):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        trl_grpo.shuffle_sequence_dict = shuffle


@contextmanager
def fast_sampling(
    model: Any,
    args: Any,
    metrics: MutableMapping[str, list[float]],
    done: int = 0,
    again: Callable[[], bool] = lambda: False,
    turns: Turns | None = None,
) -> Iterator[None]:
    """The part of `grpo_speedups` that samples, also for other trainers that do."""
    model.generate = _Generate(model, MergedSampling(model, args, metrics, done, again), turns)
    try:
        yield
    finally:
        vars(model).pop("generate", None)


class TrimPadding:
    """Removes padding columns before a scoring pass and restores them in its output."""

    def __init__(self) -> None:
        self.behind = 0

    def cut(self, model: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Forward pre-hook; callers count columns from the right, so the left can go."""
        self.behind = 0
        if {name for name, value in kwargs.items() if isinstance(value, torch.Tensor)} != COLUMNS:
            return None
        mask = kwargs["attention_mask"]
        used = mask.any(dim=0).nonzero().flatten().tolist()
        self.behind = mask.shape[1] - used[-1] - 1
        columns = slice(used[0], used[-1] + 1)
        return args, {**kwargs, **{k: kwargs[k][:, columns] for k in COLUMNS}}

    def fill(self, model: Any, args: Any, output: Any) -> None:
        """Forward hook: pad the output on the right."""
        if self.behind:
            for name in ("log_probs", "entropy"):
                if (values := getattr(output, name, None)) is not None:
                    setattr(output, name, pad(values, (0, self.behind)))


def _order_matters(args: GRPOConfig) -> bool:
    # What is a mean over the tokens of one forward pass depends on which rows share it.
    return bool(
        args.loss_type == "bnpo"
        or args.top_entropy_quantile < 1
        or args.entropy_coef
        or args.use_adaptive_entropy
        or args.steps_per_generation > args.gradient_accumulation_steps
    )


def _as_sampled(batch: dict[str, Any]) -> dict[str, Any]:
    """Leave the answers to a prompt beside one another, for passes that read a prompt once."""
    torch.randperm(len(batch["prompt_mask"]))  # what TRL's shuffle draws: all later draws stay the same
    return batch


def _by_length(batch: dict[str, Any]) -> dict[str, Any]:
    """Order a step's rows by prompt and completion length, instead of TRL's shuffle."""
    torch.randperm(len(batch["prompt_mask"]))  # as above
    lengths = zip(batch["prompt_mask"].sum(1).tolist(), batch["completion_mask"].sum(1).tolist(), strict=True)
    order = [n for n, _ in sorted(enumerate(lengths), key=lambda row: row[1], reverse=True)]

    def ordered(values: Any) -> Any:
        if values is None or (isinstance(values, torch.Tensor) and not values.ndim):
            return values
        return values[order] if isinstance(values, torch.Tensor) else [values[n] for n in order]

    return {name: ordered(values) for name, values in batch.items()}


class _Generate:
    """`model.generate` that reads each distinct prompt once, drops ended rows, and merges the adapter."""

    def __init__(self, model: Any, merged: MergedSampling, turns: Turns | None = None) -> None:
        self.model, self.generate, self.merged = model, model.generate, merged
        self.turns = turns if plain_attention(model.get_base_model()) else None
        # With sharded weights all processes must make the same passes; one whose prompts differ would make one less.
        self.decodes = can_decode(model.get_base_model()) and not shards_weights()

    def __call__(
        self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any, **rest: Any
    ) -> torch.Tensor:
        """As `GenerationMixin.generate`, which serves configs with further rules."""
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "generation_config": generation_config}
        ours = self.decodes and not rest and input_ids.shape[1] > 2 and _only_temperature(generation_config)
        sample = partial(self._sample if ours else self.generate, **given, **rest)
        return self.merged(sample, attention_mask, set(end_tokens(generation_config)))

    def _sample(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any) -> torch.Tensor:
        _, group = torch.unique(torch.cat([input_ids, attention_mask], dim=1), dim=0, return_inverse=True)
        places = group.tolist()
        first = [places.index(n) for n in range(max(places) + 1)]
        cache, temperature = new_cache(self.model.get_base_model()), generation_config.temperature
        with torch.no_grad():
            answers = decode_groups(
                self.model.base_model,
                cache,
                input_ids[first],
                attention_mask[first],
                group,
                self.turns,
                limits=[generation_config.max_new_tokens] * len(input_ids),
                stops=set(generation_config.eos_token_id),
                choose=lambda logits, _: (logits / temperature).softmax(-1).multinomial(1)[:, 0],
            )
        rows = [torch.tensor(answer, device=input_ids.device) for answer in answers]
        padded = pad_sequence(rows, batch_first=True, padding_value=generation_config.pad_token_id)
        return torch.cat([input_ids, padded], dim=1)


def _only_temperature(config: Any) -> bool:
    off = {"top_p": (None, 1.0), "top_k": (None, 0), "repetition_penalty": (None, 1.0), "min_p": (None,)}  # no effect
    rules = config.to_diff_dict().keys() - {*off, *SAMPLING}
    return bool(
        config.do_sample
        and isinstance(config.eos_token_id, list)
        and not rules
        and all(getattr(config, name) in values for name, values in off.items())
    )
