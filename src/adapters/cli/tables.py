"""What `adapters run` and `adapters eval` print: the plan and the results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from adapters.backends.jobs import Job
from adapters.evaluation import comparison
from adapters.evaluation.metrics import main_mode
from adapters.files import read_jsonl
from adapters.pipeline.plan import Plan
from adapters.recipe.stages import Grpo, Sft

MODELS_SHOWN = 3
"""In the one table of results: the base and the last stages. `--all` shows every model."""


def plan_table(plan: Plan) -> Table:
    """The stages and test sets: rows, steps, and what will run or is skipped."""
    recipe = plan.recipe
    table = new_table(f"{recipe.name}: {recipe.model.base}", "job")
    table.add_column("on")
    table.add_column("status")
    start, kept = None, True  # a stage runs when the one before it runs
    for job in plan.jobs:
        kept = kept and job.is_complete(start)
        start = job.folder
        status = "continues" if job.folder.with_name(job.name + ".partial").is_dir() else "runs"
        table.add_row(job.name, f"{_rows(job)}\n{_settings(job)}", "done, skipped" if kept else status)
    models = [job.name for job in plan.jobs]
    for e in plan.evaluations:
        table.add_row(
            f"evaluate {e.name}",
            f"{len(e.examples) // e.variants:,} rows{f' x {e.variants} variants' if e.variants > 1 else ''}, "
            f"up to {e.max_new_tokens} new tokens",
            ", ".join(["base", *models] if recipe.evaluate_base else models),
        )
    if plan.notes:
        table.caption = "\n".join(plan.notes)
    return table


def _rows(job: Job) -> str:
    sources = " + ".join(f"{entry['used']:,} {entry['source']}" for entry in job.ledger)
    extra = [f"{len(job.validation)} held out"] if job.validation else []
    extra += [f"{job.too_long} dropped as too long"] if job.too_long else []
    extra += [f"{len(job.rejected)} unreadable"] if job.rejected else []
    if job.stage.noise is not None:
        noisy = sum(entry["noise"]["rows"] * entry["used"] for entry in job.ledger) / sum(e["used"] for e in job.ledger)
        extra.append(f"{noisy:.0%} noised by {job.stage.noise.use}")
    tokens = f", {job.tokens['total']:,.0f} tokens" if job.tokens else ""
    return f"{len(job.examples):,} rows{tokens} ({'; '.join([sources, *extra])})"


def _settings(job: Job) -> str:
    stage = job.stage
    steps = f"{job.steps} step{'' if job.steps == 1 else 's'} of {stage.batch_size}"
    if isinstance(stage, Sft):
        return f"{steps}, lr {stage.learning_rate:g}"
    start = f"the adapter of stage {job.index}" if job.index else "the base (a new adapter)"
    reference = start if stage.reference == "start" else stage.reference
    if not isinstance(stage, Grpo):
        return f"{steps} pairs, lr {stage.learning_rate:g}, beta {stage.beta:g} to {reference}"
    kl = f"KL {stage.beta:g} to {reference}" if stage.beta else "no KL"
    return f"{steps} x {stage.group_size}, lr {stage.learning_rate:g}, {kl}"


def new_table(title: str, first: str, *numbers: str) -> Table:
    """A table with a column of names and columns of numbers.

    On a narrow screen only the names fold.
    """
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


def print_results(screen: Console, report: Mapping[str, Any], folder: Path, *, everything: bool = False) -> None:
    """Print the stages, one table of results, and what changed in one sentence.

    With `everything`, print all tables instead of the one.
    """
    lines = [_stage_line(name, stage) for name, stage in report.get("stages", {}).items()]
    tables = list(result_tables(report)) if everything else [main_table(report["sets"])] if report["sets"] else []
    for item in ["\n".join(lines), *tables, headline(report["sets"], folder)]:
        if item:
            screen.print()
            screen.print(item, soft_wrap=isinstance(item, str), markup=not isinstance(item, str))


def next_commands(folder: Path) -> str:
    """What to do with a finished run."""
    run = shlex.quote(str(folder))
    return (
        f"\nNext:\n  adapters report {run} --open\n  adapters extract {run} CORPUS.jsonl -o records.jsonl\n"
        f"  adapters publish {run}"
    )


def headline(sets: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """What training changed, in one sentence; empty when there is one model only."""
    lines = comparison.deltas(sets)
    if not lines:
        return ""
    line = next((line for line in lines if line["set"] == "average"), lines[0])
    what = f"average of {len(sets)} test sets" if line["set"] == "average" else f"{line['set']}, {line['field']}"
    interval = _interval(folder, line, sets)
    sure = " (95 % interval of the change: {:+.2f} to {:+.2f})".format(*interval) if interval else ""
    return f"{what}: F1 {line['base']:.2f} -> {line['tuned']:.2f}{sure}"


def _interval(folder: Path, line: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> list[float] | None:
    """The 95 % interval of a difference; None without the samples of both models."""
    if line["set"] not in sets:
        return None  # an average has no samples
    models = line["from"], line["to"]
    samples = tuple(read_jsonl(folder / "eval" / model / line["set"] / "samples.jsonl") for model in models)
    before, after = (sets[line["set"]][model] for model in models)
    changes = comparison.changes(before, after, line["mode"], (samples[0], samples[1]) if all(samples) else None)
    return next((change.interval for change in changes if change.field == line["field"]), None)


def main_table(sets: Mapping[str, Mapping[str, Any]]) -> Table:
    """F1 with its interval in the main matching mode, by test set, field and model."""
    models = list(dict.fromkeys(label for results in sets.values() for label in results))
    shown = models if len(models) <= MODELS_SHOWN else [models[0], *models[1 - MODELS_SHOWN :]]
    first = {name: next(iter(results.values())) for name, results in sets.items()}
    mode = main_mode(next(iter(first.values()))["metrics"])
    shares = all(_are_shares([r["metrics"][mode] for r in results.values()]) for results in sets.values())
    figure = "share of the examples" if shares else f"F1, {mode} matching"
    table = new_table(f"{figure} (95 % interval)", "test set")
    table.add_column("field", overflow="fold")
    for column in ("examples", *shown):
        table.add_column(column, justify="right", no_wrap=True)
    for name, results in sets.items():
        for field in _fields(results, mode):
            figures = [results[m]["metrics"][mode][field] if m in results else None for m in shown]
            cells = ["{:.3f} ({:.2f}-{:.2f})".format(f["f1"], *f["f1_ci"]) if f else "" for f in figures]
            table.add_row(name, field, f"{first[name]['n']:,}", *cells)
    return table


def _fields(models: Mapping[str, Any], mode: str) -> list[str]:
    """The fields that have a gold or a predicted value in some model's results."""
    results = [m["metrics"][mode] for m in models.values()]
    return [field for field in results[0] if any(r[field][k] for r in results for k in ("gold", "pred"))]


