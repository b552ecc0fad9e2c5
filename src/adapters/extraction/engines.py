"""The extraction engine by its name: transformers, vLLM, a server, or echo for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec

from adapters.backends.adapter_folder import CONFIG
from adapters.errors import UserError
from adapters.evaluation import picking
from adapters.evaluation.picking import Pick
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import WINDOW, Answer, DrawEngine, Drawing, Engine, Group, Options, Request
from adapters.extraction.files import blocks
from adapters.files import read_json
from adapters.types import Drawn, Example, TokenScores


def make(name: str, source: Source, options: Options, note: Callable[[str], None]) -> Engine:
    """The engine of a name. `note` is called with messages for the user. Raises UserError."""
    if source.tags_words:
        if name != "transformers":
            raise UserError(
                "an encoder is served by neither vLLM nor a chat server; leave --engine and --endpoint out."
            )
        from adapters.extraction.tagger_engine import tagger_engine

        return tagger_engine(source, options, WINDOW)
    if name == "endpoint":
        from adapters.extraction.endpoint_engine import EndpointEngine

        return EndpointEngine.connect(source, options, note)
    if source.echo:
        return _echo(source, options)
    if name == "vllm":
        _check_vllm(source)
        from adapters.extraction.local_engines import vllm_engine

        return vllm_engine(source, options, WINDOW, note)
    from adapters.extraction.local_engines import transformers_engine

    return transformers_engine(source, options, WINDOW, note)


def make_draws(
    name: str, source: Source, drawing: Drawing, options: Options, note: Callable[[str], None]
) -> DrawEngine:
    """The engine of a name that draws several answers to each prompt. Raises UserError."""
    if source.tags_words:
        raise UserError("an encoder gives one answer to a text, so none can be picked from several.")
    if name == "endpoint":
        from adapters.extraction.endpoint_engine import endpoint_draws

        return endpoint_draws(source, drawing, options, note)
    if source.echo:
        return _echo_draws(source, drawing)
    from adapters.extraction import local_engines

    if name == "vllm":
        _check_vllm(source)
        return local_engines.vllm_draws(source, drawing, options, note)
    return local_engines.transformers_draws(source, drawing, options, note)


def make_picked(
    name: str, source: Source, drawing: Drawing, pick: Pick, options: Options, note: Callable[[str], None]
) -> Engine:
    """The engine of a name that answers several times and picks one answer, whose `tokens` are those of all."""
    if pick == "likelihood" and name == "endpoint":
        raise UserError("a server gives no log-probabilities of its answers here; use --pick vote.")
    draw = make_draws(name, source, drawing, options, note)

    def answer(requests: Iterable[Request]) -> Iterator[Answer]:
        for block in blocks(requests, WINDOW):
            examples = [Example(str(r.row), "", r.prompt, meta={"text": r.text}) for r in block]
            for place, answers, error in draw(examples, lambda _: True):
                row = block[place].row
                if error is not None:
                    yield Answer(row, error=error)
                    continue
                picked = answers[picking.pick(source.task, answers, pick)]
                texts = tuple(answer.text for answer in answers)
                yield Answer(row, picked.text, sum(a.tokens for a in answers), picked.truncated, samples=texts)

    return answer


def _check_vllm(source: Source) -> None:
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


def _echo_draws(source: Source, drawing: Drawing) -> DrawEngine:
    answer = _echo(source, Options())

    def draw(examples: Sequence[Example], wanted: Callable[[int], bool]) -> Iterator[Group]:
        for a in answer(Request(n, example.prompt) for n, example in enumerate(examples) if wanted(n)):
            yield Group(a.row, [Drawn(a.text, a.tokens, a.truncated)] * len(drawing.seeds("")))

    return draw


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
                # It is certain of all it says.
                scores = TokenScores((len(sample.text),), (0.0,)) if options.scored else None
                yield Answer(request.row, sample.text, sample.tokens, sample.truncated, scores=scores)

    return answer
