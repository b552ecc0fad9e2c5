"""Batch decoding, faster than `generate`; greedy answers are the same tokens. Also several random answers a prompt.

Keys and values of the prefix that all prompts share (system prompt, instructions) are computed once and copied to every
row. A row that has ended leaves the batch, and another one takes its place.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.functional import pad as pad_with_zeros
from transformers import DynamicCache

from adapters.backends.local.speedups.by_generate import Ended
from adapters.backends.local.speedups.caches import (
    Read,
    length,
    new_cache,
    padded,
    parts_of,
    plain_attention,
    release,
    step,
    together,
)
from adapters.backends.local.speedups.choosing import Choose, best
from adapters.backends.local.speedups.turns import Turns


@torch.inference_mode()
def greedy(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    order: Sequence[int] | None = None,
    most: int = sys.maxsize,
    room: int = sys.maxsize,
    prefix: Read = (),
    turns: Turns | None = None,
    choose: Choose | None = None,
    pad: int,
    **options: Any,
) -> Iterator[tuple[int, list[int]]]:
    """Each row's number and the tokens of its greedy answer, its end token included, as rows end.

    At most `most` rows are answered at a time, and as many as `room` tokens hold when all are as long as the longest;
    when a quarter of the rows has ended, others take their places, in `order`. `prefix`: keys and values of the tokens
    that all prompts begin with. `turns` has those of the prompts that go on, and keeps those of the answered rows.
    `choose` takes the place of the likeliest token. `options` are those of `Decoder`.
    """
    decoder = Decoder(model, len(prompts), choose=choose or best, leave=_keeper(turns, prompts), **options)
    order, going_on = range(len(prompts)) if order is None else order, turns.take(prompts) if turns else {}
    read = dict.fromkeys(order, prefix) | going_on
    # Beside a row that reads all of its prompt the others would read as much padding.
    waiting = deque(sorted(order, key=lambda n: n not in going_on))
    batch: Batch | None = None
    while waiting or batch:
        # What a conversation has read is held anyway, so that its room is for what it has not.
        new = len(prompts[waiting[0]]) - length(read[waiting[0]]) if waiting and waiting[0] in going_on else 0
        ended: list[int] = []
        joining = _joining(prompts, waiting, batch, most, room, new)
        # A short prompt beside a long one would be read as so much padding.
        for first, end, _ in parts_of(len(prompts[n]) - length(read[n]) for n in joining):
            rows = joining[first:end]
            fresh = _begun(model, [prompts[n] for n in rows], rows, [read.pop(n) for n in rows], pad)
            ended += decoder.advance(fresh)
            if fresh.rows:
                fresh.pack()
                batch = batch.joined(fresh) if batch else fresh
        if batch and not joining:
            ended = decoder.advance(batch)
            batch = batch if batch.rows else None
        yield from ((row, decoder.answers[row]) for row in ended)


def _joining(
    prompts: Sequence[list[int]], waiting: deque[int], batch: Batch | None, most: int, room: int, new: int = 0
) -> list[int]:
    """Take the rows that are begun now; `new`: about as many tokens as a row has not read, where rows go on."""
    if not waiting:
        return []
    busy = len(batch.rows) if batch else 0
    longest = new or max(len(prompts[waiting[0]]), batch.mask.shape[1] if batch else 0)
    capacity = max(1, min(most, room // longest))
    free = capacity - busy
    return [waiting.popleft() for _ in range(min(free, len(waiting)))] if not busy or 4 * free >= capacity else []


def _begun(model: Any, prompts: Sequence[list[int]], rows: list[int], read: Sequence[Read], pad: int) -> Batch:
    """A batch of `rows` whose prompts begin with what is `read`."""
    done = [length(one) for one in read]
    past, suffixes = max(done), [prompt[n:] for prompt, n in zip(prompts, done, strict=True)]
    width = max(map(len, suffixes))
    tokens = torch.tensor([[pad] * (width - len(r)) + r for r in suffixes], device=model.device)
    # Padding stands before what is read, and between it and the rest; positions count what is not padding.
    ones = [
        [0] * (past - n) + [1] * n + [0] * (width - len(r)) + [1] * len(r) for n, r in zip(done, suffixes, strict=True)
    ]
    mask = torch.tensor(ones, device=model.device)
    return Batch(rows, tokens, mask, (mask.cumsum(-1) - 1).clamp(min=0)[:, past:], together(model, read))


def _keeper(turns: Turns | None, prompts: Sequence[list[int]]) -> Leave | None:
    """What notes, of the rows that leave a batch, what they have read."""
    if turns is None:
        return None
    return lambda batch, place, answer: turns.keep(
        [*prompts[batch.rows[place]], *answer[:-1]], batch.cache, place, batch.mask[place]
    )


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

    def pack(self) -> None:
        """Put all padding in front, where attention can leave it out. Only for plain caches."""
        read = self.mask[:, :-1]
        order = read.argsort(dim=1, stable=True)
        if bool((order.diff() == 1).all()):
            return
        self.mask[:, :-1] = read.gather(1, order)
        for layer in self.cache.layers:
            for name in ("keys", "values"):
                states = getattr(layer, name)
                setattr(layer, name, states.gather(2, order[:, None, :, None].expand_as(states)))

    def joined(self, other: Batch) -> Batch:
        """Both batches, of which each row reads one token next. Only for plain caches; this one is used up."""
        unused = int(self.mask.any(0).int().argmax())  # the longest rows may have ended
        masks = [self.mask[:, unused:], other.mask]
        width = max(mask.shape[1] for mask in masks)
        for mine, theirs in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.join(theirs, unused, width - 1)
        return Batch(
            self.rows + other.rows,
            torch.cat([self.tokens, other.tokens]),
            torch.cat([pad_with_zeros(mask, [width - mask.shape[1], 0]) for mask in masks]),
            torch.cat([self.positions, other.positions]),
            self.cache,
        )


Leave = Callable[[Batch, int, Sequence[int]], None]


class Decoder:
    """Answers rows, a token of each row with every pass. `answers` are the tokens so far, by row.

    `limits`: most tokens of each row. `ended` can end a row before its end token, one of `stops`. `leave` is told of a
    row that leaves: the batch that has read it, its place there, and its answer, whose last token is not read.
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
        leave: Leave | None = None,
    ) -> None:
        self.model, self.limits, self.stops, self.choose = model, limits, stops, choose
        self.ended, self.leave = ended, leave
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
                if self.leave:
                    self.leave(batch, place, self.answers[row])
            else:
                keep.append(place)
        if keep:
            batch.go_on(chosen, keep)
        else:
            batch.rows = []
        return ended


