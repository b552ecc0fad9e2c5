"""Confidence in the report: what a stage's calibrations are worth, as tables and curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from adapters.evaluation.confidence import in_words
from adapters.extraction.confidence import stored
from adapters.pipeline.run_folder import Stage
from adapters.report.curves import Line, Panel


class Calibrated(NamedTuple):
    """One way of answering of a stage."""

    stage: str
    way: str
    test: str | None
    told: dict[str, dict[str, str]]
    panels: list[Panel]


def calibrated(stage: Stage) -> list[Calibrated]:
    """The calibrations of a stage's adapter; those that cannot be read are left out, as a run may be from anywhere."""
    found = []
    for way, one in stored(stage.path, stage.weights_hash or "").items():
        try:
            figures = one["figures"]
            told = {str(name): in_words(of_name) for name, of_name in figures.items()}
            panels = _panels(figures.get("test values") or figures["values"])
            found.append(Calibrated(stage.name, str(way), one.get("test"), told, panels))
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return found


def _panels(figures: Mapping[str, Any]) -> list[Panel]:
    """A reliability diagram and a precision-recall curve."""
    lines = [
        Line(name, [(float(said), float(true)) for said, true, _ in figures[key]], [])
        for name, key in (("calibrated", "reliability"), ("before", "reliability_before"))
    ]
    recall = float(figures["recall"] or 1.0)
    curve = Line(
        "precision", sorted((float(kept) * recall, float(precision)) for _, precision, kept in figures["curve"]), []
    )
    even = Line("as said", [(0.0, 0.0), (1.0, 1.0)], [])
    note = "share of right values by confidence, in 15 bins of equal count; "
    return [
        Panel("Reliability", (*lines, even), note, share=True, across="said"),
        Panel("Precision and recall", (curve,), "as the least confidence falls", share=True, across="recall"),
    ]
