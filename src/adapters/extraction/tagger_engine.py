"""The extraction engine of encoder adapters, which answer without writing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adapters.backends.local.tagger import Tagger, TaggerSampler
from adapters.data_aug.mine.words import Question, question_of
from adapters.errors import UserError
from adapters.extraction.adapter_source import Source
from adapters.extraction.engine import Answer, Engine, Options, Request
from adapters.extraction.files import blocks


def tagger_engine(source: Source, options: Options, window: int) -> Engine:
    """The adapter merged into its encoder; batches sorted by length inside a window of rows."""
    threshold = getattr(source.task, "threshold", None)
    tagger = Tagger.load(source.adapter, base=source.model.base, threshold=threshold)
    sampler = TaggerSampler(tagger)

    def answer(requests: Iterable[Request]) -> Iterator[Answer]:
        for block in blocks(requests, window):
            asked: list[tuple[int, Question]] = []
            for request in block:
                question = question_of(request.prompt)
                if tagger.encoder.reading(question).fits:
                    asked.append((request.row, question))
                else:
                    yield Answer(request.row, error=_too_long(tagger, question))
            samples = sampler.answers([question for _, question in asked], options.batch_size)
            yield from (Answer(row, *sample[:3]) for (row, _), sample in zip(asked, samples, strict=True))

    return answer


def _too_long(tagger: Tagger, question: Question) -> str:
    try:
        tagger.encoder.read(question)
    except UserError as error:
        return f"too long: {error}"
    return ""
