"""`adapters calibrate`: how sure an adapter's answers are, measured on labelled rows and kept with the adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.extract import AdapterOptions, PickOptions
from adapters.cli.options import AsJson, Fresh, HowConstrained, MaxTokens, Server, Trust, grouped, plugin_consent

app = Typer()


@app.command()
@grouped
def calibrate(
    source: Annotated[str, Argument(metavar="ADAPTER", help="A run, a stage or a bundle: a folder.")],
    rows: Annotated[list[Path], Argument(help="Rows with labels, neither trained nor tested on.")],
    adapter: AdapterOptions,
    picks: PickOptions,
    server: Server,
    test: Annotated[str | None, Option(help="Measure on these rows too: a test set of the run, or a file.")] = None,
    engine: Annotated[Literal["transformers", "vllm"], Option(help="What runs the model locally.")] = "transformers",
    constrain: HowConstrained = None,
    batch_size: Annotated[int | None, Option(min=1, help="Default: 64 on a GPU, 32 without.")] = None,
    max_tokens: MaxTokens = 2048,
    fresh: Fresh = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Calibrate an adapter: how sure it may be of a value, for `adapters extract`.

    Answers are given as by `extract` with the same options. Started again, it continues where it stopped.
    """
    with errors() as state:
        server.refuse_without_endpoint()
        from adapters.cli.resuming import filled
        from adapters.console import console, note, phase
        from adapters.errors import UserError
        from adapters.extraction import calibrating
        from adapters.extraction.engine import Engine, Options
        from adapters.extraction.session import Session

        if not Path(source).expanduser().is_dir():
            raise UserError(f"{source} is no folder; a calibration is kept in the adapter's folder, so download it.")
        consent = plugin_consent(trust)
        model = adapter.find(source, consent)
        session = Session.open(
            model, engine, Options(max_tokens, batch_size, constrain, **vars(server)), **picks.checked()
        )
        if session.silent is not None:
            raise UserError(session.silent)
        cutter = session.cutter(None, passes=1)
        work = calibrating.prepare(
            model, rows, session.way, test=test, consent=consent, cutter=cutter, engine=session.settings
        )

        def start() -> Engine:
            loaded = session.start(note, scored=True)
            phase("answering")
            return loaded

        run = partial(calibrating.run, work, start)
        counts = filled(work, state, run, fresh=fresh, done=calibrating.done)
        if as_json:
            print(json.dumps(counts))
            return
        screen = console()
        for part in _shown(counts):
            screen.print(part, soft_wrap=True, markup=False)


def _shown(counts: Mapping[str, Any]) -> Iterator[str]:
    from adapters.evaluation.confidence import doubts, in_words

    yield f"answers by {counts['way']}: {counts['rows']:,} rows calibrated on, {counts['measured']:,} tested on"
    for name, figures in counts["figures"].items():
        texts = in_words(figures)
        yield f"{name}: {texts.pop('n')}, {texts.pop('right')} of them right"
        yield from (f"  {head:28} {text}" for head, text in texts.items())
        yield from (f"  note: {doubt}" for doubt in doubts(figures))
    left_out = [f"{n:,} {why}" for why, n in counts["left_out"].items() if n]
    left_out += [f"{n:,} answers with the error {why!r}" for why, n in counts["errors"].items()]
    left_out += [f"{n:,} values that the counts do not judge" for n in [counts["not_judged"]] if n]
    if left_out:
        yield f"left out: {', '.join(left_out)}"
