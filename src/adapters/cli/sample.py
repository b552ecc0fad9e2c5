"""`adapters sample`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option, Typer

from adapters.cli.errors import errors
from adapters.cli.extract import AdapterOptions
from adapters.cli.options import (
    AsJson,
    Fresh,
    RewardParams,
    Seed,
    Server,
    Trust,
    grouped,
    plugin_consent,
    reward_spec,
)

if TYPE_CHECKING:
    from rich.console import Console

app = Typer()


@app.command()
@grouped
def sample(
    source: Annotated[str, Argument(metavar="ADAPTER", help="A run, a stage, a bundle, or a Hub id.")],
    rows: Annotated[Path, Argument(help="Rows with labels, which the adapter's task reads.")],
    out: Annotated[Path, Option("-o", "--out", help="The graded completions: .jsonl.")],
    adapter: AdapterOptions,
    server: Server,
    k: Annotated[int, Option("-k", min=1, help="Samples of each row.")] = 8,
    temperature: Annotated[float, Option(metavar="X", min=0.01, help="Sampling temperature.")] = 0.8,
    greedy: Annotated[bool, Option(help="The greedy answer too, which evaluations show.")] = True,
    reward: Annotated[str | None, Option(help="Default: those of the run's last stage with rewards, else F1.")] = None,
    reward_params: RewardParams = None,
    engine: Annotated[Literal["transformers", "vllm"], Option(help="What runs the model locally.")] = "transformers",
    batch_size: Annotated[int | None, Option(min=1, help="Completions at a time; default: 64.")] = None,
    max_tokens: Annotated[
        int | None,
        Option(
            min=1,
            help="Longest completion, in tokens; default: 1.5 times the longest gold answer; 2048 if a row has none.",
        ),
    ] = None,
    seed: Seed = 0,
    fresh: Fresh = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Draw several completions of each row and grade them. Started again, it continues where it stopped.

    The table at the end says what a choice among the samples would be worth, and so what RL can learn from them.
    """
    with errors() as state:
        server.refuse_without_endpoint()
        from adapters.cli.resuming import filled
        from adapters.console import console, note, phase
        from adapters.extraction import engines, sampling
        from adapters.extraction.engine import DrawEngine, Drawing, Options

        screen = console(stderr=as_json)
        spec, consent = reward_spec(reward, reward_params), plugin_consent(trust)
        model = adapter.find(source, consent, any_task=True)
        name = "endpoint" if server.endpoint else engine
        drawing = Drawing(k, temperature, greedy, seed, max_tokens)
        rewards = sampling.rewards_of(model, spec, consent)
        settings = {"engine": name, "endpoint": server.endpoint}
        work = sampling.prepare(model, rows, out, drawing, rewards, engine=settings)
        options = Options(max_tokens or Options().max_new_tokens, batch_size, constrain="off", **vars(server))

        def start() -> DrawEngine:
            loaded = engines.make_draws(name, model, drawing, options, note)
            phase("sampling")
            return loaded

        counts = filled(work, state, lambda bar: sampling.run(work, start, bar), fresh=fresh)
        if as_json:
            print(json.dumps(counts))
        else:
            _print_figures(screen, out, counts, ", ".join(r.name for r in rewards))


def _print_figures(screen: Console, out: Path, counts: Mapping[str, Any], reward: str) -> None:
    from adapters.console import new_table

    figures = counts["figures"]
    if figures:
        n = figures["one sample"]["n"]
        table = new_table(f"{reward}, mean of {n:,} rows", ["answer"], ["reward", "95 % interval"])
        for name, value in figures.items():
            low, high = value["mean_ci"]
            table.add_row(name, f"{value['mean']:.3f}", f"{low:.3f} to {high:.3f}")
        screen.print(table)
    errors = ", ".join(f"{n:,} {kind}" for kind, n in counts["errors"].items())
    line = f"{out}: {counts['samples']:,} completions of {counts['rows']:,} rows, {counts['tokens']:,} tokens, "
    line += f"{counts['truncated']:,} cut, {counts['seconds']:,.0f} s" + (f"; without: {errors}" if errors else "")
    screen.print(line, soft_wrap=True)