FEW: Final = 8
"""A batch that has shrunk to an eighth of its rows waits for others."""


def decode_groups(
    model: Any,
    cache: DynamicCache,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    group: torch.Tensor,
    turns: Turns | None = None,
    **options: Any,
) -> list[list[int]]:
    """The tokens of several answers to each prompt, which is read once; `options` are those of `Decoder`.

    `tokens` and `mask` (prompts, width) are padded on the left; `group` (answers) is the prompt of each answer. `cache`
    is empty, and modified. `turns` has what is read of prompts that go on, and keeps what the answers have read.
    """
    prompts = [tokens[n][mask[n].bool()].tolist() for n in group.tolist()] if turns else []
    decoder, rows = Decoder(model, len(group), leave=_keeper(turns, prompts), **options), list(range(len(group)))
    if turns and (read := turns.take(prompts)):
        batch = _begun(model, prompts, rows, [read.get(n, ()) for n in rows], pad=0)
    else:
        batch = _groups(model, cache, tokens, mask, group, rows)
    while batch.rows:
        decoder.advance(batch)
    return decoder.answers


def _groups(
    model: Any, cache: DynamicCache, tokens: torch.Tensor, mask: torch.Tensor, group: torch.Tensor, rows: list[int]
) -> Batch:
    """A batch of `rows` that has read all of its prompts but their last tokens; see `decode_groups`."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    step(model, tokens[:, :-1], cache, mask[:, :-1], positions[:, :-1])
    cache.reorder_cache(group)
    return Batch(rows, tokens[group, -1:], mask[group], positions[group, -1:], cache)


@torch.inference_mode()
def draw(
    model: Any, prompts: Sequence[list[int]], answers: int, choose: Choose, *, pad: int, most: int, **options: Any
) -> Iterator[tuple[int, list[list[int]]]]:
    """The number of each prompt and the tokens of its answers, as the last of them ends; for `can_decode`.

    `choose` and the options of `Decoder` (limits, stops, ended) are of all answers, one prompt's after another's. At
    most `most` answers are drawn at a time, or those to one prompt. If every layer has a plain cache, the last few of a
    batch wait for those of the others: a pass over few rows takes nearly as long as one over many.
    """
    decoder = Decoder(model, len(prompts) * answers, choose=choose, **options)
    waiting, joins, left = deque(range(len(prompts))), plain_attention(model), [answers] * len(prompts)
    late: list[Batch] = []
    while waiting or late:
        if waiting and sum(len(parked.rows) for parked in late) < most:
            taken = [waiting.popleft() for _ in range(min(max(1, most // answers), len(waiting)))]
            tokens, mask = padded(model, [prompts[n] for n in taken], pad)
            group = torch.arange(len(taken), device=model.device).repeat_interleave(answers)
            rows = [n * answers + i for n in taken for i in range(answers)]
            batch, few = _groups(model, new_cache(model), tokens, mask, group, rows), most // FEW if joins else 0
        else:
            batch, few = late.pop(), 0
            while late and len(batch.rows) + len(late[-1].rows) <= most:
                batch = batch.joined(late.pop())
        while len(batch.rows) > few:
            for row in decoder.advance(batch):
                left[n := row // answers] -= 1
                if not left[n]:
                    yield n, decoder.answers[n * answers : (n + 1) * answers]
        if batch.rows:
            release(batch.cache)
            late.append(batch)
