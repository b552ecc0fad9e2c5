"""Batch decoding, faster than `generate`; greedy answers are the same tokens. Also several random answers a prompt.

Keys and values of the prefix that all prompts share (system prompt, instructions) are computed once and copied to every
row. A row that has ended leaves the batch, and another one takes its place.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from inspect import signature
from typing import Any, Final

import torch
from packaging.version import Version
from torch.nn.functional import pad as pad_with_zeros
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

CACHE: Final = "cache" if Version(__version__).release >= (5, 24) else "past_key_values"
"""What transformers' models call the argument that is extended."""
GREEDY: Final = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "repetition_penalty": None}
"""Arguments of transformers' `generate` for greedy answers, whatever a model's own config says."""
_HARMLESS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_length", "max_new_tokens"),
    *("output_attentions", "output_hidden_states", "return_dict", "cache_implementation"),
}
"""Options of a generation config that do not change which token is chosen greedily."""
ROOM: Final = 64
"""Tokens for which a cache has room beside those that it holds."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for tokens to come: concatenation copies all keys and values for every token."""

    keys: torch.Tensor
    values: torch.Tensor
    _rooms: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As transformers' own."""
        length, grown = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        held: list[torch.Tensor] = [self.keys, self.values] if length else []
        # Rows that have left, or come, stand in other tensors.
        mine = [t.data_ptr() == r.data_ptr() and len(t) == len(r) for t, r in zip(held, self._rooms, strict=False)]
        if not (mine and all(mine) and grown <= self._rooms[0].shape[-2]):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            self._rooms = tuple(
                t.new_empty(*t.shape[:2], grown + ROOM, t.shape[-1]) for t in (key_states, value_states)
            )
            for room, tensor in zip(self._rooms, held, strict=False):
                room[:, :, :length] = tensor
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, length:grown] = new
        self.keys, self.values = (room[:, :, :grown] for room in self._rooms)
        return self.keys, self.values


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for a model's layers, for passes without gradients."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def plain_attention(model: Any) -> bool:
    """Whether every layer has a plain cache, and positions count the tokens."""
    rope = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    # Sliding windows and recurrent states are not plain.
    return _continues(model, {GrowingLayer}) and not rope.get("mrope_section")


def can_share(model: Any) -> bool:
    """Whether `greedy` works for a model, which shares a prefix; others use `generate`."""
    return plain_attention(model) and _free(model)


def can_decode(model: Any) -> bool:
    """Whether `decode_groups` works after prompts that are padded on the left and share no prefix."""
    # Padding behind a prefix would run through recurrent states; before it, transformers masks it out.
    return _continues(model, {GrowingLayer, LinearAttentionLayer}) and _free(model)


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
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, CACHE: cache}
    # An index copies the last states. A slice of several tokens would make the head copy its weights for every row.
    new = tokens.shape[1]
    last = torch.tensor([new - 1], device=tokens.device) if new > 1 else 1
    return model(**inputs, use_cache=True, logits_to_keep=last).logits


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
    order: Sequence[int] | None = None,
    most: int = sys.maxsize,
    room: int = sys.maxsize,
    prefix: DynamicCache | None = None,
    choose: Choose | None = None,
    pad: int,
    **options: Any,
) -> Iterator[tuple[int, list[int]]]:
    """Each row's number and the tokens of its greedy answer, its end token included, as rows end.

    At most `most` rows are answered at a time, and as many as `room` tokens hold when all are as long as the longest;
    when a quarter of the rows has ended, others take their places, in `order`. `prefix`: keys and values of the tokens
    that all prompts begin with. `choose` takes the place of the likeliest token. `options` are those of `Decoder`.
    """
    decoder = Decoder(model, len(prompts), choose=choose or best, **options)
    waiting = deque(range(len(prompts)) if order is None else order)
    batch: Batch | None = None
    while waiting or batch:
        if rows := _joining(prompts, waiting, batch, most, room):
            fresh = _begun(model, prompts, rows, prefix, pad)
            ended = decoder.advance(fresh)
            if fresh.rows:
                batch = batch.joined(fresh) if batch else fresh
        elif batch:
            ended = decoder.advance(batch)
            batch = batch if batch.rows else None
        yield from ((row, decoder.answers[row]) for row in ended)


