"""Batch decoding, faster than `generate`; greedy answers are the same tokens. Also several random answers a prompt.

Keys and values of the prefix that all prompts share (system prompt, instructions) are computed once and copied to every
row. A row that has ended leaves the batch.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence, Set
from inspect import signature
from typing import Any, Final

import torch
from packaging.version import Version
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    __version__,
)
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

from adapters.backends.local.speedups.shared_prefixes import common_prefix

Ended = Callable[[int], bool]
"""Called with each token of one row; True if the row's answer is complete."""
Choose = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]
"""Takes logits in 32 bits (rows, vocabulary) and the numbers of the rows, which have not ended; a token for each."""
Restrict = Callable[[torch.Tensor, Sequence[int], Choose], torch.Tensor]
"""Takes what `Choose` takes, and a way to choose, which it uses among the tokens that are allowed."""

CACHE: Final = "cache" if Version(__version__) >= Version("5.24") else "past_key_values"
"""What transformers' models call the argument that is extended."""
GREEDY: Final = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": None}
"""Arguments of transformers' `generate` for greedy answers, whatever a model's own config says."""
_HARMLESS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_length", "max_new_tokens"),
    *("output_attentions", "output_hidden_states", "return_dict", "cache_implementation"),
}
"""Options of a generation config that do not change which token is chosen greedily."""


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for a model's layers."""
    return DynamicCache(config=model.config.get_text_config(decoder=True))


def plain_attention(model: Any) -> bool:
    """Whether every layer has a plain cache, and positions count the tokens."""
    rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    # Sliding windows and recurrent states are not plain.
    return _continues(model, {DynamicLayer}) and not rope.get("mrope_section")


def can_share(model: Any) -> bool:
    """Whether `greedy` works for a model, which shares a prefix; others use `generate`."""
    return plain_attention(model) and _free(model)


def can_decode(model: Any) -> bool:
    """Whether `decode` works after prompts that are padded on the left and share no prefix."""
    # Padding behind a prefix would run through recurrent states; before it, transformers masks it out.
    return _continues(model, {DynamicLayer, LinearAttentionLayer}) and _free(model)


def _continues(model: Any, layers: Set[type]) -> bool:
    # A recurrent model may know no positions, whatever cache its config suggests.
    known = {"position_ids", CACHE, "logits_to_keep"} <= signature(model.forward).parameters.keys()
    cached = all(type(layer) in layers for layer in new_cache(model).layers)
    return known and cached and model.config._attn_implementation in ("sdpa", "eager")


def _free(model: Any) -> bool:
    return not set(model.generation_config.to_diff_dict()) - _HARMLESS


def shared_prefix(prompts: Sequence[list[int]]) -> int:
    """Length of the prompts' common prefix; at least one token is left to each row."""
    if len(prompts) < 2:
        return 0
    return min(common_prefix(min(prompts), max(prompts)), min(map(len, prompts)) - 1)


def step(model: Any, tokens: torch.Tensor, cache: DynamicCache, mask: Any = None, positions: Any = None) -> Any:
    """The last logits of a forward pass over new `tokens`, which extends `cache`."""
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
    return model(**inputs, **{CACHE: cache}, use_cache=True, logits_to_keep=1).logits


