"""`adapters check`: a recipe's audit before GPU time is spent on it."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adapters.cli.errors import errors

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from adapters.pipeline.check import Checked
    from adapters.plugins.source_files import PluginFiles

app = typer.Typer()
SHOWN_TOKENS = 800


@app.command()
def check(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="stages.1.beta=0.01 …")] = None,
    no_import: Annotated[bool, typer.Option("--no-import", help="List the plug-ins' files and stop.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="Plan memory for a GPU of this size: 80GB.")] = None,
    launch: Annotated[
        Path | None, typer.Option("--launch", help="Plan memory for this accelerate config file's processes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Everything knowable before spending GPU time: plug-ins, lengths, masks, prompts, data, memory, rewards.

    Exits with 2 when something would go wrong.
    """
    from adapters.plugins import source_files
    from adapters.recipe.load import load_recipe

    with errors() as state:
        state.file = file = load_recipe(recipe, overrides or [])
        plugins = source_files.of_recipe(file.recipe, file.folder)
        if not as_json:
            for line in plugin_lines(plugins):
                print(line)
        if no_import:
            if as_json:
                print(json.dumps({"plugins": [p.as_json() for p in plugins]}))
            return
        from adapters.backends import backend as make_backend
        from adapters.console import console, quiet
        from adapters.pipeline.check import check_recipe, hardware_of
        from adapters.publish.hub import ask_hub

        hardware = hardware_of(device, launch)
        with quiet(None), console(stderr=True).status("reading data, prompts and rewards"):
            checked = check_recipe(file, make_backend(file.recipe), plugins, hardware, ask_hub)
        if as_json:
            print(json.dumps(checked.as_json(), default=str))
        else:
            for part in report(checked):
                console().print(part)
    if checked.errors:
        raise typer.Exit(2)


def plugin_lines(plugins: Sequence[PluginFiles]) -> Iterator[str]:
    """Which code a recipe runs: of ours by name, of others file by file."""
    for p in plugins:
        where = ".".join(map(str, p.at))
        if not p.found:
            yield f"{where}: {p.use}: not found"
        elif p.built_in:
            yield f"{where}: {p.use}, built in"
        else:
            yield f"{where}: {p.use} imports"
            yield from (f"  {file}" for file in p.files)
            if p.libraries:
                yield f"  and the packages {', '.join(p.libraries)}"


def report(checked: Checked) -> Iterator[RenderableType]:
    """What a person sees, the verdict last."""
    from rich.markup import escape

    from adapters.cli import tables

    if checked.plan is not None:
        yield tables.plan_table(checked.plan)
    if checked.lengths:
        yield ""
        yield lengths_table(checked)
    if checked.prompts:
        yield from prompts_shown(checked.prompts)
    if checked.parity:
        yield parity_table(checked)
    if checked.ledger:
        yield ledger_table(checked.ledger)
        yield ""
    if checked.memory:
        yield memory_table(checked)
        yield ""
    if checked.rewards:
        yield rewards_table(checked)
        yield ""
    in_table = checked.plan.notes if checked.plan is not None else ()
    yield from (escape(note) for note in checked.notes if note not in in_table)
    for warning in checked.warnings:
        yield f"[yellow]warning:[/] {escape(warning)}"
    for error in checked.errors:
        yield f"[red]error:[/] {escape(error)}"
    if checked.errors:
        yield f"[red]{len(checked.errors)} error{'s' if len(checked.errors) > 1 else ''}: this would not go well.[/]"
    else:
        yield "[green]Ready to run.[/]"


def lengths_table(checked: Checked) -> Table:
    """Tokens of prompts and targets, and rows lost to the limits. Of a test set, "dropped" rows are cut answers."""
    columns = ("rows", "kept", "dropped", "prompt", "target")
    table = _table("lengths in tokens (p50/p95/p99/max)", "source", *columns)
    for name, sources in checked.lengths.items():
        table.add_row(f"[bold]{name}[/]")
        for s in sources:
            spread = {k: "/".join(map(str, s[k].values())) for k in ("prompt", "target", "rejected") if k in s}
            counts = (f"{s[key]:,}" for key in columns[:3])
            table.add_row(f" {s['source']}", *counts, spread["prompt"], spread["target"])
            if "rejected" in spread:
                table.add_row("  rejected side", "", "", "", "", spread["rejected"])
    return table


