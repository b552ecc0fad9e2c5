"""What a person sees: the plan before, the progress during, the results after. And where other libraries' talk goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from adapters.backends.jobs import Job
from adapters.evaluation import comparison
from adapters.pipeline.plan import Plan
from adapters.recipe.stages import Grpo, Sft


def plan_table(plan: Plan) -> Table:
    """What will run, what is skipped, on how many rows and tokens, against which reference."""
    recipe = plan.recipe
    table = Table(title=f"{recipe.name}: {recipe.model.base}", title_justify="left", caption_justify="left")
    table.add_column("job", no_wrap=True)
    table.add_column("on")
    table.add_column("status")
    start, kept = None, True  # a stage after one that runs will run too, whatever its folder holds
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
    parts = " + ".join(f"{entry['used']:,} {entry['source']}" for entry in job.ledger)
    extra = [f"{len(job.validation)} held out"] if job.validation else []
    extra += [f"{job.too_long} dropped as too long"] if job.too_long else []
    extra += [f"{len(job.rejected)} unreadable"] if job.rejected else []
    if job.stage.noise is not None:
        noisy = sum(entry["noise"]["rows"] * entry["used"] for entry in job.ledger) / sum(e["used"] for e in job.ledger)
        extra.append(f"{noisy:.0%} noised by {job.stage.noise.use}")
    tokens = f", {job.tokens['total']:,.0f} tokens" if job.tokens else ""
    return f"{len(job.examples):,} rows{tokens} ({'; '.join([parts, *extra])})"


def _settings(job: Job) -> str:
    stage = job.stage
    if isinstance(stage, Sft):
        return f"{job.steps} steps of {stage.batch_size}, lr {stage.learning_rate:g}"
    start = f"the adapter of stage {job.index}" if job.index else "the base (a new adapter)"
    reference = start if stage.reference == "start" else stage.reference
    if not isinstance(stage, Grpo):
        steps = f"{job.steps} steps of {stage.batch_size} pairs"
        return f"{steps}, lr {stage.learning_rate:g}, beta {stage.beta:g} to {reference}"
    kl = f"KL {stage.beta:g} to {reference}" if stage.beta else "no KL"
    return f"{job.steps} steps of {stage.batch_size} x {stage.group_size}, lr {stage.learning_rate:g}, {kl}"


def result_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """How the stages went; then a table a test set and matching mode: fields by P, R, F, every model side by side."""
    if report.get("stages"):
        yield _stages(report["stages"])
    for set_name, models in report["sets"].items():
        first = next(iter(models.values()))
        for m in first["metrics"]:
            if _are_shares([result["metrics"][m] for result in models.values()]):
                yield _shares(f"{set_name} ({first['n']} examples), {m}", m, models)
                continue
            table = Table(title=f"{set_name} ({first['n']} examples), {m}", title_justify="left")
            for column in ("field", "model"):
                table.add_column(column, no_wrap=True)
            for column in ("P", "R", "F1", "95 %", "F0.5", "F1.5"):  # fits 80 columns; the counts are in report.json
                table.add_column(column, justify="right", no_wrap=True)
            for field in first["metrics"][m]:
                if not any(r["metrics"][m][field][k] for r in models.values() for k in ("gold", "pred")):
                    continue  # nothing to find, and nobody claims to have found it
                for n, (label, result) in enumerate(models.items()):
                    f = result["metrics"][m][field]
                    table.add_row(
                        field if n == 0 else "",
                        label,
                        *(f"{f[k]:.3f}" for k in ("precision", "recall", "f1")),
                        "{:.2f}-{:.2f}".format(*f["f1_ci"]),
                        *(f"{f[k]:.3f}" for k in ("f0.5", "f1.5")),
                        end_section=n == len(models) - 1,
                    )
            yield table
        if "variants" in first:
            yield _spread(set_name, models)
        yield _outputs(set_name, models)
    if lines := comparison.deltas(report["sets"]):
        yield comparison.table(lines)


def _are_shares(metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Whether gold and predicted are one number everywhere: what is counted is then a share of the examples."""
    return all(f["gold"] == f["pred"] for fields in metrics for f in fields.values())


def _shares(title: str, mode: str, models: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("share", no_wrap=True)
    for label in models:
        table.add_column(label, justify="right", no_wrap=True)
    for field in next(iter(models.values()))["metrics"][mode]:
        held = [result["metrics"][mode][field] for result in models.values()]
        cells = ["{:.3f} ({:.2f}-{:.2f})".format(f["f1"], *f["f1_ci"]) if f["gold"] else "" for f in held]
        table.add_row(field, *cells)
    return table


def _stages(stages: Mapping[str, Any]) -> Table:
    table = Table(title="stages", title_justify="left")
    for column in ("stage", "steps", "minutes", "peak GB", "NLL", "reward", "zero var.", "margin"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, stage in stages.items():
        f = stage.get("figures") or {}
        nll = [f.get("nll_before"), f.get("nll_after")]
        reward = [f.get("reward_first"), f.get("reward_last")]
        table.add_row(
            name,
            str(f.get("steps", "")),
            f"{(stage.get('seconds') or 0) / 60:.1f}",
            f"{stage['peak_memory_gb']:.1f}" if stage.get("peak_memory_gb") else "",
            *(" -> ".join(f"{v:.3f}" for v in pair if v is not None) for pair in (nll, reward)),
            f"{f['zero_variance_share']:.0%}" if "zero_variance_share" in f else "",
            f"{f['margin_first']:.2f} -> {f['margin_last']:.2f}" if "margin_first" in f else "",
        )
    return table


def _outputs(set_name: str, models: Mapping[str, Any]) -> Table:
    table = Table(title=f"{set_name}, outputs", title_justify="left")
    table.add_column("model", no_wrap=True)
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
    table = Table(title=f"{set_name}, F1 over variants of the prompt", title_justify="left")
    for column in ("mode", "field", "model"):
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
