"""Greedy completions: batches sorted by length, shared among the processes, nothing cut silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from adapters.backends.local.model import Encoder, on_gpu
from adapters.types import Message, Progress, Sample


class LocalSampler:
    """A loaded model with the tokenizer's rules. See `adapters.types.Sampler`."""

    def __init__(self, model: Any, encoder: Encoder, rank: int, world: int) -> None:
        self.model, self.encoder, self.rank, self.world = model, encoder, rank, world
        stop = model.generation_config.eos_token_id
        stops = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
        self.stops = sorted({*stops, encoder.end})

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """Completions in the order of the prompts, on every process."""
        ids = self.encoder.prompts(prompts)
        size = batch_size or (64 if on_gpu() else 32)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # longest first: memory fails at once or never
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        mine: list[tuple[int, Sample]] = []
        done = 0
        for batch in batches[self.rank :: self.world]:
            mine += zip(batch, self._batch([ids[i] for i in batch], max_new_tokens), strict=True)
            done += len(batch) * self.world
            progress(min(done, len(ids)), len(ids), {})
        everyone = gather_object(mine) if self.world > 1 else mine
        return [sample for _, sample in sorted(everyone)]

    @torch.inference_mode()
    def _batch(self, ids: list[list[int]], max_new_tokens: int) -> list[Sample]:
        width = max(map(len, ids))
        pad = self.encoder.tokenizer.pad_token_id
        tokens = torch.tensor([[pad] * (width - len(i)) + i for i in ids], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=self.model.device)
        out = self.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=None,
            eos_token_id=self.stops,
            pad_token_id=pad,
        )[:, width:].tolist()
        return [self._sample(row) for row in out]

    def _sample(self, row: list[int]) -> Sample:
        end = next((n for n, token in enumerate(row) if token in self.stops), None)
        answer = row if end is None else row[:end]
        text = self.encoder.tokenizer.decode(answer, skip_special_tokens=True)
        return Sample(text, len(answer), end is None)
