"""The stages as cards: what was asked for, what they were trained on, what came out, and whether the chain holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.report.charts import short
from adapters.report.reading import Run, Stage, number

SHOWN = {
    "batch_size": "batch",
    "group_size": "group",
    "epochs": "epochs",
    "max_steps": "at most steps",
    "learning_rate": "learning rate",
    "schedule": "schedule",
    "warmup": "warm-up",
    "temperature": "temperature",
    "beta": "beta",
    "loss": "loss",
    "scale_rewards": "reward scaling",
    "advantage": "reward scaling",  # its name in older manifests
    "max_length": "length limit",
    "max_prompt_length": "prompt limit",
    "max_completion_length": "completion limit",
}
FIGURES = {
    "nll": ("NLL per token, held out", "nll_before", "nll_after"),
    "reward": ("reward", "reward_first", "reward_last"),
}


@dataclass(frozen=True)
class Step:
    """A stage as its card shows it."""

    stage: Stage
    constants: tuple[tuple[str, str], ...]
    rewards: tuple[str, ...]
    noise: str | None
    rows: str
    figures: tuple[tuple[str, str], ...]
    reference: str | None
    chain: tuple[str, bool] | None
    """How the stage hangs on the one before it, and whether that still holds."""


def steps(run: Run) -> list[Step]:
    """A card's content for every stage, also for those that have not begun."""
    out = []
    for n, stage in enumerate(run.stages):
        out.append(
            Step(
                stage=stage,
                constants=tuple(
                    (word, plain(v)) for k, word in SHOWN.items() if (v := stage.settings.get(k)) is not None
                )
                + tuple((f"trl.{k}", plain(v)) for k, v in _dict(stage.settings.get("trl")).items()),
                rewards=tuple(_plug(r) for r in stage.settings.get("rewards") or ()),
                noise=_plug(stage.settings["noise"]) if stage.settings.get("noise") else None,
                rows=_rows(_dict(_dict(run.ledger.get("stages")).get(stage.name))),
                figures=tuple(_figures(stage)),
                reference=_reference(stage, n),
                chain=_chain(stage, run.stages[n - 1] if n else None),
            )
        )
    return out


def plain(value: Any) -> str:
    """A setting as people write it."""
    if (known := number(value)) is not None:
        return f"{value:,}" if isinstance(value, int) else short(known)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def minutes(seconds: Any) -> str | None:
    """A duration in the unit that fits it."""
    known = number(seconds)
    if known is None:
        return None
    if known < 90:
        return f"{known:.0f} s"
    return f"{known / 60:.0f} min" if known < 5400 else f"{known / 3600:.1f} h"


def _plug(value: Any) -> str:
    if not isinstance(value, dict):
        return plain(value)
    rest = [f"{k} {plain(v)}" for k, v in value.items() if k != "use"]
    return f"{value.get('use')} ({', '.join(rest)})" if rest else str(value.get("use"))


def _rows(held: Mapping[str, Any]) -> str:
    count, tokens = number(held.get("rows")), number(_dict(held.get("tokens")).get("total"))
    said = [f"{count:,.0f} rows"] if count is not None else []
    said += [f"{tokens:,.0f} tokens"] if tokens else []
    dropped = number(held.get("too_long"))
    said += [f"{dropped:,.0f} dropped as too long"] if dropped else []
    return ", ".join(said)


def _figures(stage: Stage) -> list[tuple[str, str]]:
    held = _dict(stage.manifest.get("figures"))
    out, known = [], set()
    done = stage.log[-1]["step"] if stage.log else None
    taken, wanted = number(held.get("steps")) or done, number(stage.manifest.get("steps"))
    if taken is not None:
        out.append(("steps", f"{taken:,.0f}" + (f" of {wanted:,.0f}" if wanted and wanted != taken else "")))
    for word, first, last in FIGURES.values():
        pair = [v for key in (first, last) if (v := number(held.get(key))) is not None]
        known |= {first, last}
        if pair:
            out.append((word, " → ".join(f"{v:.3f}" for v in pair)))
    if (kl := number(held.get("first_kl"))) is not None:
        out.append(("first KL", short(kl)))
    if (share := number(held.get("zero_variance_share"))) is not None:
        out.append(("groups without variance", f"{share:.0%}"))
    known |= {"steps", "first_kl", "zero_variance_share"}
    out += [(k.replace("_", " "), plain(v)) for k, v in held.items() if k not in known and number(v) is not None]
    if time := minutes(stage.manifest.get("seconds")):
        out.append(("time", time))
    if memory := number(stage.manifest.get("peak_memory_gb")):
        out.append(("peak memory", f"{memory:.1f} GB"))
    return out


def _reference(stage: Stage, n: int) -> str | None:
    reference = stage.settings.get("reference")
    if reference is None or (stage.kind == "grpo" and not number(stage.settings.get("beta"))):
        return None
    if reference != "start":
        return plain(reference)
    return "the start" if n else "the start (the base)"


def _chain(stage: Stage, before: Stage | None) -> tuple[str, bool] | None:
    if not stage.manifest:
        return None
    start, held = stage.manifest.get("start"), stage.manifest.get("start_hash")
    if start is None:
        return "starts from the base: a new adapter", True
    if before is None or before.name != start or held is None or before.hash is None:
        return f"starts from {start}", True
    if before.hash == held:
        return f"starts from {start}; hashes agree", True
    return f"starts from weights that {start} no longer holds", False


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
