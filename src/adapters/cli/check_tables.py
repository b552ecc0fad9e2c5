"""What `adapters check` prints."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from adapters.backends.memory import GB
from adapters.cli.tables import plan_table
from adapters.console import new_table
from adapters.pipeline.check import Checked

SHOWN_TOKENS = 800


def report(checked: Checked) -> Iterator[RenderableType]:
    """What `check` prints; the last line says whether the recipe can run."""
    if checked.plan is not None:
        yield plan_table(checked.plan)
    if checked.lengths:
        yield from ("", lengths_table(checked))
    if checked.prompts:
        yield from prompts_shown(checked.prompts)
    if checked.parity:
        yield parity_table(checked)
    if checked.ledger:
        yield from (ledger_table(checked.ledger), "")
    if checked.memory:
        yield from (memory_table(checked), "")
    if checked.rewards:
        yield from (rewards_table(checked), "")
    in_table = checked.plan.notes if checked.plan is not None else ()
    yield from (escape(note) for note in checked.notes if note not in in_table)
    yield from (f"[yellow]warning:[/] {escape(warning)}" for warning in checked.warnings)
    yield from (f"[red]error:[/] {escape(error)}" for error in checked.errors)
    if count := len(checked.errors):
        yield f"[red]{count} error{'s' if count > 1 else ''}: the run would fail.[/]"
    else:
        yield "[green]Ready to run.[/]"


def lengths_table(checked: Checked) -> Table:
    """Tokens of prompts and targets, and rows lost to the length limits.

    Of a test set, "dropped" counts the gold answers that are longer than max_new_tokens.
    """
    written = any(any(s["target"].values()) for sources in checked.lengths.values() for s in sources)
    columns = ("rows", "kept", "dropped", "prompt", *(["target"] if written else []))  # an encoder writes none
    table = new_table("lengths in tokens (p50/p95/p99/max)", ["source"], columns)
    for name, sources in checked.lengths.items():
        table.add_row(f"[bold]{name}[/]")
        for s in sources:
            spread = {k: "/".join(map(str, s[k].values())) for k in ("prompt", "target", "rejected") if k in s}
            counts = (f"{s[key]:,}" for key in columns[:3])
            table.add_row(f" {s['source']}", *counts, spread["prompt"], *([spread["target"]] if written else []))
            if "rejected" in spread:
                table.add_row("  rejected side", "", "", "", "", spread["rejected"])
    return table


def prompts_shown(prompts: dict[str, Any]) -> Iterator[RenderableType]:
    """The first example and the first pair by token, and where their prompts differ.

    Masked tokens are grey, learned ones green, those of the rejected side red.
    """
    colours = {"prompt": ("grey62", "grey42"), "learned": ("green", "bright_green"), "rejected": ("red", "bright_red")}
    for example in prompts["shown"]:
        text = Text()
        earlier = set(example["earlier"])
        for key, styles in colours.items():
            pieces = [
                (
                    piece.replace("\n", "⏎\n"),
                    (colours["learned"] if key == "prompt" and n in earlier else styles)[n % 2],
                )
                for n, piece in enumerate(example[key])
            ]
            if key == "rejected" and pieces:
                text.append("\n")
            if len(pieces) > SHOWN_TOKENS:
                pieces = [*pieces[: SHOWN_TOKENS // 2], (" … ", ""), *pieces[-SHOWN_TOKENS // 2 :]]
            for piece, style in pieces:
                text.append(piece, style=style)
        rejected = f", {len(example['rejected'])} rejected (red)" if example["rejected"] else ""
        masked, learned = len(example["prompt"]) - len(earlier), len(example["learned"]) + len(earlier)
        counts = f"{masked} tokens masked (grey), {learned} learned (green){rejected}"
        yield Text(f"\nrow {example['id']}: {counts}")
        yield text
        reference = "".join(example["prompt"]).splitlines()
        for name in example["different"]:
            other = example["views"][name].splitlines()
            yield Text("\n".join(difflib.unified_diff(reference, other, "the prompt", name, lineterm="", n=1)))
        if not example["different"]:
            yield f"{', '.join(example['views'])}: the same prompt"
    if rows := prompts["looked_at"]:
        yield Text(f"{prompts['end_token_lost']} of {rows} rows lose their end token, {prompts['end_token']!r}")
    yield ""


def parity_table(checked: Checked) -> Table:
    """The local and the hosted trainer: first what differs, then what is the same."""
    table = new_table("local and hosted", ["what", "", "local", "hosted"])
    for same in (False, True):
        for d in (d for d in checked.parity if d.same is same):
            table.add_row(d.what, "same" if same else "[yellow]differs[/]", escape(d.local), escape(d.hosted))
        table.add_section()
    return table


def ledger_table(ledger: dict[str, Any]) -> Table:
    """Sources by stage and test set: share, empty gold, repeated texts, licence."""
    numbers = ("rows", "used", "share", "empty", "twice", "nearly")
    table = new_table("data (empty: no gold; twice, nearly: repeats another text)", ["source"], numbers)
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
    """Memory by component, of every stage and of the largest test set."""
    tests = [s for s in checked.memory if s.name.startswith("evaluate ")]
    largest = max(tests, key=lambda s: s.peak, default=None)
    shown = [s for s in checked.memory if s not in tests or s is largest]
    table = new_table("memory of one process in GB", ["part"], [stage.name for stage in shown])
    for part in dict.fromkeys(part for stage in shown for part in stage.parts):
        table.add_row(part, *(f"{s.parts[part] / GB:.2f}" if part in s.parts else "" for s in shown))
    table.add_section()
    table.add_row("peak", *(f"[{'green' if s.fits else 'red'}]{s.peak / GB:.2f}[/]" for s in shown))
    table.add_row("available", *(f"{s.available / GB:.2f}" if s.available else "?" for s in shown))
    if len(tests) > 1:
        table.caption = f"{len(tests) - 1} other test sets take less"
    return table


def rewards_table(checked: Checked) -> Table:
    """Mean reward by kind of answer, and the speed of each reward."""
    table = new_table("rewards on the training rows: mean by answer", ["answer"], list(checked.rewards))
    results = list(checked.rewards.values())
    means = [{kind: figures["mean"] for kind, figures in result.variants.items()} for result in results]
    baselines = [{f"always: {kind}": mean for kind, mean in result.baselines.items()} for result in results]
    kinds = sorted(dict.fromkeys(k for m in means for k in m), key=lambda k: -max(m.get(k, 0) for m in means))
    for rows, names in ((means, kinds), (baselines, dict.fromkeys(k for b in baselines for k in b))):
        for name in names:
            table.add_row(name, *(f"{row[name]:.3f}" if name in row else "" for row in rows))
        table.add_section()
    table.add_row("calls/s", *(f"{r.speed.get('calls_per_second', 0):,.0f}" for r in results))
    table.add_row("p99 ms", *(f"{r.speed.get('p99_ms', 0):g}" for r in results))
    return table
