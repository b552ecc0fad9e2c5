"""What `adapters run` and `adapters eval` print: the plan and the results."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adapters.backends.jobs import PICKED, Job
from adapters.console import clock, new_table
from adapters.data.on_disk import collect
from adapters.environment import peak_memory_text
from adapters.evaluation import comparison, constraining, metrics
from adapters.evaluation.metrics import main_mode
from adapters.files import numbered_jsonl
from adapters.pipeline.plan import Plan
from adapters.pipeline.run_folder import START, TEACHER
from adapters.pipeline.seeds import Summary
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Distill, Grpo, Supervised, TokenClassification, samples_of

MODELS_SHOWN = 3
"""In the one table of results: the base and the last stages. `--all` shows every model."""


def plan_table(plan: Plan) -> Table:
    """The stages and test sets: rows, steps, and what will run or is skipped."""
    recipe = plan.recipe
    table = new_table(f"{recipe.name}: {recipe.model.base}", ["job", "on", "status"])
    start, kept = plan.start, True  # a stage runs when the one before it runs
    for job in plan.jobs:
        kept = kept and job.is_complete(start)
        start = job.folder
        status = "continues" if job.folder.with_name(job.name + ".partial").is_dir() else "runs"
        table.add_row(job.name, f"{_rows(job)}\n{_settings(job, plan.start)}", "done, skipped" if kept else status)
    models = [
        *(["base"] if recipe.evaluate_base else []),
        *([START] if plan.start else []),
        *(job.name for job in plan.jobs),
    ]
    for e in plan.evaluations:
        variants = f" x {e.variants} variants" if e.variants > 1 else ""
        size = f"{len(e.examples) // e.variants:,} rows{variants}"
        size += "" if recipe.tags_words else f", up to {e.max_new_tokens} new tokens"
        table.add_row(f"evaluate {e.name}", size, ", ".join(models))
    table.caption = "\n".join(plan.notes) or None
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


def _settings(job: Job, first: Path | None) -> str:
    stage = job.stage
    steps = f"{job.steps} step{'' if job.steps == 1 else 's'} of {stage.batch_size}"
    samples = samples_of(stage)
    if samples is not None:
        steps = f"at most {steps}, {samples.k} samples at {samples.temperature:g}"
    if isinstance(stage, Supervised | TokenClassification):
        return f"{steps}, lr {stage.learning_rate:g}"
    if isinstance(stage, Distill):
        return f"{steps}, lr {stage.learning_rate:g}, top_k {stage.top_k}, teachers {', '.join(sorted(stage.teachers))}"
    start = f"the adapter of stage {job.index}" if job.index else str(first or "the base (a new adapter)")
    reference = start if stage.reference == "start" else stage.reference
    if not isinstance(stage, Grpo):
        return f"{steps} pairs, lr {stage.learning_rate:g}, beta {stage.beta:g} to {reference}"
    kl = f"KL {stage.beta:g} to {reference}" if stage.beta else "no KL"
    if stage.updates_per_generation > 1:
        steps += f" ({stage.updates_per_generation} a generation)"
    return f"{steps} x {stage.group_size}, lr {stage.learning_rate:g}, {kl}"


def print_results(
    screen: Console,
    report: Mapping[str, Any],
    folder: Path,
    *,
    everything: bool = False,
    asked: Collection[str] = (),
) -> None:
    """Print the stages, one table of results (with `everything` all), and what changed in one sentence.

    `asked` are labels of models that the table must show.
    """
    sets = report["sets"]
    stages = "\n".join(_stage_line(name, stage) for name, stage in report.get("stages", {}).items())
    tables = (
        list(result_tables(report)) if everything else [main_table(sets, asked), teacher_table(sets)] if sets else []
    )
    told = [headline(sets, folder), *rewards_moved(sets, folder)]
    for item in filter(None, [stages, *tables, "\n".join(filter(None, told)), "\n".join(_costs(sets))]):
        screen.print()
        screen.print(item, soft_wrap=isinstance(item, str), markup=not isinstance(item, str))


def _costs(sets: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What picking from several answers cost, beside the single answer, and what a constraint changed."""
    for name, models in sets.items():
        for label, figures in models.items() if PICKED in name else ():
            if told := constraining.sentence(figures.get("constraint")):
                yield f"{name} ({label}): {told}"
                continue
            yield f"{name} ({label}): {_cost(figures)}; single answers: {_cost(sets[name.partition(PICKED)[0]][label])}"


