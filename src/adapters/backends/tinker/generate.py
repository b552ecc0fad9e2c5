"""Greedy answers from the service, for evaluation and extraction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from adapters.backends.local.model import Encoder
from adapters.backends.tinker.cost import Account, Tokens
from adapters.backends.tinker.service import SAMPLED_AT_ONCE, Sampler
from adapters.types import Message, Progress, Sample


def stop_tokens(encoder: Encoder) -> list[int]:
    """Tokens that end an answer: the template's end of turn, the tokenizer's, and those of the generation config."""
    return sorted({encoder.end, encoder.tokenizer.eos_token_id, *_configured(encoder.tokenizer.name_or_path)} - {None})


@lru_cache
def _configured(model: str) -> tuple[int, ...]:
    from transformers import GenerationConfig

    try:
        eos = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model without one
        return ()
    return () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)


def answer_of(encoder: Encoder, tokens: Sequence[int]) -> list[int]:
    """The tokens before the one that ends the answer, whether or not the service sent that one."""
    stops = set(stop_tokens(encoder))
    return list(tokens[: next((n for n, token in enumerate(tokens) if token in stops), len(tokens))])


def text_of(encoder: Encoder, tokens: Sequence[int]) -> str:
    """The answer as text."""
    return str(encoder.tokenizer.decode(answer_of(encoder, tokens), skip_special_tokens=True))


class HostedSampler:
    """Weights on the service with the tokenizer's rules. See `adapters.types.Sampler`."""

    def __init__(self, sampler: Sampler, encoder: Encoder, account: Account, entry: str) -> None:
        self.sampler, self.encoder, self.account, self.entry = sampler, encoder, account, entry

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """Completions in the order of the prompts; hundreds are under way at a time, whatever `batch_size` says."""
        ids = self.encoder.prompts(prompts)
        out: list[Sample] = []
        for first in range(0, len(ids), SAMPLED_AT_ONCE):
            some = ids[first : first + SAMPLED_AT_ONCE]
            read = Tokens(prefill=sum(map(len, some)))
            self.account.allow(read)
            self.account.charge(self.entry, read)
            asked = [
                self.sampler.sample(i, 1, max_tokens=max_new_tokens, temperature=0.0, stop=stop_tokens(self.encoder))
                for i in some
            ]
            written = 0
            for pending in asked:
                sequence = pending.result().sequences[0]
                answer = answer_of(self.encoder, sequence.tokens)
                written += len(sequence.tokens)
                out.append(Sample(text_of(self.encoder, answer), len(answer), sequence.stop_reason == "length"))
                progress(len(out), len(ids), self.account.live())
            self.account.charge(self.entry, Tokens(sample=written))
        return out