@torch.inference_mode()
def prefill(model: Any, prefix: Sequence[int]) -> DynamicCache | None:
    """Keys and values of a prefix, for one row; None for an empty prefix."""
    if not prefix:
        return None
    cache = new_cache(model)
    step(model, torch.tensor([list(prefix)], device=model.device), cache)
    return cache


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    limits: Sequence[int],
    stops: Set[int],
    pad: int,
    prefix: DynamicCache | None = None,
    ended: Sequence[Ended] | None = None,
    choose: Choose | None = None,
) -> list[list[int]]:
    """The tokens of each row's greedy answer, its end token included.

    `limits`: most tokens of each row. `prefix`: keys and values of the tokens that all prompts begin with. `ended` can
    end a row before its end token. `choose` takes the place of the likeliest token.
    """
    shared = prefix.get_seq_length() if prefix is not None else 0
    suffixes = [list(p[shared:]) for p in prompts]
    width = max(map(len, suffixes))
    device = model.device
    tokens = torch.tensor([[pad] * (width - len(r)) + r for r in suffixes], device=device)
    # Padding stands between the shared prefix and the rest of a row; positions count what is not padding.
    mask = torch.tensor([[1] * shared + [0] * (width - len(r)) + [1] * len(r) for r in suffixes], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:]
    cache = copy.deepcopy(prefix) or new_cache(model)
    if shared:
        cache.batch_repeat_interleave(len(suffixes))
    return decode(model, tokens, mask, positions, cache, limits=limits, stops=stops, ended=ended, choose=choose or best)


