"""Stages of the report: settings, data, figures, and the weights they start from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from adapters.environment import peak_memory_text
from adapters.evaluation.metrics import number
from adapters.pipeline.run_folder import RunFolder, Stage
from adapters.pipeline.run_folder import as_dict as as_dict
from adapters.report.charts import short

SHOWN = (
    "batch_size", "group_size", "updates_per_generation", "flat_groups", "flat_below", "epochs", "max_steps",
    "learning_rate", "schedule", "warmup",
    "temperature", "beta", "loss", "scale_rewards", "max_length", "max_prompt_length", "max_completion_length",
)  # fmt: skip
FIGURES = (("NLL per token, held out", "nll_before", "nll_after"), ("reward", "reward_first", "reward_last"))


class Step(NamedTuple):
    """One stage as the page shows it."""

    stage: Stage
    constants: tuple[tuple[str, str], ...]
    rewards: tuple[str, ...]
    noise: str | None
    rows: str
    figures: tuple[tuple[str, str], ...]
    reference: str | None
    chain: tuple[str, bool] | None
    """The weights that it started from, and whether the stage before still has them."""


def steps(run: RunFolder) -> list[Step]:
    """What the page shows of every stage, also of those that have not begun."""
    ledgers = as_dict(run.ledger.get("stages"))
    return [
        Step(
            stage=stage,
            constants=tuple(_constants(stage.settings)),
            rewards=tuple(_plugin(r) for r in stage.settings.get("rewards") or ()),
            noise=_plugin(stage.settings["noise"]) if stage.settings.get("noise") else None,
            rows=_rows(as_dict(ledgers.get(stage.name))),
            figures=tuple(_figures(stage)),
            reference=_reference(stage, new=not n and not run.recipe.get("start")),
            chain=_chain(stage, run.stages[n - 1] if n else None),
        )
        for n, stage in enumerate(run.stages)
    ]


def _constants(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = {"scale_rewards": settings.get("advantage"), **settings}  # the key's name in older runs
    usual = {"updates_per_generation": 1, "flat_groups": "keep", "flat_below": 0.0}
    constants = [
        (key.replace("_", " "), settings.get(key)) for key in SHOWN if settings.get(key) != usual.get(key, ...)
    ]
    words = {"select": "select ", "samples": "samples ", "environment": "environment ", "trl": "trl."}
    for part, word in words.items():
        constants += [(word + key, value) for key, value in as_dict(settings.get(part)).items()]
    return [(name, plain(value)) for name, value in constants if value is not None]


def plain(value: Any) -> str:
    """A setting as people write it."""
    if (known := number(value)) is not None:
        return f"{value:,}" if isinstance(value, int) else short(known)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def minutes(seconds: Any) -> str | None:
    """A duration in the unit that fits it."""
    if (known := number(seconds)) is None:
        return None
    if known < 90:
        return f"{known:.0f} s"
    return f"{known / 60:.0f} min" if known < 5400 else f"{known / 3600:.1f} h"


def _plugin(value: Any) -> str:
    if not isinstance(value, dict):
        return plain(value)
    rest = [f"{k} {plain(v)}" for k, v in value.items() if k != "use"]
    return f"{value.get('use')} ({', '.join(rest)})" if rest else str(value.get("use"))


def _rows(ledger: Mapping[str, Any]) -> str:
    count, tokens = number(ledger.get("rows")), number(as_dict(ledger.get("tokens")).get("total"))
    words = [f"{count:,.0f} rows"] if count is not None else []
    words += [f"{tokens:,.0f} tokens"] if tokens else []
    words += [f"{dropped:,.0f} dropped as too long"] if (dropped := number(ledger.get("too_long"))) else []
    sources = ledger.get("sources")
    named = [as_dict(as_dict(s).get("unread")) for s in (sources if isinstance(sources, list) else ())]
    unread = dict.fromkeys(str(key) for keys in named for key in keys)
    words += [f"columns that nothing reads: {', '.join(unread)}"] if unread else []
    return ", ".join(words)


def _figures(stage: Stage) -> list[tuple[str, str]]:
    figures = as_dict(stage.manifest.get("figures"))
    out, known = [], {"steps", "first_kl", "zero_variance_share"}
    logged = stage.log[-1]["step"] if stage.log else None
    taken, planned = number(figures.get("steps")) or logged, number(stage.manifest.get("steps"))
    if taken is not None:
        out.append(("steps", f"{taken:,.0f}" + (f" of {planned:,.0f}" if planned and planned != taken else "")))
    for word, first, last in FIGURES:
        pair = [v for key in (first, last) if (v := number(figures.get(key))) is not None]
        known |= {first, last}
        if pair:
            out.append((word, " → ".join(f"{v:.3f}" for v in pair)))
    if (kl := number(figures.get("first_kl"))) is not None:
        out.append(("first KL", short(kl)))
    if (share := number(figures.get("zero_variance_share"))) is not None:
        out.append(("groups without variance", f"{share:.0%}"))
    if low := _low_coverage(figures, number(stage.settings.get("min_coverage")) or 0.0):
        out.append(("low coverage", f"{low}: the loss does not see the student's other tokens; raise top_k"))
    for key, word in (("samples", "own answers"), ("select", "held-out rows"), ("unreadable", "prompts")):
        if text := as_dict(figures.get(key)).get("text"):
            out.append((word, plain(text)))
    out += [(k.replace("_", " "), plain(v)) for k, v in figures.items() if k not in known and number(v) is not None]
    if time := minutes(stage.manifest.get("seconds")):
        out.append(("time", time))
    if memory := peak_memory_text(stage.manifest):
        out.append(("peak memory", memory))
    return out


def _low_coverage(figures: Mapping[str, Any], least: float) -> str:
    """The domains, with their coverage, that a distilled student ends below `least` in."""
    ends = {match[1]: number(v) for k, v in figures.items() if (match := re.fullmatch("coverage/(.+)_last", k))}
    return ", ".join(f"{domain} {share:.0%}" for domain, share in ends.items() if share is not None and share < least)


def _reference(stage: Stage, *, new: bool) -> str | None:
    reference = stage.settings.get("reference")
    if reference is None or (stage.kind == "grpo" and not number(stage.settings.get("beta"))):
        return None
    if reference != "start":
        return plain(reference)
    return "the start (the base)" if new else "the start"


def _chain(stage: Stage, before: Stage | None) -> tuple[str, bool] | None:
    if not stage.manifest:
        return None
    start, start_hash = stage.manifest.get("start"), stage.manifest.get("start_hash")
    if start is None:
        return "starts from the base: a new adapter", True
    if before is None or before.name != start or start_hash is None or before.weights_hash is None:
        return f"starts from {start}", True
    if before.weights_hash == start_hash:
        return f"starts from {start}; hashes agree", True
    return f"starts from weights that {start} no longer holds", False
