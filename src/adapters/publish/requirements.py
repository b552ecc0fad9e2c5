"""What publishing will need, known before the training."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapters.backends.jobs import Evaluation
from adapters.backends.local import base_model
from adapters.errors import UserError
from adapters.evaluation.episodes import scoring
from adapters.evaluation.metrics import main_mode
from adapters.pipeline.plan import Plan
from adapters.publish import gate, provenance, quality
from adapters.publish.finished_run import example
from adapters.recipe.fields import HubSource
from adapters.recipe.publish import REPO, Publish
from adapters.recipe.recipe import Recipe
from adapters.types import counts_of


def of_plan(plan: Plan) -> tuple[list[UserError], list[str]]:
    """Why `adapters publish` would refuse what a plan trains, and what its card would lack."""
    settings = plan.recipe.publish
    if settings is None:
        return [], []
    faults = [
        UserError(f"adapters publish will refuse this: {fault}", at=fault.at) for fault in _faults(plan, settings)
    ]
    found = [] if settings.repo else ["publish.repo is not set: adapters publish will ask for --repo owner/name"]
    found += other_rows(plan.recipe)
    return faults, [*found, *notes(settings, (), tests=bool(plan.evaluations))]


def other_rows(recipe: Recipe) -> list[str]:
    """Notes of the test sets that name a benchmark of the Hub, and whose rows are not read from there."""
    return [
        f"the test set {test.name} reads no rows of {test.benchmark.dataset_id}, and its figure is for that dataset's "
        "leaderboard (benchmark): make sure that its rows are the same"
        for test in recipe.evaluate
        if test.benchmark
        and not any(isinstance(s, HubSource) and s.hub == test.benchmark.dataset_id for s in test.data)
    ]


def _faults(plan: Plan, settings: Publish) -> Iterator[UserError]:
    rank = plan.recipe.lora.largest_rank
    needed = settings.base_model is None and plan.recipe.trainer != "echo"  # which has no base
    if needed and not _has_hub_id(plan.recipe.model.base):
        yield UserError(
            f"publishing needs the base model's Hub id, which {plan.recipe.model.base!r} is not: set "
            "publish.base_model: owner/name.",
            at=("publish", "base_model"),
        )
    if gate.max_lora_rank(rank) is None:
        yield UserError(
            f"rank {rank} is above the largest that vLLM serves, so it will not be published.", at=("lora",)
        )
    try:
        example(plan.task, settings)
    except UserError as error:
        yield error
    try:
        quality.bounds(settings.minimum or {}, {test.name: _fields(plan, test) for test in plan.evaluations})
    except UserError as error:
        yield error


def _has_hub_id(base: str) -> bool:
    if not Path(base).expanduser().is_dir():
        return base.startswith("pypi:") or bool(re.fullmatch(REPO, base))
    with suppress(UserError):  # the plan says what is wrong with the folder
        return bool(re.fullmatch(REPO, base_model.resolve(base).hub_id))
    return True


def _fields(plan: Plan, test: Evaluation) -> list[str]:
    """The fields of the main mode, of the first row's gold answer."""
    first = next(iter(test.examples))
    counts = counts_of(scoring(test, plan.task, ())[0], first, first.completion or "")
    return list(counts[main_mode(counts)])


def notes(settings: Publish, sources: Iterable[Mapping[str, Any]], *, tests: bool) -> list[str]:
    """Gaps of the card that the user can still fill. `sources`: those of the training data, with their licences."""
    out = [] if settings.license else ["the card names no licence: set publish.license"]
    if not settings.description:
        out.append("the card does not say what the adapter does: set publish.description")
    if not settings.contact:
        out.append("the card names nobody to ask but the repository's discussions: set publish.contact")
    sources = list(sources)
    out += [note.replace("`", "") for note in provenance.license_notes(sources)]
    own = (settings.license or "").lower()
    non_commercial = [s["source"] for s in sources if "-nc" in (s["license"] or "").lower()]
    if non_commercial and own and "-nc" not in own:
        out.append(f"the adapter is to be under {own}, and {', '.join(non_commercial)} allows no commercial use")
    if not tests:
        out.append("nothing is evaluated: the card has no figures and the gate no answers to compare")
    return out