def best(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The likeliest token of each row; see `Choose`."""
    return logits.argmax(dim=-1)


class Scored:
    """Keeps the model's log-probability of each chosen token, in nats: one pass more over the logits of a step."""

    def __init__(self, rows: int, choose: Choose = best) -> None:
        self.choose = choose
        self.logprobs: list[list[float]] = [[] for _ in range(rows)]

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """See `Choose`."""
        chosen = self.choose(logits, rows)
        scores = logits.gather(-1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        for row, score in zip(rows, scores.tolist(), strict=True):
            self.logprobs[row].append(score)
        return chosen


class Draws:
    """Draws tokens at random: each row has random numbers of its own, whatever rows stand beside it.

    `seeds` are of the rows; None draws greedily. `logprobs` are the sums of the log-probabilities of each row's tokens,
    in nats, at temperature 1. `held` restricts the choice; the log-probabilities are the model's own with it too.
    """

    def __init__(self, seeds: Sequence[str | None], temperature: float, held: Restrict | None = None) -> None:
        self.streams = [None if seed is None else random.Random(seed) for seed in seeds]
        self.temperature, self.held = temperature, held
        self.logprobs = [0.0] * len(seeds)

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """See `Choose`."""
        chosen = self.held(logits, rows, self._drawn) if self.held else self._drawn(logits, rows)
        scores = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
        for row, score in zip(rows, scores.tolist(), strict=True):
            self.logprobs[row] += score
        return chosen

    def _drawn(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        # Inversion: one number a token. In 32 bits the sum over a large vocabulary would lose the rare tokens.
        wide = torch.float32 if logits.device.type == "mps" else torch.float64
        below = (logits / self.temperature).softmax(-1).to(wide).cumsum(-1)
        streams = [self.streams[row] for row in rows]
        numbers = torch.tensor([s.random() if s else 0.0 for s in streams], dtype=wide, device=logits.device)
        drawn = torch.searchsorted(below, numbers[:, None] * below[:, -1:], right=True)[:, 0]
        greedy = torch.tensor([s is None for s in streams], device=logits.device)
        return torch.where(greedy, logits.argmax(-1), drawn.clamp(max=logits.shape[-1] - 1))


def decode(
    model: Any,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    cache: DynamicCache,
    *,
    limits: Sequence[int],
    stops: Set[int],
    choose: Choose,
    ended: Sequence[Ended] | None = None,
) -> list[list[int]]:
    """The tokens of each row's answer after the prompt's last `tokens` (rows, new).

    `mask` (rows, cached and new) and `positions` (rows, new) are those of the tokens. `cache` is modified.
    """
    answers: list[list[int]] = [[] for _ in limits]
    alive = list(range(len(limits)))
    while True:
        chosen = choose(step(model, tokens, cache, mask, positions)[:, -1].float(), alive)
        keep = []
        for place, token in enumerate(chosen.tolist()):
            row = alive[place]
            answers[row].append(token)
            if token not in stops and not (ended and ended[row](token)) and len(answers[row]) < limits[row]:
                keep.append(place)
        if not keep:
            return answers
        if len(keep) < len(alive):
            index = torch.tensor(keep, device=tokens.device)
            cache.reorder_cache(index)  # unlike batch_select_indices, for recurrent states too
            mask, positions, chosen = mask[index], positions[index], chosen[index]
        alive = [alive[place] for place in keep]
        tokens = chosen[:, None]
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=-1)


def decode_groups(
    model: Any, cache: DynamicCache, tokens: torch.Tensor, mask: torch.Tensor, group: torch.Tensor, **options: Any
) -> list[list[int]]:
    """The tokens of several answers to each prompt, which is read once; `options` are those of `decode`.

    `tokens` and `mask` (prompts, width) are padded on the left; `group` (answers) is the prompt of each answer. `cache`
    is empty, and modified.
    """
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    step(model, tokens[:, :-1], cache, mask[:, :-1], positions[:, :-1])
    cache.reorder_cache(group)
    return decode(model, tokens[group, -1:], mask[group], positions[group, -1:], cache, **options)


@torch.inference_mode()
def draw(
    model: Any,
    prompts: Sequence[list[int]],
    answers: int,
    draws: Draws,
    *,
    limits: Sequence[int],
    stops: Set[int],
    pad: int,
    shared: bool,
) -> list[list[int]]:
    """The tokens of several answers to each prompt, one prompt's after another's.

    `limits` and `draws` are of all answers; `shared` reads each prompt once, where `can_decode`.
    """
    group = torch.arange(len(prompts), device=model.device).repeat_interleave(answers)
    if not shared:
        rows = [prompts[n] for n in group.tolist()]
        return generate(model, rows, limits=limits, stops=stops, pad=pad, choose=draws)
    tokens, mask = _padded(model, prompts, pad)
    return decode_groups(model, new_cache(model), tokens, mask, group, limits=limits, stops=stops, choose=draws)


def _padded(model: Any, prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask (prompts, width), padded on the left."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    return tokens, mask


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    limits: Sequence[int],
    stops: Set[int],
    pad: int,
    ended: Sequence[Ended] | None = None,
    choose: Choose | None = None,
) -> list[list[int]]:
    """Answers through transformers' `generate`, for any model; greedy ones without `choose`."""
    tokens, mask = _padded(model, prompts, pad)
    width = tokens.shape[1]
    rules = [_EachRow(ended, width)] if ended else []
    rows = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=max(limits),
        eos_token_id=sorted(stops),
        pad_token_id=pad,
        stopping_criteria=StoppingCriteriaList(rules),
        logits_processor=LogitsProcessorList([_Chosen(choose, limits, stops)] if choose else []),
        **GREEDY,
    )[:, width:].tolist()
    lengths = rules[0].lengths if rules else {}
    answers = []
    for n, row in enumerate(rows):
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        answers.append(row[: min(end, lengths.get(n, end), limits[n])])
    return answers


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves `generate` one token of each row."""

    def __init__(self, choose: Choose, limits: Sequence[int], stops: Set[int]) -> None:
        self.choose, self.limits, self.stops = choose, limits, stops
        self.alive, self.steps = list(range(len(limits))), 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, float("-inf"))
        self.steps += 1
        if self.alive:
            chosen = self.choose(scores[self.alive].float(), self.alive)
            only[self.alive, chosen] = 0.0
            ended = [token in self.stops for token in chosen.tolist()]
            rows = zip(self.alive, ended, strict=True)
            self.alive = [row for row, stop in rows if not stop and self.steps < self.limits[row]]
        return only


class _EachRow(StoppingCriteria):  # type: ignore[misc]
    """Ends single rows of a batch; `lengths` are the tokens of ended rows."""

    def __init__(self, ended: Sequence[Ended], width: int) -> None:
        self.ended, self.width = ended, width
        self.lengths: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        for n, token in enumerate(input_ids[:, -1].tolist()):
            if n not in self.lengths and self.ended[n](token):
                self.lengths[n] = input_ids.shape[1] - self.width
        return torch.tensor([n in self.lengths for n in range(len(input_ids))], device=input_ids.device)
