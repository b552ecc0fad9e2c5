"""`adapters annotate`, `adapters plan` and `adapters mine`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer, confirm

from adapters.cli.errors import complain, errors
from adapters.cli.extract import print_counts
from adapters.cli.in_parts import ClusterOptions, Where, refuse_shard
from adapters.cli.options import AsJson, Fresh, MaxTokens, Seed, Server, Trust, grouped, plugin_consent
from adapters.errors import Refused, UserError

if TYPE_CHECKING:
    from adapters.extraction.adapter_source import Source

app = Typer()
TextColumn = Annotated[str, Option("--text", metavar="COLUMN", help="Column of the texts.")]
Yes = Annotated[bool, Option("--yes", help="Do not ask.")]


@dataclass(frozen=True)
class AskOptions:
    """What an annotator is asked, of which texts."""

    program: Annotated[Path | None, Option(metavar="PATH", help="A program: all its questions.")] = None
    span: Annotated[list[str] | None, Option(metavar="INSTRUCTION", help="What to mark; may be repeated.")] = None
    label: Annotated[list[str] | None, Option(metavar="STATEMENT", help="What may be so; may be repeated.")] = None
    share: Annotated[float | None, Option(metavar="X", help="Share of the distinct texts.", show_default="0.05")] = None
    n: Annotated[int | None, Option("-n", min=1, help="So many texts.")] = None
    balance: Annotated[
        str | None, Option(metavar="RUN", help="A proxy: half of the texts are those that it labels true.")
    ] = None


@dataclass(frozen=True)
class PriceOptions:
    """Prices of a large model's tokens."""

    price_in: Annotated[float | None, Option(metavar="X", min=0, help="Of a million tokens of prompts.")] = None
    price_out: Annotated[float | None, Option(metavar="X", min=0, help="Of a million tokens of answers.")] = None


@dataclass(frozen=True)
class BudgetOptions:
    """What may be spent."""

    max_cost: Annotated[float | None, Option(metavar="X", min=0, help="Cost of the answers, at most.")] = None
    max_tokens_total: Annotated[int | None, Option(min=1, help="Tokens of prompts and answers, at most.")] = None


