"""The weights of a run's rewards, and the weighted score for ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.evaluation.metrics import number
from adapters.pipeline.run_folder import Stage


def reward_weights(stages: Sequence[Stage]) -> dict[str, float]:
    """Name of a reward in the logs -> weight."""
    out: dict[str, float] = {}
    for stage in stages:
        names: list[str] = []
        played = stage.settings.get("environment")
        for spec in (*([played] if played else ()), *(stage.settings.get("rewards") or ())):
            spec = spec if isinstance(spec, dict) else {"use": spec}
            names.append(name := str(spec.get("use")).rpartition(":")[2])
            weight, count = number(spec.get("weight")), names.count(name)
            out[name if count == 1 else f"{name}#{count}"] = 1.0 if weight is None else weight
    return out


def weighted(scores: Mapping[str, Any], weights: Mapping[str, float]) -> float | None:
    """Weighted mean of the scores, in [-1, 1]; None when no reward applies."""
    known = {name: v for name, value in scores.items() if (v := number(value)) is not None}
    size = sum(abs(weights.get(name, 1.0)) for name in known)
    return sum(weights.get(name, 1.0) * v for name, v in known.items()) / size if size else None