def result_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Every table: P, R and F by test set, matching mode, field and model; outputs."""
    for set_name, models in report["sets"].items():
        first = next(iter(models.values()))
        for mode in first["metrics"]:
            title = f"{set_name} ({first['n']} examples), {mode}"
            if _are_shares([result["metrics"][mode] for result in models.values()]):
                yield _shares(title, mode, models)
            else:
                yield _scores(title, mode, models)
        if "variants" in first:
            yield _spread(set_name, models)
        yield _outputs(set_name, models)
    if lines := comparison.deltas(report["sets"]):
        yield _deltas(lines)


def _deltas(lines: list[dict[str, Any]]) -> Table:
    """The last model beside the first, by test set and field."""
    head = lines[0]
    out = new_table(f"F1, {head['from']} -> {head['to']}, {head['mode']}", "set")
    out.add_column("field", overflow="fold")
    for column in ("n", head["from"], head["to"], "delta", "parse errors"):
        out.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        errors = "" if line["parse_errors"][0] is None else " -> ".join(f"{e:,}" for e in line["parse_errors"])
        scores = f"{line['base']:.4f}", f"{line['tuned']:.4f}", f"{line['delta']:+.4f}"
        out.add_row(line["set"], line["field"], f"{line['n']:,}", *scores, errors)
    return out


def _scores(title: str, mode: str, models: Mapping[str, Any]) -> Table:
    table = new_table(title, "field")
    table.add_column("model", no_wrap=True)
    for column in ("P", "R", "F1", "95 %", "F0.5", "F1.5"):  # fits 80 columns; the counts are in report.json
        table.add_column(column, justify="right", no_wrap=True)
    for field in _fields(models, mode):
        for n, (label, result) in enumerate(models.items()):
            f = result["metrics"][mode][field]
            table.add_row(
                field if n == 0 else "",
                label,
                *(f"{f[k]:.3f}" for k in ("precision", "recall", "f1")),
                "{:.2f}-{:.2f}".format(*f["f1_ci"]),
                *(f"{f[k]:.3f}" for k in ("f0.5", "f1.5")),
                end_section=n == len(models) - 1,
            )
    return table


def _are_shares(metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the figures are shares of the examples: gold and predicted are equal."""
    return all(f["gold"] == f["pred"] for fields in metrics for f in fields.values())