def _joining(prompts: Sequence[list[int]], waiting: deque[int], batch: Batch | None, most: int, room: int) -> list[int]:
    """Take the rows that are begun now."""
    busy = len(batch.rows) if batch else 0
    if not waiting or (busy and 4 * (most - busy) < most):
        return []
    longest = max(len(prompts[waiting[0]]), batch.mask.shape[1] if batch else 0)
    free = min(most, room // longest) - busy
    return [waiting.popleft() for _ in range(min(free if busy else max(1, free), len(waiting)))]


def _begun(
    model: Any, prompts: Sequence[list[int]], rows: Sequence[int], prefix: DynamicCache | None, pad: int
) -> Batch:
    """A batch that has read nothing but the prefix."""
    shared = prefix.get_seq_length() if prefix is not None else 0
    suffixes = [list(prompts[row][shared:]) for row in rows]
    width = max(map(len, suffixes))
    tokens = torch.tensor([[pad] * (width - len(r)) + r for r in suffixes], device=model.device)
    # Padding stands between the shared prefix and the rest of a row; positions count what is not padding.
    ones = [[1] * shared + [0] * (width - len(r)) + [1] * len(r) for r in suffixes]
    mask = torch.tensor(ones, device=model.device)
    cache = copy.deepcopy(prefix) or new_cache(model)
    if shared:
        cache.batch_repeat_interleave(len(suffixes))
    return Batch(list(rows), tokens, mask, (mask.cumsum(-1) - 1).clamp(min=0)[:, shared:], cache)


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


@dataclass
class Batch:
    """Rows that are being answered, by number, and what the next pass reads.

    Shapes: `tokens` and `positions` (rows, new), `mask` (rows, cached and new).
    """

    rows: list[int]
    tokens: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    cache: DynamicCache

    def go_on(self, chosen: torch.Tensor, keep: Sequence[int]) -> None:
        """Read the `chosen` tokens next; only of the rows at the places `keep`."""
        if len(keep) < len(self.rows):
            index = torch.tensor(keep, dtype=torch.long, device=chosen.device)
            self.cache.reorder_cache(index)  # unlike batch_select_indices, for recurrent states too
            self.mask, self.positions, chosen = self.mask[index], self.positions[index], chosen[index]
            self.rows = [self.rows[place] for place in keep]
        self.tokens, self.positions = chosen[:, None], self.positions[:, -1:] + 1
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=-1)

    def joined(self, other: Batch) -> Batch:
        """Both batches, of which each row reads one token next. Only for plain caches; this one is used up."""
        used = self.mask.any(0)  # the longest rows may have ended
        self.mask = self.mask[:, used]
        width = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            for name in ("keys", "values"):
                ours, added = getattr(mine, name)[:, :, used[:-1]], getattr(theirs, name)
                setattr(mine, name, torch.cat([_widened(ours, width - 1, 2), _widened(added, width - 1, 2)]))
        return Batch(
            self.rows + other.rows,
            torch.cat([self.tokens, other.tokens]),
            torch.cat([_widened(self.mask, width, 1), _widened(other.mask, width, 1)]),
            torch.cat([self.positions, other.positions]),
            self.cache,
        )


def _widened(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """A tensor with zeros in front of a dimension, up to a width."""
    return pad_with_zeros(tensor, [0, 0] * (tensor.dim() - 1 - dim) + [width - tensor.shape[dim], 0])


class Decoder:
    """Answers rows, a token of each row with every pass. `answers` are the tokens so far, by row.

    `limits`: most tokens of each row. `ended` can end a row before its end token, one of `stops`.
    """

    def __init__(
        self,
        model: Any,
        rows: int,
        *,
        limits: Sequence[int],
        stops: Set[int],
        choose: Choose,
        ended: Sequence[Ended] | None = None,
    ) -> None:
        self.model, self.limits, self.stops, self.choose, self.ended = model, limits, stops, choose, ended
        self.answers: list[list[int]] = [[] for _ in range(rows)]

    def advance(self, batch: Batch) -> list[int]:
        """Read what the batch has to read, and choose a token for each row. The rows that have ended leave it."""
        logits = step(self.model, batch.tokens, batch.cache, batch.mask, batch.positions)
        chosen = self.choose(logits[:, -1].float(), batch.rows)
        keep, ended = [], []
        for place, (row, token) in enumerate(zip(batch.rows, chosen.tolist(), strict=True)):
            self.answers[row].append(token)
            ends = token in self.stops or (self.ended and self.ended[row](token))
            if ends or len(self.answers[row]) >= self.limits[row]:
                ended.append(row)
            else:
                keep.append(place)
        if keep:
            batch.go_on(chosen, keep)
        else:
            batch.rows = []
        return ended


def decode_groups(
    model: Any, cache: DynamicCache, tokens: torch.Tensor, mask: torch.Tensor, group: torch.Tensor, **options: Any
) -> list[list[int]]:
    """The tokens of several answers to each prompt, which is read once; `options` are those of `Decoder`.

    `tokens` and `mask` (prompts, width) are padded on the left; `group` (answers) is the prompt of each answer. `cache`
    is empty, and modified.
    """
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    step(model, tokens[:, :-1], cache, mask[:, :-1], positions[:, :-1])
    cache.reorder_cache(group)
    decoder, rows = Decoder(model, len(group), **options), list(range(len(group)))
    batch = Batch(rows, tokens[group, -1:], mask[group], positions[group, -1:], cache)
    while batch.rows:
        decoder.advance(batch)
    return decoder.answers


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


def in_batches(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    order: Sequence[int],
    most: int,
    room: int,
    limits: Sequence[int],
    ended: Sequence[Ended],
    choose: Choose | None,
    **options: Any,
) -> Iterator[tuple[int, list[int]]]:
    """As `greedy`, for any model: whole batches through `generate`."""
    waiting = deque(order)
    while waiting:
        size = min(most, max(1, room // len(prompts[waiting[0]])), len(waiting))
        rows = [waiting.popleft() for _ in range(size)]

        def chosen(logits: torch.Tensor, places: Sequence[int], rows: Sequence[int] = rows) -> torch.Tensor:
            return choose(logits, [rows[place] for place in places])  # type: ignore[misc]

        answers = generate(
            model,
            [prompts[n] for n in rows],
            limits=[limits[n] for n in rows],
            ended=[ended[n] for n in rows],
            choose=choose and chosen,
            **options,
        )
        yield from zip(rows, answers, strict=True)


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
