"""The extraction engine by its name: transformers, vLLM, a server, or echo for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from adapters.backends.adapter_folder import CONFIG
from adapters.errors import UserError
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import WINDOW, Answer, Engine, Options, Request
from adapters.extraction.files import blocks
from adapters.files import read_json


def make(name: str, source: Source, options: Options, note: Callable[[str], None]) -> Engine:
    """The engine of a name. `note` is called with messages for the user. Raises UserError."""
    if name == "endpoint":
        from adapters.extraction.endpoint_engine import EndpointEngine

        return EndpointEngine.connect(source, options, note)
    if source.echo:
        return _echo(source, options)
    if name == "vllm":
        from importlib.util import find_spec

        if find_spec("vllm") is None:
            raise UserError(
                "vLLM is not installed: pip install -c constraints.txt -e '.[vllm]' in the repository, or leave out "
                "--engine."
            )
        config = read_json(source.adapter / CONFIG)
        if config.get("rank_pattern") or config.get("alpha_pattern"):
            raise UserError(
                "the adapter has other ranks or alphas for some modules, and vLLM would scale these wrongly; "
                "extract from the bundle that `adapters publish RUN --dry-run` makes, or leave --engine out."
            )
        from adapters.extraction.local_engines import vllm_engine

        return vllm_engine(source, options, WINDOW, note)
    from adapters.extraction.local_engines import transformers_engine

    return transformers_engine(source, options, WINDOW, note)


def _echo(source: Source, options: Options) -> Engine:
    from adapters.backends.echo import EchoBackend

    sampler = EchoBackend.sampler(source.adapter)

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
