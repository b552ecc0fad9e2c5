"""Answers that `adapters sample` has stored, in the place of those that a stage would sample itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapters.backends import adapter_folder
from adapters.errors import UserError
from adapters.evaluation.graded import asked, drawn
from adapters.files import manifest_path, numbered_jsonl, read_json, sha256
from adapters.recipe.load import RecipeFile
from adapters.recipe.stages import Samples, Stage, samples_of
from adapters.types import Drawn, Example


def with_path(file: RecipeFile, n: int, start: Path | None, examples: Sequence[Example]) -> Stage:
    """Stage n with the absolute path of its stored samples and with their number; any other stage as it is.

    `examples` are the rows that the stage would sample. Raises UserError unless the stored ones are answers to all of
    them, of the weights that the stage starts from.
    """
    stage, at = file.recipe.stages[n], ("stages", n, "samples", "path")
    samples = samples_of(stage)
    if samples is None or samples.path is None:
        return stage
    path = file.data_root / Path(samples.path).expanduser()
    settings: dict[str, Any] = read_json(manifest_path(path)).get("settings") or {}
    if not path.is_file() or "k" not in settings:
        raise UserError(f"{path} is no finished output of `adapters sample`, with its manifest beside it.", at=at)
    if n or start is None:
        raise UserError("only a first stage, with `start`, can learn from stored samples of its start.", at=at)
    if settings.get("adapter") != adapter_folder.content_hash(start):
        raise UserError(f"{path} holds answers of other weights than the recipe starts from.", at=at)
    if not settings.get("greedy"):
        raise UserError(f"{path} has no greedy answers, which samples are compared with.", at=at)
    known = {line["id"]: line["asked"] for _, line in numbered_jsonl(path) if line["completion"] is not None}
    if missing := [e.id for e in examples if e.id not in known]:
        others = f" and {len(missing) - 1:,} more" if missing[1:] else ""
        raise UserError(f"{path} has no answer to row {missing[0]!r}{others}.", at=at)
    odd = next((e.id for e in examples if known[e.id] != asked(e)), None)
    if odd is not None or settings.get("thinking") != file.recipe.model.thinking:
        which = f"row {odd!r}" if odd is not None else "all rows: model.thinking was another"
        raise UserError(f"{path} answers another prompt than the stage has for {which}.", at=at)
    stored = samples.model_copy(update={"path": str(path.resolve()), "k": settings["k"]})
    return stage.model_copy(update={"samples": stored})


def identity(stage: Stage) -> list[str]:
    """What a stage's fingerprint says of its stored samples."""
    samples = samples_of(stage)
    return [sha256(Path(samples.path))] if samples and samples.path else []


def read(samples: Samples) -> dict[str, list[Drawn]]:
    """The stored answers by the ids of their rows, the greedy one first; none of a row that was not answered."""
    out: dict[str, list[Drawn]] = {}
    for _, line in numbered_jsonl(Path(str(samples.path))):
        answers: list[Any] = out.setdefault(line["id"], [])
        if line["completion"] is not None:
            answers.append(drawn(line))
    return out
