"""The rows that the adapter was trained on from which a recipe starts, for `check`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters import console
from adapters.backends import adapter_folder
from adapters.backends.jobs import Backend, Earlier
from adapters.errors import UserError
from adapters.pipeline.plan import Plan
from adapters.pipeline.reading import Measure, Reader, rows_of_stage, task_of
from adapters.pipeline.run_folder import RunFolder, adapter_in
from adapters.pipeline.stage_rows import divided


def read(plan: Plan, backend: Backend) -> tuple[list[Earlier], list[str]]:
    """The stages of other runs that trained a plan's start, the first one first; and a note on them.

    Only code that was run on this machine is imported for it. No stage is returned unless all can be read.
    """
    if plan.start is None:
        return [], []
    start = plan.recipe.start
    try:
        stages = [*_stages(plan.start, Measure(backend, needed=False, notes=[]))]
    except UserError as error:
        fault = f"the rows that {start} was trained on are looked for neither in the test sets nor in the stages' rows"
        return [], [f"{fault}: {error}"]
    counts = ", ".join(f"{sum(map(len, s.by_source.values())):,} of {s.name}" for s in stages)
    return stages, [f"rows that {start} was trained on are looked for in the test sets and the stages' rows: {counts}"]


def _stages(adapter: Path, measure: Measure) -> Iterator[Earlier]:
    """The stages that trained an adapter, also before its own run. Raises UserError unless all can be read."""
    run = RunFolder.of_stage(adapter)
    if run is None:
        raise UserError(f"{adapter} lies in no run folder")
    file = run.known_recipe_file()
    if file is None:
        raise UserError(f"reading them would import code of {run.path} that was not run on this machine")
    if file.recipe.start is not None:
        before = adapter_in(Path(file.recipe.start).expanduser())
        if adapter_folder.content_hash(before) != run.stages[0].manifest.get("start_hash"):
            raise UserError(f"{before} holds other weights than {run.name} started from")
        yield from _stages(before, measure)
    read = Reader(file, task_of(file))
    for stage in run.stages_up_to_named():
        name = f"{run.name}/{stage.name}"
        console.phase(f"reading the data of {name}")
        loaded, _ = rows_of_stage(read, stage.index)
        if _counts(loaded.ledger) != _counts(stage.manifest.get("data", [])):
            raise UserError(f"the data of {name} are not those that it was trained on")
        rows = divided(loaded, file.recipe, stage.index, measure)
        settings = file.recipe.stages[stage.index]
        yield Earlier(name, settings, rows.training, loaded.texts, loaded.by_source)


def _counts(ledger: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    return [(entry.get("source"), entry.get("rows")) for entry in ledger]
