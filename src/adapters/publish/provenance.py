"""Where an adapter's training data come from, and what their licences ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters.pipeline.starting import UNKNOWN
from adapters.publish.finished_run import Finished
from adapters.publish.license_demands import demands
from adapters.recipe.fields import HubSource, PathSource, Source, SynthesizedSource

GENERATED = "generated (Apache-2.0)"


def training_sources(finished: Finished) -> list[dict[str, Any]]:
    """The sources of the training data, those of teachers included, each once, with its licence if known."""
    sources: list[dict[str, Any]] = []

    def add(entry: Mapping[str, Any], origin: str, stage: str, licence: str | None = None) -> None:
        licence = entry.get("license") or licence or (GENERATED if entry.get("generated") else None)
        new = {"source": entry["source"], "origin": origin, "license": licence, "stages": []}
        # Two sources of one name may be different files, under different licences.
        alike = [s for s in sources if (s["source"], s["origin"]) == (new["source"], origin)]
        known = next((s for s in alike if licence is None or s["license"] in (None, licence)), None)
        if known is None:
            sources.append(known := new)
        known["license"] = known["license"] or licence
        known["stages"].append(stage)

    first = finished.stages[0]
    if first.manifest.get("start") and not finished.history:
        add(UNKNOWN, "of the adapter it starts from", first.name)
    for before in finished.history:
        run, stage = before["run"], before["stage"]
        whose, used = (f"of the run `{run}`", f"{run}/{stage}") if run else (f"of the adapter `{stage}`", stage)
        for entry in before["data"]:
            add(entry, whose, used)
    for stage, spec in zip(finished.stages, finished.recipe.stages, strict=False):
        for entry, source in zip(stage.manifest.get("data", []), spec.data, strict=False):
            made = GENERATED if isinstance(source, SynthesizedSource) else None
            add(entry, origin(source), stage.name, source.license or made)
        for domain, teacher in (stage.manifest.get("teachers") or {}).items():
            for entry in teacher.get("data", ()):
                add(entry, f"of `{teacher['name']}`", f"{stage.name} (teacher {domain})")
    return sources


def origin(source: Source) -> str:
    """A source in a few words."""
    if isinstance(source, HubSource):
        config, at = f"{source.config}, " * bool(source.config), f" at {source.revision}" * bool(source.revision)
        return f"Hub dataset `{source.hub}`, {config}split {source.hub_split}{at}"
    if isinstance(source, PathSource):
        return f"file `{Path(source.path).name}`"
    return f"made by the `{source.synthesize}` generator: {source.n:,} rows, seed {source.seed}"


def license_notes(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """Duties from the licences of the training data, and sources without a licence."""
    notes = []
    for source in sources:
        name, licence = source["source"], source["license"]
        if licence is None:
            notes.append(f"The licence of `{name}` is not stated: find out before you publish the adapter.")
        elif asked := demands(licence):
            notes.append(f"`{name}` is under {licence}, which {asked}.")
    return list(dict.fromkeys(notes))