def prompts_shown(prompts: dict[str, Any]) -> Iterator[RenderableType]:
    """The first example, and the first pair, token by token; and where two views of it differ.

    Masked is grey, learned green, the side to be avoided red.
    """
    from rich.text import Text

    for one in prompts["shown"]:
        text = Text()
        parts = (("prompt", ("grey62", "grey42")), ("learned", ("green", "bright_green")))
        for key, styles in (*parts, ("rejected", ("red", "bright_red"))):
            pieces = one[key]
            cut = len(pieces) > SHOWN_TOKENS
            shown = [*pieces[: SHOWN_TOKENS // 2], " … ", *pieces[-SHOWN_TOKENS // 2 :]] if cut else pieces
            if key == "rejected" and pieces:
                text.append("\n")
            for n, piece in enumerate(shown):
                text.append(piece.replace("\n", "⏎\n"), style=styles[n % 2])
        rejected = f", {len(one['rejected'])} rejected (red)" if one["rejected"] else ""
        counts = f"{len(one['prompt'])} tokens masked (grey), {len(one['learned'])} learned (green){rejected}"
        yield Text(f"\nrow {one['id']}: {counts}")
        yield text
        reference = "".join(one["prompt"])
        for name in one["different"]:
            lines = difflib.unified_diff(
                reference.splitlines(), one["views"][name].splitlines(), "the prompt", name, lineterm="", n=1
            )
            yield Text("\n".join(lines))
        if not one["different"]:
            yield f"{', '.join(one['views'])}: the same prompt"
    lost, looked_at = prompts["end_token_lost"], prompts["looked_at"]
    yield Text(f"{lost} of {looked_at} rows lose their end token, {prompts['end_token']!r}\n")


def parity_table(checked: Checked) -> Table:
    """The recipe here and on the service: what differs first, then what is made to agree."""
    from rich.markup import escape

    table = _table("local and hosted", "what", "")
    for column in ("local", "hosted"):
        table.add_column(column)
    for same in (False, True):
        for d in (d for d in checked.parity if d.same is same):
            table.add_row(d.what, "same" if same else "[yellow]differs[/]", escape(d.local), escape(d.hosted))
        table.add_section()
    return table


def ledger_table(ledger: dict[str, Any]) -> Table:
    """Sources by stage and test set: share of the mix, empty gold, exactly and nearly repeated texts, licence."""
    names = ("source", "rows", "used", "share", "empty", "twice", "nearly")
    table = _table("data (empty: no gold; twice, nearly: repeats another text)", *names)
    table.add_column("licence", overflow="fold")
    for name, part in {**ledger["stages"], **ledger["tests"]}.items():
        table.add_row(f"[bold]{name}[/]")
        for s in part["sources"]:
            values = (s["share"], s["empty_gold_share"], *s["duplicates"].values())
            shares = (f"{v:.0%}" if v == 0 or v >= 0.1 else f"{v:.1%}" for v in values)
            licence = s["license"] or ("generated" if s["generated"] else "?")
            table.add_row(f" {s['source']}", f"{s['rows']:,}", f"{s['used']:,}", *shares, licence)
    return table


def memory_table(checked: Checked) -> Table:
    """Gigabytes by component, and what there is: of every stage, and of the test set that takes most."""
    from adapters.backends.memory import GB

    tests = [s for s in checked.memory if s.name.startswith("evaluate ")]
    most = max(tests, key=lambda s: s.peak, default=None)
    shown = [s for s in checked.memory if s not in tests or s is most]
    known = list(dict.fromkeys(part for stage in shown for part in stage.parts))
    table = _table("memory of one process in GB", "part", *(stage.name for stage in shown))
    for part in known:
        table.add_row(part, *(f"{s.parts[part] / GB:.2f}" if part in s.parts else "" for s in shown))
    table.add_section()
    table.add_row("peak", *(f"[{'green' if s.fits else 'red'}]{s.peak / GB:.2f}[/]" for s in shown))
    table.add_row("available", *(f"{s.available / GB:.2f}" if s.available else "?" for s in shown))
    if len(tests) > 1:
        table.caption = f"{len(tests) - 1} other test sets take less"
    return table


def rewards_table(checked: Checked) -> Table:
    """Mean reward by kind of answer, and how fast."""
    table = _table("rewards on the training rows: mean by answer", "answer", *checked.rewards)
    benches = list(checked.rewards.values())
    variants = list(dict.fromkeys(v for b in benches for v in b.variants))
    for variant in sorted(variants, key=lambda v: -max(b.variants.get(v, {"mean": 0})["mean"] for b in benches)):
        table.add_row(
            variant, *(f"{b.variants[variant]['mean']:.3f}" if variant in b.variants else "" for b in benches)
        )
    table.add_section()
    for baseline in dict.fromkeys(v for b in benches for v in b.baselines):
        table.add_row(
            f"always: {baseline}", *(f"{b.baselines[baseline]:.3f}" if baseline in b.baselines else "" for b in benches)
        )
    table.add_section()
    table.add_row("calls/s", *(f"{b.speed.get('calls_per_second', 0):,.0f}" for b in benches))
    table.add_row("p99 ms", *(f"{b.speed.get('p99_ms', 0):g}" for b in benches))
    return table


def _table(title: str, first: str, *numbers: str) -> Table:
    """A column of names, which fold where a screen is narrow, and columns of numbers, which never do."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column(first, overflow="fold")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table