def _cost(figures: Mapping[str, Any]) -> str:
    cost = figures.get("cost", {"tokens": figures["tokens"]})  # stored before the recipe wanted several answers
    seconds = f"{cost['seconds']:,.0f} s, " if "seconds" in cost else ""
    return f"{seconds}{cost['tokens']:,} tokens"


def next_commands(folder: Path, recipe: Recipe) -> str:
    """What to do with a finished run; an echo run cannot be published."""
    run = shlex.quote(str(folder))
    use = f"mine PROGRAM.yaml {run}" if recipe.tags_words else f"extract {run}"
    commands = [f"report {run} --open", f"{use} CORPUS.jsonl -o records.jsonl"]
    commands += [f"publish {run}"] if recipe.trainer != "echo" else []
    return "\nNext:" + "".join(f"\n  adapters {command}" for command in commands)


def headline(sets: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """What training changed, in one sentence; empty when there is one model only."""
    lines = comparison.deltas(sets)
    if not lines:
        return ""
    line = next((line for line in lines if line["set"] == "average"), lines[0])
    what = f"average of {len(sets)} test sets" if line["set"] == "average" else f"{line['set']}, {line['field']}"
    interval = _interval(folder, line, sets)
    sure = " (95 % interval of the change: {:+.2f} to {:+.2f})".format(*interval) if interval else ""
    shares = line["set"] in sets and _are_shares(sets[line["set"]], line["mode"])
    return f"{what}: {'' if shares else 'F1 '}{line['base']:.2f} -> {line['tuned']:.2f}{sure}"


def rewards_moved(sets: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """What the last stage changed of the rewards, against the model before it, a sentence for each test set."""
    told = []
    for name, models in sets.items():
        labels = list(models)[-2:]
        if len(labels) < 2 or PICKED in name or not models[labels[1]].get("rewards"):
            continue
        for change in comparison.reward_changes(*(_samples(folder, label, name) for label in labels)):
            sure = "{:+.3f} to {:+.3f}".format(*(change.interval or (math.nan, math.nan)))
            moved = f"{change.before:.3f} -> {change.after:.3f} (95 % interval of the change: {sure})"
            told.append(f"{name}, {change.field}, {labels[0]} -> {labels[1]}: {moved}")
    return told


def _samples(folder: Path, model: str, test_set: str) -> Sequence[Any]:
    return collect(row for _, row in numbered_jsonl(folder / "eval" / model / test_set / "samples.jsonl"))


def _interval(folder: Path, line: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> list[float] | None:
    """The 95 % interval of a difference; None without the samples of both models."""
    if line["set"] not in sets:
        return None  # an average has no samples
    models = line["from"], line["to"]
    samples = [_samples(folder, model, line["set"]) for model in models]
    before, after = (sets[line["set"]][model] for model in models)
    changes = comparison.changes(before, after, line["mode"], (samples[0], samples[1]) if all(samples) else None)
    return next((change.interval for change in changes if change.field == line["field"]), None)


def main_table(sets: Mapping[str, Mapping[str, Any]], asked: Collection[str] = ()) -> Table:
    """F1 with its interval in the main matching mode, by test set, field and model; teachers share a column."""
    labels, teachers = _labels(sets)
    models = [label for label in labels if label not in teachers]
    ends = models if len(models) <= MODELS_SHOWN else [models[0], *models[1 - MODELS_SHOWN :]]
    shown = [label for label in models if label in ends or label in asked]
    first = {name: next(iter(results.values())) for name, results in sets.items()}
    mode = main_mode(next(iter(first.values()))["metrics"])
    figure = "share of the examples" if all(_are_shares(r, mode) for r in sets.values()) else f"F1, {mode} matching"
    columns = [shown[0], *(["best teacher"] if teachers else []), *shown[1:]]
    table = new_table(f"{figure} (95 % interval)", ["test set (rows)", "field"], columns)
    table.columns[1].no_wrap = True
    more = len(labels) - len(shown) - bool(teachers)
    notes = [f"{more} more models: --all"] if more else []
    makers = {name: results["annotator"] for name, results in first.items() if "annotator" in results}
    notes += [f"gold of {name}: {maker}" for name, maker in makers.items()]
    empty = [name for name, results in sets.items() if not _fields(results, mode)]
    notes += [f"{name}: there was nothing to find in its rows, and nothing was found" for name in empty]
    table.caption = "\n".join(notes) or None
    for name, results in sets.items():
        for field in _fields(results, mode):
            cells = [_f1(results[m]["metrics"][mode][field]) if m in results else "" for m in shown]
            if teachers:
                known = {m: results[m]["metrics"][mode][field] for m in teachers if m in results}
                best = max(known, key=lambda m: known[m]["f1"] or 0.0, default=None)
                cells.insert(1, f"{_f1(known[best])} {best.removeprefix(TEACHER)}" if best else "")
            table.add_row(f"{name} ({first[name]['n']:,})", field, *cells)
    return table


def _labels(sets: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """All models, and the teachers among them where there are several."""
    labels = list(dict.fromkeys(label for results in sets.values() for label in results))
    teachers = [label for label in labels if label.startswith(TEACHER)]
    return labels, teachers if len(teachers) > 1 else []


def teacher_table(sets: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """F1 of a student beside each of its teachers, at home and away; None where there are not several."""
    labels, teachers = _labels(sets)
    if not teachers:
        return None
    shown = [*teachers, labels[-1]]
    mode = main_mode(next(iter(next(iter(sets.values())).values()))["metrics"])
    columns = [label.removeprefix(TEACHER) for label in shown]
    table = new_table(f"each teacher, and the student: F1, {mode} matching", ["test set", "field"], columns)
    for name, results in sets.items():
        for field in _fields(results, mode):
            cells = [metrics.text(results[m]["metrics"][mode][field]["f1"]) if m in results else "" for m in shown]
            table.add_row(name, field, *cells)
    return table


def _f1(figures: Mapping[str, Any]) -> str:
    return "" if figures["f1"] is None else "{:.3f} ({:.2f}-{:.2f})".format(figures["f1"], *figures["f1_ci"])


def _fields(models: Mapping[str, Any], mode: str) -> list[str]:
    """The fields that have a gold or a predicted value in some model's results."""
    results = [m["metrics"][mode] for m in models.values()]
    return [field for field in results[0] if any(r[field][k] for r in results for k in ("gold", "pred"))]


def _are_shares(models: Mapping[str, Any], mode: str) -> bool:
    """Whether the figures are shares of the examples: gold and predicted are equal."""
    return all(f["gold"] == f["pred"] for m in models.values() for f in m["metrics"][mode].values())


def seed_tables(summary: Summary) -> Iterator[Table]:
    """Means over seeds with their spread, and what each stage changed with its interval."""
    lines = {(line.set, line.field, line.model): line for line in summary.lines}
    models = list(dict.fromkeys(line.model for line in summary.lines))
    title = f"F1 and rewards, mean of {len(summary.seeds)} seeds (standard deviation)"
    table = new_table(title, ["test set", "field"], models)
    for name, field in dict.fromkeys((line.set, line.field) for line in summary.lines):
        cells = [lines.get((name, field, model)) for model in models]
        table.add_row(name, field, *(f"{cell.mean:.3f} ({cell.sd:.3f})" if cell else "" for cell in cells))
    yield table
    changed = new_table("What each stage changed", ["test set", "field", "from", "to"], ["change", "95 % interval"])
    changed.caption = "The interval is over test rows and seeds."
    for c in summary.changes:
        interval = "{:+.3f} to {:+.3f}".format(*c.interval)
        changed.add_row(c.set, c.field, c.before_model, c.model, f"{c.after - c.before:+.3f}", interval)
    if changed.row_count:
        yield changed


def result_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """Every table: P, R and F by test set, matching mode, field and model; outputs."""
    for set_name, models in report["sets"].items():
        first = next(iter(models.values()))
        for mode in first["metrics"]:
            title = f"{set_name} ({first['n']} examples), {mode}"
            yield (_shares if _are_shares(models, mode) else _scores)(title, mode, models)
        if "variants" in first:
            yield _spread(set_name, models)
        yield _outputs(set_name, models)
    if lines := comparison.deltas(report["sets"]):
        yield _deltas(lines)


def _deltas(lines: Sequence[Mapping[str, Any]]) -> Table:
    before, after = lines[0]["from"], lines[0]["to"]
    numbers = ("n", before, after, "delta", "parse errors")
    table = new_table(f"F1, {before} -> {after}, {lines[0]['mode']}", ["set", "field"], numbers)
    for line in lines:
        errors = "" if line["parse_errors"][0] is None else " -> ".join(f"{e:,}" for e in line["parse_errors"])
        scores = f"{line['base']:.4f}", f"{line['tuned']:.4f}", f"{line['delta']:+.4f}"
        table.add_row(line["set"], line["field"], f"{line['n']:,}", *scores, errors)
    return table


def _scores(title: str, mode: str, models: Mapping[str, Any]) -> Table:
    # Fits 80 columns; the counts are in report.json.
    table = new_table(title, ["field", "model"], ("P", "R", "F1", "95 %", "F0.5", "F1.5"))
    for field in _fields(models, mode):
        for n, (label, result) in enumerate(models.items()):
            f = result["metrics"][mode][field]
            p, r, f1, half, more = (metrics.text(f[k]) for k in ("precision", "recall", "f1", "f0.5", "f1.5"))
            interval = "{:.2f}-{:.2f}".format(*f["f1_ci"]) if f["f1_ci"] else ""
            table.add_row(field if n == 0 else "", label, p, r, f1, interval, half, more)
        table.add_section()
    if not table.row_count or all(result.get("empty_gold") == 1 for result in models.values()):
        table.caption = "\n".join(f"{label}: {_nothing_to_find(result)}" for label, result in models.items())
    return table


def _nothing_to_find(result: Mapping[str, Any]) -> str:
    answers = result["n"] * next((f["n"] for fields in result.get("variants", {}).values() for f in fields.values()), 1)
    empty, unreadable = round(result["empty_answers"] * answers), result["parse_errors"]
    return metrics.nothing_to_find(result["n"], max(0, empty - unreadable), answers - empty, unreadable)


def _shares(title: str, mode: str, models: Mapping[str, Any]) -> Table:
    table = new_table(title, ["share"], list(models))
    for field in next(iter(models.values()))["metrics"][mode]:
        figures = [result["metrics"][mode][field] for result in models.values()]
        table.add_row(field, *(_f1(f) if f["gold"] else "" for f in figures))
    return table


def _stage_line(name: str, stage: Mapping[str, Any]) -> str:
    f = stage.get("figures") or {}
    memory = f", peak memory {peak}" if (peak := peak_memory_text(stage)) else ""
    steps = f.get("steps", "?")
    line = f"{name}: {steps} step{'' if steps == 1 else 's'} in {clock(stage.get('seconds') or 0)}{memory}"
    changes = {"NLL": ("nll_before", "nll_after"), "reward": ("reward_first", "reward_last")}
    for label, keys in (changes | {"margin": ("margin_first", "margin_last")}).items():
        if values := [f"{f[key]:.3f}" for key in keys if f.get(key) is not None]:
            line += f", {label} {' -> '.join(values)}"
    if "zero_variance_share" in f:
        line += f", {f['zero_variance_share']:.0%} of the groups without variance"
    if "flat_left_share" in f:
        line += f" ({f['flat_left_share']:.0%} after {f['groups_replaced']:,} replacements)"
    if text := (f.get("select") or {}).get("text"):
        line += f"\n  {text}"
    return line


def _outputs(set_name: str, models: Mapping[str, Any]) -> Table:
    first = next(iter(models.values()))
    rewards = [f"reward {name}" for name in first["rewards"]]
    table = new_table(f"{set_name}, outputs", ["model"], ["valid", "empty", "truncated", "tokens", "median", *rewards])
    for label, result in models.items():
        means = ["{:.3f} ({:.2f}-{:.2f})".format(r["mean"], *r["mean_ci"]) for r in result["rewards"].values()]
        shares = [f"{result[k]:.1%}" if k in result else "" for k in ("valid", "empty_answers")]
        lengths = f"{result['tokens']:,}", f"{result['length']['p50']:.0f}"
        truncated = str(result["truncated"]) + (f" ({looped} loops)" if (looped := result.get("looped")) else "")
        table.add_row(label, *shares, truncated, *lengths, *means)
    if baseline := first.get("always_empty"):
        means = [f"{baseline[name]:.3f}" if name in baseline else "" for name in first["rewards"]]
        table.add_row("always empty", "", "100.0%", "", "", "", *means)
    return table


def _spread(set_name: str, models: Mapping[str, Any]) -> Table:
    numbers = ("variants", "mean", "sd", "min", "max")
    table = new_table(f"{set_name}, F1 over variants of the prompt", ["mode", "field", "model"], numbers)
    for label, result in models.items():
        for mode, fields in result["variants"].items():
            for field, f in fields.items():
                if result["metrics"][mode][field]["gold"]:
                    table.add_row(mode, field, label, str(f["n"]), *(f"{f[k]:.3f}" for k in numbers[1:]))
    return table
