"""Sampling in batches sorted by length: greedy, shared among the processes, or several random answers a prompt."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, partial
from typing import Any, Final, Self

import torch
from accelerate.utils import gather_object

from adapters.backends.json_stop import JsonEnd
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.model import on_gpu
from adapters.backends.local.speedups import by_generate, caches, choosing, decoding
from adapters.backends.local.speedups.constrained import Grammars, Held
from adapters.backends.local.speedups.turns import TURNS_ROOM, Turns
from adapters.backends.local.token_ends import token_ends
from adapters.backends.repetition import TOKENS, LoopEnd, loops
from adapters.types import Drawn, Message, Progress, Sample, TokenScores

GrammarOf = Callable[[int], str]
"""Takes the index of a prompt; the grammar that its answers are held to."""


class LocalSampler:
    """A loaded model and its tokenizer as an `adapters.types.Sampler`.

    `stop_at_json` ends an answer where its JSON is complete. Evaluation leaves it off: what a model writes behind its
    JSON must count. An answer that repeats itself ends, as if it were cut. `context` limits prompt and answer together.
    Without `speedups`, and for models that they do not fit, transformers' `generate` decodes. `scored`: greedy answers
    come with the log-probabilities of their tokens.
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
        scored: bool = False,
    ) -> None:
        self.model, self.encoder, self.rank, self.world = model, encoder, rank, world
        self.stops = set(encoder.stops(model.generation_config))
        self.stop_at_json, self.context, self.scored = stop_at_json, context, scored
        self.shares = speedups and caches.can_share(model)
        self.groups = speedups and caches.can_decode(model)
        self.turns: Turns | None = None
        self.at_once = sys.maxsize
        """Conversations that go on side by side, at most."""
        # Characters that structure JSON are ASCII, so a token alone decodes to them whatever stands around it.
        self._piece = cache(lambda token: encoder.tokenizer.decode([token], skip_special_tokens=True))

    def __call__(
        self,
        prompts: Sequence[Sequence[Message]],
        *,
        max_new_tokens: int,
        batch_size: int | None,
        progress: Progress,
        grammar: GrammarOf | None = None,
    ) -> list[Sample]:
        """Completions in the order of the prompts, on every process."""
        ids = self.encoder.prompts(prompts)
        mine: list[tuple[int, Sample]] = []
        for answer in self.answers(ids, max_new_tokens=max_new_tokens, batch_size=batch_size, grammar=grammar):
            mine.append(answer)
            progress(min(len(mine) * self.world, len(ids)), len(ids), {})
        everyone = gather_object(mine) if self.world > 1 else mine
        return [sample for _, sample in sorted(everyone)]

    def for_turns(self) -> Self:
        """The same for conversations: what one has read for a turn is not read again for the next."""
        same = copy.copy(self)
        same.turns, same.at_once = (Turns(), EPISODES * self.world) if self.shares else (None, sys.maxsize)
        return same

    def answers(
        self,
        ids: Sequence[list[int]],
        *,
        max_new_tokens: int,
        batch_size: int | None,
        grammar: GrammarOf | None = None,
    ) -> Iterator[tuple[int, Sample]]:
        """Answers of this process's share as (index, sample), longest prompts first, held to `grammar`."""
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))  # longest first: memory fails at once or never
        left, limits = dict.fromkeys(order[self.rank :: self.world]), self._limits(ids, max_new_tokens)
        most, room = GPU_BATCH if on_gpu() else CPU_BATCH
        most, room = (batch_size, sys.maxsize) if batch_size else (most, room)
        while left:
            try:
                for n, sample in self._attempt(ids, limits, grammar, order=list(left), most=most, room=room):
                    del left[n]
                    yield n, sample
            except torch.OutOfMemoryError:
                if most == 1:
                    raise
            if left:  # outside the handler, whose traceback would keep the failed batch's memory
                torch.accelerator.empty_cache()
                most = max(1, most // 2)

    def _attempt(
        self, ids: Sequence[list[int]], limits: Sequence[int], grammar: GrammarOf | None, **batches: Any
    ) -> Iterator[tuple[int, Sample]]:
        """Answers as (index, sample), as rows end. `batches` are the options of `decoding.greedy` about these."""
        loops = [LoopEnd() for _ in ids]
        held = self._held(grammar)
        choose = partial(held, pick=choosing.best) if held else None
        scores = choosing.Scored(len(ids), choose or choosing.best) if self.scored else None
        options: dict[str, Any] = {"limits": limits, "stops": self.stops, "pad": self.encoder.tokenizer.pad_token_id}
        options |= {"ended": [self._ended(loop) for loop in loops], "choose": scores or choose, **batches}
        if self.shares:
            prefix = caches.prefill(self.model, ids[0][: caches.shared_prefix(ids)])
            rows = decoding.greedy(self.model, ids, prefix=prefix, turns=self.turns, **options)
        else:
            rows = by_generate.in_batches(self.model, ids, **options)
        for n, row in rows:
            sample = self._sample(row, loops[n].looped or len(row) >= limits[n])
            yield n, self._with_scores(sample, row, scores.logprobs[n]) if scores else sample

    def several(
        self,
        prompts: Sequence[Sequence[Message]],
        k: int,
        *,
        temperature: float,
        max_new_tokens: int,
        batch_size: int | None,
        progress: Progress,
        seed: str = "",
    ) -> list[list[Drawn]]:
        """K answers to each prompt in the order of the prompts, the greedy one first, on every process."""
        ids, mine = self.encoder.prompts(prompts), list[tuple[int, list[Drawn]]]()
        seeds = [[None, *(f"{seed}{n} {i}" for i in range(1, k))] for n in range(len(ids))]
        options: dict[str, Any] = {
            "temperature": temperature,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
        }
        for group in self.draws(ids, seeds, wanted=lambda _: True, **options):
            mine.append(group)
            progress(min(len(mine) * self.world, len(ids)), len(ids), {})
        everyone = gather_object(mine) if self.world > 1 else mine
        return [answers for _, answers in sorted(everyone, key=lambda group: group[0])]

    def draws(
        self,
        ids: Sequence[list[int]],
        seeds: Sequence[Sequence[str | None]],
        *,
        temperature: float,
        max_new_tokens: int,
        batch_size: int | None,
        wanted: Callable[[int], bool],
        grammar: GrammarOf | None = None,
    ) -> Iterator[tuple[int, list[Drawn]]]:
        """Several answers to each prompt as (index, answers), longer prompts first; each prompt is read once.

        `seeds` are of the answers of each prompt, equally many; None answers greedily. `batch_size` answers are drawn
        at once, at most; without it 64, and no more than `DRAWN_ROOM` tokens of prompts hold. Prompts are answered in
        blocks. A block is left out where no prompt of it is `wanted`, else computed whole: batches, and so the
        rounding, are the same after a restart.
        """
        order, limit = sorted(range(len(ids)), key=lambda i: -len(ids[i])), batch_size or 64
        size = max(1, min(BLOCK, -(-len(ids) // self.world)))
        for block in [order[i : i + size] for i in range(0, len(order), size)][self.rank :: self.world]:
            left = dict.fromkeys(block) if any(map(wanted, block)) else {}
            while left:
                room = limit if batch_size else DRAWN_ROOM // len(ids[block[0]])
                most = max(len(seeds[0]), min(limit, room))
                try:
                    prompts = [(ids[i], seeds[i], grammar(i) if grammar else None) for i in left]
                    for n, answers in self._draw(prompts, temperature, max_new_tokens, most):
                        del left[block[n]]
                        if wanted(block[n]):
                            yield block[n], answers
                except torch.OutOfMemoryError:
                    if most <= len(seeds[0]):
                        raise
                    limit = max(len(seeds[0]), most // 2)
                if left:  # outside the handler, whose traceback would keep the failed batch's memory
                    torch.accelerator.empty_cache()
                    block = list(left)

    def _draw(
        self,
        prompts: Sequence[tuple[list[int], Sequence[str | None], str | None]],
        temperature: float,
        longest: int,
        most: int,
    ) -> Iterator[tuple[int, list[Drawn]]]:
        ids, seeds, grammars = zip(*prompts, strict=True)  # all have a grammar, or none
        limits = [limit for limit, of_prompt in zip(self._limits(ids, longest), seeds, strict=True) for _ in of_prompt]
        several, loops = len(seeds[0]), [LoopEnd() for _ in limits]
        held = self._held(None if grammars[0] is None else lambda row: grammars[row // several])
        draws = choosing.Draws([seed for of_prompt in seeds for seed in of_prompt], temperature, held)
        draw = decoding.draw if self.groups else by_generate.draw
        options: dict[str, Any] = {"pad": self.encoder.tokenizer.pad_token_id, "stops": self.stops, "limits": limits}
        options |= {"ended": [loop.closed_by for loop in loops], "most": most}
        for n, rows in draw(self.model, ids, several, draws, **options):
            drawn = []
            for place, row in enumerate(rows, n * several):
                sample = self._sample(row, loops[place].looped or len(row) >= limits[place])
                logprob = sum(draws.logprobs[place][: len(row)]) / len(row)
                drawn.append(Drawn(*sample[:3], logprob, sample.looped))
            yield n, drawn

    def _with_scores(self, sample: Sample, row: list[int], logprobs: Sequence[float]) -> Sample:
        # `generate` goes on with rows that have ended; what it asked of them afterwards is no part of the answer.
        ids = row[: sample.tokens]
        ends = token_ends(self.encoder.tokenizer, ids, sample.text)
        return sample._replace(scores=TokenScores(ends, tuple(logprobs[: len(ids)])))

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(self.encoder.tokenizer, self.model.config.get_text_config(decoder=True).vocab_size)

    def _held(self, grammar: GrammarOf | None) -> Held | None:
        """What holds rows to their grammars."""
        return Held(lambda row: self._grammars.matcher(grammar(row)), self.stops) if grammar else None

    def _limits(self, ids: Sequence[list[int]], most: int) -> list[int]:
        """Most tokens of each answer."""
        return [min(most, (self.context or sys.maxsize) - len(prompt)) for prompt in ids]

    def _sample(self, row: list[int], cut: bool) -> Sample:
        ended = row[-1] in self.stops
        answer = row[:-1] if ended else row
        text = self.encoder.tokenizer.decode(answer, skip_special_tokens=True)
        truncated = not ended and cut
        return Sample(text, len(answer), truncated, looped=truncated and loops(answer, TOKENS))

    def _ended(self, loop: LoopEnd) -> by_generate.Ended:
        if not self.stop_at_json:
            return loop.closed_by
        end = JsonEnd()
        return lambda token: end.closed_by(self._piece(token)) or loop.closed_by(token)


EPISODES: Final = TURNS_ROOM // 1_024
"""Conversations of a thousand tokens that fit into the room of `Turns`."""
DRAWN_ROOM: Final = 65_536
"""Tokens of prompts, counted once for each answer, that a batch of drawn answers keeps in its cache."""
GPU_BATCH, CPU_BATCH = (64, 32_768), (32, 8_192)
"""Rows of a batch, and tokens of its padded prompts, at most."""

BLOCK = 32
"""Prompts whose several answers are computed together, at most, also where only some of them are missing."""