@app.command()
@grouped
def annotate(
    corpus: Annotated[Path, Argument(help="The corpus: .jsonl, .json, .csv, .tsv, .parquet, also .gz.")],
    out: Annotated[Path, Option("-o", "--out", help="The rows for training: .jsonl.")],
    asks: AskOptions,
    prices: PriceOptions,
    budget: BudgetOptions,
    server: Server,
    text: TextColumn = "text",
    seed: Seed = 0,
    max_tokens: MaxTokens = 512,
    cache: Annotated[Path | None, Option(metavar="PATH", help="File of answers; default: OUT.answers.jsonl.")] = None,
    fresh: Annotated[bool, Option("--fresh", help="Replace OUT; answers in the file of answers are kept.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Show what it would take, and stop.")] = False,
    yes: Yes = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Let a large model label a share of a corpus, as rows to train a proxy on. Started again, it continues."""
    with errors() as state, _server_errors():
        from adapters.cli.mining_tables import print_annotation
        from adapters.cli.resuming import filled
        from adapters.console import console, quiet
        from adapters.mining import annotate as work
        from adapters.mining import program as programs
        from adapters.mining.answers import Annotator, Answers, Budget, Prices

        screen = console(stderr=True)
        proxy = _proxy(asks.balance, "annotate --balance", trust)
        limits = Budget(Prices(prices.price_in, prices.price_out), budget.max_cost, budget.max_tokens_total)
        given = (asks.span or [], asks.label or [])
        if asks.program is not None and any(given):
            raise UserError("--program has its own questions; leave --span and --label out.")
        program = programs.load(asks.program) if asks.program else work.of_options(*given)
        if asks.share is not None and asks.n is not None:
            raise UserError("--share and -n: give one of them.")
        share = 0.05 if asks.share is None and asks.n is None else asks.share
        weights = proxy.weights if proxy else None
        wanted = work.Wanted(corpus, out, program, text, share, asks.n, seed, weights, cache)
        wanted.check()
        connection = _endpoint(server, "annotate").connect()
        store = cache or out.with_name(f"{out.name}.answers.jsonl")
        annotator = Annotator(connection, Answers(store), limits, max_tokens)
        state.log = out.with_name(f"{out.name}.log")
        with quiet(state.log):
            sample, sides = work.drawn(wanted, _labeller(proxy) if proxy else None)
        job = work.job(wanted, sample, sides, annotator)
        if sides is not None:
            kinds = f"{len(sides.true):,} predicted true, {len(sides.false):,} false, {len(sides.filled):,} filled in"
            screen.print(f"balanced: {kinds}", soft_wrap=True)
        expected = work.estimate(sample, program, annotator, limits.prices)
        screen.print("\n".join(expected.lines()), soft_wrap=True)
        if dry_run:
            print(json.dumps(expected._asdict(), default=float)) if as_json else None
            return

        def agree() -> None:
            if expected.requests:
                _agree("Send them?", yes, "nothing was sent")

        run = partial(work.run, job, annotator)
        counts = filled(job, state, run, fresh=fresh, waiting="annotating", agree=agree)
        print_annotation(out, counts, as_json)


@app.command()
@grouped
def plan(
    instruction: Annotated[str, Argument(help="What to find, in words.")],
    out: Annotated[Path, Option("-o", "--out", help="The program: .yaml.")],
    prices: PriceOptions,
    server: Server,
    corpus: Annotated[Path | None, Option(metavar="PATH", help="For the estimate: the corpus.")] = None,
    proxy: Annotated[str | None, Option(metavar="RUN", help="For the estimate: a proxy, which is measured.")] = None,
    text: TextColumn = "text",
    share: Annotated[float, Option(metavar="X", help="Share of the texts to annotate.")] = 0.05,
    yes: Yes = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Let a large model write a program for `annotate` and `mine`. It is shown, and written after a yes."""
    with errors(), _server_errors():
        from adapters.cli.data import write_whole
        from adapters.console import console, quiet
        from adapters.mining import planner
        from adapters.mining.answers import Prices
        from adapters.mining.corpus import threshold
        from adapters.mining.sample import size

        screen = console(stderr=True)
        source = _proxy(proxy, "plan --proxy", trust)
        if source is not None and corpus is None:
            raise UserError("--proxy is measured on a corpus; give --corpus too.")
        if out.exists():
            raise UserError(f"{out} exists; choose another name.")
        size(0, share, None)
        connection = _endpoint(server, "plan").connect()
        try:
            planned = planner.plan(instruction, connection, out)
        except planner.NotPlannedError as error:
            rejected = out.with_name(f"{out.name}.rejected")
            write_whole(rejected, error.answer)
            complain(f"{error}\nThe last answer is in {rejected}.")
            raise Exit(1) from None
        with quiet(None):
            cost = planner.cost(
                planned.program,
                corpus=corpus,
                text=text,
                proxy=(lambda: _loaded(source)) if source else None,
                threshold=threshold(source) if source else 0.5,
                share=share,
                prices=Prices(prices.price_in, prices.price_out),
            )
        screen.print(planned.text, soft_wrap=True, markup=False)
        screen.print("\n".join(cost.lines(corpus is not None)), soft_wrap=True)
        _agree(f"Write it to {out}?", yes, "nothing was written")
        write_whole(out, planned.text)
        if as_json:
            said = {
                name: getattr(cost, name) for name in ("texts", "calls", "annotated", "requests", "tokens", "price")
            }
            print(json.dumps({"program": str(out), **said, "measured": cost.measured}, default=float))


@app.command()
@grouped
def mine(
    file: Annotated[Path, Argument(metavar="PROGRAM", help="A program, such as `adapters plan` writes.")],
    source: Annotated[str, Argument(metavar="ADAPTER", help="A run of kind token_classification, or its adapter.")],
    corpus: Annotated[Path, Argument(help="The corpus: .jsonl, .json, .csv, .tsv, .parquet, also .gz.")],
    out: Annotated[Path, Option("-o", "--out", help="The records: .jsonl or .parquet.")],
    cluster: ClusterOptions,
    text: TextColumn = "text",
    keep: Annotated[list[str] | None, Option(help="A column to carry over; may be repeated.")] = None,
    only_kept: Annotated[bool, Option("--only-kept", help="Leave out texts that the program drops.")] = False,
    uncertain: Annotated[
        tuple[int, Path] | None, Option(metavar="N FILE", help="Also write the N texts the proxy is least sure of.")
    ] = None,
    shard: Annotated[str, Option(metavar="I/N", help="Only this share of the rows.")] = "1/1",
    batch_size: Annotated[int | None, Option(min=1, help="Texts at a time, at most.")] = None,
    engine: Where = "local",
    fresh: Fresh = False,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Run a program over a corpus with a proxy. Started again, it continues where it stopped."""
    with errors() as state:
        cluster.refuse_without_ray(engine)
        from adapters.cli.mining_tables import print_steps
        from adapters.cli.resuming import filled
        from adapters.console import console, phase
        from adapters.extraction.engine import Engine
        from adapters.extraction.extract import run
        from adapters.mining import corpus as mined
        from adapters.mining import program as programs
        from adapters.mining.engine import ProgramEngine

        screen = console(stderr=True)
        found = _proxy(source, "mine", trust)
        assert found is not None  # noqa: S101 - a source is given
        program = programs.load(file)
        columns: dict[str, Any] = {"text": text, "keep": keep or (), "only_kept": only_kept}
        if engine == "ray":
            from adapters.cluster.work import Mining, shared

            refuse_shard(shard)
            if uncertain:
                raise UserError("--uncertain needs the whole corpus in one process; leave --engine out.")
            mining = Mining(program, shared(source), found.weights, batch_size, columns)
            counts = cluster.run(corpus, out, lambda _: mining, gpus=True, fresh=fresh)
        else:
            work = mined.prepare(program, found, corpus, out, **columns, shard=shard, uncertain=uncertain)

            def start() -> Engine:
                proxy = _loaded(found, batch_size)
                phase("mining")
                return ProgramEngine(program, proxy, mined.threshold(found), uncertain is not None)

            counts = filled(work, state, lambda bar: run(work, start, bar), fresh=fresh, waiting="loading the proxy")
        if uncertain and not uncertain[1].is_file():
            fault = "which texts the proxy is least sure of is known only while it works. --fresh does it again."
            raise UserError(f"{out} is complete already, and {uncertain[1]} is not there: {fault}")
        print_counts(screen, out, counts, as_json)
        if not as_json:
            print_steps(program, counts)


def _proxy(given: str | None, verb: str, trust: bool) -> Source | None:
    """The adapter of a proxy; None where none is given. Raises UserError for any other adapter."""
    if given is None:
        return None
    from adapters.extraction import adapter_source
    from adapters.mining.engine import check_proxy

    source = adapter_source.find_any(given, consent=plugin_consent(trust))
    check_proxy(source, given, verb)
    return source


def _loaded(source: Source | None, batch_size: int | None = None) -> Any:
    from adapters.mining import engine

    assert source is not None  # noqa: S101 - callers have one
    return engine.load_proxy(source, batch_size)


def _labeller(source: Source) -> Callable[[Sequence[str], str], list[bool]]:
    from adapters.mining import engine
    from adapters.mining.corpus import threshold

    proxy = _loaded(source)
    return lambda texts, statement: engine.labels(proxy, texts, statement, threshold(source))


def _endpoint(server: Server, verb: str) -> Server:
    if server.endpoint is None:
        raise UserError(f"{verb} needs the address of a large model: --endpoint URL.")
    return server


def _agree(question: str, yes: bool, otherwise: str) -> None:
    """Ask at a terminal. Raises Refused without one, and for any other answer than yes."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Refused(f"{otherwise}: nobody is there to ask; say --yes.")
    if not confirm(question, err=True):
        raise Refused(f"{otherwise}.")


@contextmanager
def _server_errors() -> Iterator[None]:
    """A server that is gone ends the command with exit code 1; a key that it refuses is the user's to mend."""
    from adapters.chat_client import KeyRefused, ServerError

    try:
        yield
    except KeyRefused as error:
        raise UserError(f"--endpoint: {error}") from None
    except ServerError as error:
        complain(f"--endpoint: {error}")
        raise Exit(1) from None