def _shares(title: str, mode: str, models: Mapping[str, Any]) -> Table:
    table = new_table(title, "share", *models)
    for field in next(iter(models.values()))["metrics"][mode]:
        figures = [result["metrics"][mode][field] for result in models.values()]
        cells = ["{:.3f} ({:.2f}-{:.2f})".format(f["f1"], *f["f1_ci"]) if f["gold"] else "" for f in figures]
        table.add_row(field, *cells)
    return table


def _stage_line(name: str, stage: Mapping[str, Any]) -> str:
    """How a stage went."""
    f = stage.get("figures") or {}
    memory = f", peak memory {stage['peak_memory_gb']:.1f} GB" if stage.get("peak_memory_gb") else ""
    line = f"{name}: {f.get('steps', '?')} steps in {(stage.get('seconds') or 0) / 60:.1f} minutes{memory}"
    pairs = {"NLL": ("nll_before", "nll_after"), "reward": ("reward_first", "reward_last")}
    for what, keys in (pairs | {"margin": ("margin_first", "margin_last")}).items():
        if values := [f"{f[key]:.3f}" for key in keys if f.get(key) is not None]:
            line += f", {what} {' -> '.join(values)}"
    if "zero_variance_share" in f:
        line += f", {f['zero_variance_share']:.0%} of the groups without variance"
    return line


def _outputs(set_name: str, models: Mapping[str, Any]) -> Table:
    table = new_table(f"{set_name}, outputs", "model")
    first = next(iter(models.values()))
    fixed = ("valid", "empty", "truncated", "tokens", "median")
    for column in (*fixed, *first["rewards"]):
        table.add_column(column if column in fixed else f"reward {column}", justify="right")
    for label, result in models.items():
        rewards = ["{:.3f} ({:.2f}-{:.2f})".format(r["mean"], *r["mean_ci"]) for r in result["rewards"].values()]
        shares = [f"{result[k]:.1%}" if k in result else "" for k in ("valid", "empty_answers")]
        table.add_row(
            label,
            *shares,
            str(result["truncated"]),
            f"{result['tokens']:,}",
            f"{result['length']['p50']:.0f}",
            *rewards,
        )
    if baseline := first.get("always_empty"):
        scores = [f"{baseline[name]:.3f}" if name in baseline else "" for name in first["rewards"]]
        table.add_row("always empty", "", "100.0%", "", "", "", *scores)
    return table


def _spread(set_name: str, models: Mapping[str, Any]) -> Table:
    table = new_table(f"{set_name}, F1 over variants of the prompt", "mode")
    for column in ("field", "model"):
        table.add_column(column, no_wrap=True)
    for column in ("variants", "mean", "sd", "min", "max"):
        table.add_column(column, justify="right")
    for label, result in models.items():
        for mode, fields in result["variants"].items():
            for field, f in fields.items():
                if result["metrics"][mode][field]["gold"]:
                    figures = [f"{f[k]:.3f}" for k in ("mean", "sd", "min", "max")]
                    table.add_row(mode, field, label, str(f["n"]), *figures)
    return table
