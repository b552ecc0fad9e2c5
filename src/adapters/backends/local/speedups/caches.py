"""Keys and values of the tokens that rows have read, and the models whose passes can go on from them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from inspect import signature
from itertools import pairwise
from typing import Any, Final

import torch
from packaging.version import Version
from transformers import DynamicCache, __version__
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from adapters.backends.local.speedups.shared_prefixes import common_prefix

CACHE: Final = "cache" if Version(__version__).release >= (5, 24) else "past_key_values"
"""What transformers' models call the argument that is extended."""
_HARMLESS = {
    *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache"),
    *("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_length", "max_new_tokens"),
    *("output_attentions", "output_hidden_states", "return_dict", "cache_implementation"),
}
"""Options of a generation config that do not change which token is chosen greedily."""
ROOM: Final = 64
"""Tokens for which a cache has room beside those that it holds."""
FEWER: Final = 64
"""Rows that differ by so many tokens or fewer are read together."""

Read = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of the tokens that one row has read, layer by layer, each (heads, tokens, width); () for none."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for tokens to come: concatenation copies all keys and values for every token."""

    keys: torch.Tensor
    values: torch.Tensor
    rooms: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As transformers' own."""
        length, grown = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        held: list[torch.Tensor] = [self.keys, self.values] if length else []
        # Rows that have left, or come, stand in other tensors.
        mine = [t.data_ptr() == r.data_ptr() and len(t) == len(r) for t, r in zip(held, self.rooms, strict=False)]
        if not (mine and all(mine) and grown <= self.rooms[0].shape[-2]):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            self.rooms = tuple(t.new_empty(*t.shape[:2], grown + ROOM, t.shape[-1]) for t in (key_states, value_states))
            for room, tensor in zip(self.rooms, held, strict=False):
                room[:, :, :length] = tensor
        for room, new in zip(self.rooms, (key_states, value_states), strict=True):
            room[:, :, length:grown] = new
        self.keys, self.values = (room[:, :, :grown] for room in self.rooms)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """As transformers' own. On a CPU rows that stay move up in place, as copies of all take longer than a token."""
        rows = beam_idx.tolist() if self.rooms and beam_idx.device.type == "cpu" else ()
        if not rows or any(b <= a for a, b in pairwise(rows)):
            super().reorder_cache(beam_idx)
            return
        for held in (self.keys, self.values):
            for place, row in enumerate(rows):
                if place != row:
                    held[place] = held[row]
        self.rooms = tuple(room[: len(rows)] for room in self.rooms)
        self.keys, self.values = self.keys[: len(rows)], self.values[: len(rows)]

    def join(self, other: GrowingLayer, unused: int, width: int) -> None:
        """Take the rows of another layer behind the own ones, of which the first `unused` tokens are padding.

        All are padded on the left to `width` tokens, with zeros: attention multiplies by what it leaves out.
        """
        rooms = []
        for mine, theirs in ((self.keys[:, :, unused:], other.keys), (self.values[:, :, unused:], other.values)):
            room = mine.new_zeros(len(mine) + len(theirs), mine.shape[1], width + ROOM, mine.shape[-1])
            room[: len(mine), :, width - mine.shape[2] : width] = mine
            room[len(mine) :, :, width - theirs.shape[2] : width] = theirs
            rooms.append(room)
        self.rooms = tuple(rooms)
        self.keys, self.values = (room[:, :, :width] for room in rooms)


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for a model's layers, for passes without gradients."""
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def release(cache: DynamicCache) -> None:
    """Free the room beside what a cache holds."""
    for layer in cache.layers:
        if isinstance(layer, GrowingLayer):
            layer.keys, layer.values, layer.rooms = layer.keys.clone(), layer.values.clone(), ()


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


Part = tuple[int, int, int]
"""Neighbouring rows: the first, the one behind the last, and the tokens of the longest."""


def parts_of(lengths: Iterable[int]) -> list[Part]:
    """Rows of about one length, by the tokens of each."""
    parts: list[Part] = []
    for row, tokens in enumerate(lengths):
        first, _, longest = parts[-1] if parts else (row, row, tokens)
        most = max(tokens, longest)
        if parts and abs(tokens - longest) <= max(most // 4, FEWER):
            parts[-1] = (first, row + 1, most)
        else:
            parts.append((row, row + 1, tokens))
    return parts


@contextmanager
def _one_token(parts: Sequence[Part]) -> Iterator[None]:
    """Attention of one token of each row as a CPU computes it fastest.

    Every part of the batch reads as many tokens as its longest row has, and not the padding beside the longest row of
    all: most of the time goes into reading keys and values. Where attention has no mask it gets one: transformers then
    packs heads that share keys, as positions, which the kernel reads several times faster.
    """
    whole: Any = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def of_part(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if mask is None and getattr(module, "num_key_value_groups", 1) > 1:
            mask = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool, device=query.device)
        return whole(module, query, key, value, mask, **options)

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if len(parts) < 2 or mask is None or len(mask) != len(query) or mask.shape[-1] != key.shape[2]:
            return of_part(module, query, key, value, mask, **options)
        outputs = []
        for first, end, tokens in parts:
            rows, read = slice(first, end), slice(-tokens, None)
            states = query[rows], key[rows, :, read], value[rows, :, read]
            outputs.append(of_part(module, *states, mask[rows, ..., read], **options)[0])
        return torch.cat(outputs), None

    ALL_ATTENTION_FUNCTIONS["sdpa"] = attention
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = whole


def step(model: Any, tokens: torch.Tensor, cache: DynamicCache, mask: Any = None, positions: Any = None) -> Any:
    """The last logits of a forward pass over new `tokens`, which extends `cache`."""
    inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions, CACHE: cache}
    # An index copies the last states. A slice of several tokens would make the head copy its weights for every row.
    new = tokens.shape[1]
    last = torch.tensor([new - 1], device=tokens.device) if new > 1 else 1
    alone = new == 1 and tokens.device.type == "cpu"
    read = (mask.shape[1] - mask.argmax(1)).tolist() if alone and mask is not None else ()  # padding stands in front
    with _one_token(parts_of(read)) if alone else nullcontext():
        return model(**inputs, use_cache=True, logits_to_keep=last).logits


@torch.inference_mode()
def prefill(model: Any, prefix: Sequence[int]) -> Read:
    """What a row has read after a prefix."""
    if not prefix:
        return ()
    cache = new_cache(model)
    step(model, torch.tensor([list(prefix)], device=model.device), cache)
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def length(read: Read) -> int:
    """The number of tokens."""
    return read[0][0].shape[1] if read else 0


def together(model: Any, rows: Sequence[Read]) -> DynamicCache:
    """A cache of several rows, padded on the left to the longest."""
    cache, width = new_cache(model), max(map(length, rows))
    longest = max(rows, key=length)
    for n, (like, _) in enumerate(longest):
        keys, values = like.new_zeros(2, len(rows), like.shape[0], width, like.shape[2])
        for place, read in enumerate(rows):
            if read:
                keys[place, :, width - length(read) :], values[place, :, width - length(read) :] = read[n]
        cache.layers[n].update(keys, values)
    return cache


def padded(model: Any, prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask (prompts, width), padded on the left."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    return tokens, mask
