"""What answers: a local model, or any server that speaks OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from adapters.extract_files import blocks
from adapters.extract_source import Source
from adapters.types import Message, UserError


class Request(NamedTuple):
    """A row's prompt."""

    row: int
    prompt: tuple[Message, ...]


class Answer(NamedTuple):
    """What came of a row: the text as the model wrote it, or why there is none (a short kind, a colon, a reason)."""

    row: int
    text: str = ""
    tokens: int = 0
    truncated: bool = False
    error: str | None = None


Engine = Callable[[Iterable[Request]], Iterator[Answer]]
"""Answers requests in any order, reading at most `WINDOW` rows ahead of the oldest one that is not answered."""

WINDOW = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose about the answers."""

    max_new_tokens: int = 2048
    batch_size: int | None = None
    constrain: bool = True
    endpoint: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    concurrency: int = 16


def make(name: str, source: Source, options: Options, note: Callable[[str], None]) -> Engine:
    """The engine of that name. `note` is told what a person should know. Raises UserError when it cannot be had."""
    if name == "endpoint":
        from adapters.extract_endpoint import Endpoint

        return Endpoint.connect(source, options, note)
    if source.echo:
        return _echo(source, options)
    if name == "vllm":
        from importlib.util import find_spec

        if find_spec("vllm") is None:
            raise UserError("vLLM is not installed: pip install 'extraction-adapters[vllm]', or leave --engine out.")
        from adapters.backends.local.extraction import vllm_engine

        return vllm_engine(source, options, WINDOW)
    from adapters.backends.local.extraction import transformers_engine

    return transformers_engine(source, options, WINDOW, note)


def _echo(source: Source, options: Options) -> Engine:
    from adapters.backends.echo import EchoBackend

    sampler = EchoBackend.remembered(source.adapter)

    def answer(requests: Iterable[Request]) -> Iterator[Answer]:
        for block in blocks(requests, WINDOW):
            samples = sampler(
                [r.prompt for r in block],
                max_new_tokens=options.max_new_tokens,
                batch_size=options.batch_size,
                progress=lambda *_: None,
            )
            for request, sample in reversed(list(zip(block, samples, strict=True))):
                yield Answer(request.row, *sample)

    return answer
