"""Greedy answers from the service, for evaluation and extraction."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from adapters.backends.local.encoder import Encoder, end_tokens
from adapters.backends.repetition import TOKENS, loops
from adapters.backends.tinker.cost import Account, Tokens
from adapters.backends.tinker.service import SAMPLED_AT_ONCE, Sampler
from adapters.types import Message, Progress, Sample


def stop_tokens(encoder: Encoder) -> list[int]:
    """Tokens that end an answer, by template, tokenizer and generation config."""
    return sorted({encoder.end, encoder.tokenizer.eos_token_id, *_configured(encoder.tokenizer.name_or_path)} - {None})


@lru_cache
def _configured(model: str) -> tuple[int, ...]:
    from transformers import GenerationConfig

    try:
        return tuple(end_tokens(GenerationConfig.from_pretrained(model)))
    except OSError:  # a model without one
        return ()


def answer_of(encoder: Encoder, tokens: Sequence[int]) -> list[int]:
    """The tokens before the stop token, whether or not the service sent that one."""
    stops = set(stop_tokens(encoder))
    return list(tokens[: next((n for n, token in enumerate(tokens) if token in stops), len(tokens))])


def text_of(encoder: Encoder, tokens: Sequence[int]) -> str:
    """An answer's text."""
    return str(encoder.tokenizer.decode(answer_of(encoder, tokens), skip_special_tokens=True))


class HostedSampler:
    """Weights on the service and their tokenizer as an `adapters.types.Sampler`."""

    def __init__(self, sampler: Sampler, encoder: Encoder, account: Account, entry: str) -> None:
        self.sampler, self.encoder, self.account, self.entry = sampler, encoder, account, entry

    def __call__(
        self, prompts: Sequence[Sequence[Message]], *, max_new_tokens: int, batch_size: int | None, progress: Progress
    ) -> list[Sample]:
        """Completions in the order of the prompts; `batch_size` is ignored."""
        ids = self.encoder.prompts(prompts)
        samples: list[Sample] = []
        for first in range(0, len(ids), SAMPLED_AT_ONCE):
            chunk = ids[first : first + SAMPLED_AT_ONCE]
            prompt_tokens = Tokens(prefill=sum(map(len, chunk)))
            self.account.allow(prompt_tokens)
            self.account.charge(self.entry, prompt_tokens)
            requests = [
                self.sampler.sample(i, 1, max_tokens=max_new_tokens, temperature=0.0, stop=stop_tokens(self.encoder))
                for i in chunk
            ]
            sampled = 0
            for pending in requests:
                sequence = pending.result().sequences[0]
                answer = answer_of(self.encoder, sequence.tokens)
                sampled += len(sequence.tokens)
                cut = sequence.stop_reason == "length"
                looped = cut and loops(answer, TOKENS)
                samples.append(Sample(text_of(self.encoder, answer), len(answer), cut, looped=looped))
                progress(len(samples), len(ids), self.account.live())
            self.account.charge(self.entry, Tokens(sample=sampled))
        return samples
