"""Greedy sampling in batches sorted by length, shared among the processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from accelerate.utils import gather_object

from adapters.backends.json_stop import JsonEnd
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.model import on_gpu
from adapters.backends.local.speedups import decoding
from adapters.types import Message, Progress, Sample


class LocalSampler:
    """A loaded model and its tokenizer as an `adapters.types.Sampler`.

    `stop_at_json` ends an answer where its JSON is complete. Evaluation leaves it off: what a model writes behind its
    JSON must count. `context` limits prompt and answer together. Without `speedups`, and for models that they do not
    fit, transformers' `generate` decodes.
    """

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        rank: int = 0,
        world: int = 1,
        *,
        stop_at_json: bool = False,
        context: int | None = None,
        speedups: bool = True,
    ) -> None:
        self.model, self.encoder, self.rank, self.world = model, encoder, rank, world
        self.stops = set(encoder.stops(model.generation_config))
        self.stop_at_json, self.context = stop_at_json, context
        self.shares = speedups and decoding.can_share(model)
        # Characters that structure JSON are ASCII, so a token alone decodes to them whatever stands around it.
        self._piece = cache(lambda token: encoder.tokenizer.decode([token], skip_special_tokens=True))

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """Completions in the order of the prompts, on every process."""
        ids = self.encoder.prompts(prompts)
        mine: list[tuple[int, Sample]] = []
        for answer in self.answers(ids, max_new_tokens=max_new_tokens, batch_size=batch_size):
            mine.append(answer)
            progress(min(len(mine) * self.world, len(ids)), len(ids), {})
        everyone = gather_object(mine) if self.world > 1 else mine
        return [sample for _, sample in sorted(everyone)]

    def answers(
        self, ids: Sequence[list[int]], *, max_new_tokens: int, batch_size: int | None
    ) -> Iterator[tuple[int, Sample]]:
        """Answers of this process's share as (index, sample), longest prompts first."""
        size = batch_size or (64 if on_gpu() else 32)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # longest first: memory fails at once or never
        prefix = decoding.prefill(self.model, ids[0][: decoding.shared_prefix(ids)]) if self.shares and ids else None
        for batch in [order[i : i + size] for i in range(0, len(order), size)][self.rank :: self.world]:
            yield from zip(batch, self._batch([ids[i] for i in batch], max_new_tokens, prefix), strict=True)

    def _batch(self, ids: Sequence[list[int]], max_new_tokens: int, prefix: Any) -> list[Sample]:
        limits = [min(max_new_tokens, (self.context or sys.maxsize) - len(prompt)) for prompt in ids]
        shared: dict[str, Any] = {"prefix": prefix} if self.shares else {}
        decode = decoding.greedy if self.shares else decoding.generate
        try:
            ended = [self._json_end() for _ in ids] if self.stop_at_json else None
            pad = self.encoder.tokenizer.pad_token_id
            rows = decode(self.model, ids, limits=limits, stops=self.stops, pad=pad, ended=ended, **shared)
        except torch.OutOfMemoryError:
            if len(ids) == 1:
                raise
            rows = None
        if rows is None:  # outside the handler, whose traceback would keep the failed batch's memory
            torch.accelerator.empty_cache()
            half = len(ids) // 2
            return [s for rest in (ids[:half], ids[half:]) for s in self._batch(rest, max_new_tokens, prefix)]
        return [self._sample(row, limit) for row, limit in zip(rows, limits, strict=True)]

    def _sample(self, row: list[int], limit: int) -> Sample:
        ended = row[-1] in self.stops
        answer = row[:-1] if ended else row
        text = self.encoder.tokenizer.decode(answer, skip_special_tokens=True)
        return Sample(text, len(answer), not ended and len(row) >= limit)

    def _json_end(self) -> decoding.Ended:
        end = JsonEnd()
        return lambda token: end.closed_by(self._piece(token))
