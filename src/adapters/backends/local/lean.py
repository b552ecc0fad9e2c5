"""What a GRPO step of TRL computes twice or for nothing, left out. Losses and samples stay what they are.

TRL pads all rows of a step to its longest prompt and its longest completion, and shuffles them before it cuts them into
forward passes; one completion that never ends makes every pass as long. And each prompt is read once for every
completion of its group. Measured: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import trl.trainer.grpo_trainer as trl_grpo
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig

from adapters.backends.local.decoding import can_share

COLUMNS = {"input_ids", "attention_mask", "labels"}
"""What a pass that scores text tokens is given; with anything more, images say, nothing is changed."""


@contextmanager
def lean(model: Any, args: GRPOConfig) -> Iterator[None]:
    """Train `model` (a PeftModel) with GRPO inside of this."""
    trim = _Trim()
    hooks = [
        model.register_forward_pre_hook(trim.cut, with_kwargs=True),
        model.register_forward_hook(trim.fill),
    ]
    shuffle = trl_grpo.shuffle_sequence_dict
    if not _order_matters(args):
        trl_grpo.shuffle_sequence_dict = _by_length
    # Under ZeRO-3 all processes must make the same forward passes; one whose prompts all differ would make one less.
    if can_share(model.get_base_model()) and not is_deepspeed_zero3_enabled():
        model.generate = _Generate(model)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        trl_grpo.shuffle_sequence_dict = shuffle
        vars(model).pop("generate", None)


class _Trim:
    """Cuts the columns that are padding in every row off a pass that scores tokens, and fills its output up again."""

    def __init__(self) -> None:
        self.behind = 0

    def cut(self, model: Any, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """A forward pre-hook. Callers count columns from the right, so none is missed on the left."""
        self.behind = 0
        if _tensors(kwargs) != COLUMNS:
            return None
        mask = kwargs["attention_mask"]
        used = mask.any(dim=0).nonzero().flatten().tolist()
        self.behind = mask.shape[1] - used[-1] - 1
        columns = slice(used[0], used[-1] + 1)
        return args, {**kwargs, **{k: kwargs[k][:, columns] for k in COLUMNS}}

    def fill(self, model: Any, args: Any, output: Any) -> None:
        """A forward hook."""
        if self.behind:
            for name in ("log_probs", "entropy"):
                if (held := getattr(output, name, None)) is not None:
                    setattr(output, name, pad(held, (0, self.behind)))


def _tensors(given: Mapping[str, Any]) -> set[str]:
    return {name for name, value in given.items() if isinstance(value, torch.Tensor)}


def _order_matters(args: GRPOConfig) -> bool:
    # What is a mean over the tokens of one forward pass depends on which rows share it.
    return bool(
        args.loss_type == "bnpo"
        or args.top_entropy_quantile < 1
        or args.entropy_coef
        or args.use_adaptive_entropy
        or args.steps_per_generation > args.gradient_accumulation_steps
    )


def _by_length(batch: dict[str, Any]) -> dict[str, Any]:
    """Longest prompt first, a group's completions by length: instead of TRL's random order of a step's rows."""
    torch.randperm(len(batch["prompt_mask"]))  # what the shuffle draws: all later draws stay the same
    lengths = zip(batch["prompt_mask"].sum(1).tolist(), batch["completion_mask"].sum(1).tolist(), strict=True)
    order = [n for n, _ in sorted(enumerate(lengths), key=lambda row: row[1], reverse=True)]

    def ordered(values: Any) -> Any:
        if values is None or (isinstance(values, torch.Tensor) and not values.ndim):
            return values
        return values[order] if isinstance(values, torch.Tensor) else [values[n] for n in order]

    return {name: ordered(values) for name, values in batch.items()}


class _Generate:
    """`model.generate` that reads every distinct prompt once."""

    def __init__(self, model: Any) -> None:
        self.model, self.generate = model, model.generate

    def __call__(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: Any) -> torch.Tensor:
        """See `GenerationMixin.generate`."""
        _, group = torch.unique(torch.cat([input_ids, attention_mask], dim=1), dim=0, return_inverse=True)
        first = [group.tolist().index(n) for n in range(int(group.max()) + 1)]
        if len(first) < len(input_ids) and input_ids.shape[1] > 1 and not _tensors(rest):
            mask = attention_mask[first, :-1]
            base = self.model.get_base_model()
            cache = DynamicCache(config=base.config.get_text_config(decoder=True))
            with torch.no_grad():
                self.model.base_model(
                    input_ids=input_ids[first, :-1],
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            cache.batch_select_indices(group)
            rest["past_key_values"] = cache
        out: torch.Tensor = self.generate(input_ids=input_ids, attention_mask=attention_mask, **rest)
        return out
