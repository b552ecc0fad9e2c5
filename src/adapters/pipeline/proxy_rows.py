"""Rows of a stage that tags words: questions about texts, in windows that must hold the question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adapters.backends.jobs import Reading
from adapters.data.examples import is_empty
from adapters.data.load import Loaded, Rejected
from adapters.data.on_disk import take
from adapters.data_aug.mine.words import question_of
from adapters.errors import KeyPath, UserError
from adapters.recipe.recipe import Recipe
from adapters.recipe.stages import Stage, TokenClassification
from adapters.types import Example


def check(stage: Stage, examples: Sequence[Example], recipe: Recipe, at: KeyPath) -> None:
    """Raise UserError for rows that are no questions, or of which none has anything to find."""
    if not isinstance(stage, TokenClassification):
        return
    try:
        for example in examples:
            question_of(example.prompt)
    except ValueError as error:
        fault = f"token_classification learns the rows of the task mine, and the task is {recipe.task.use}: {error}."
        raise UserError(fault, at=(*at, "kind")) from None
    if all(map(is_empty, examples)):
        fault = f"all {len(examples):,} rows have nothing to find; a proxy would learn the empty answer."
        raise UserError(fault, at=(*at, "data"))


def readable(
    loaded: Loaded, readings: Sequence[Reading], most: float, at: KeyPath
) -> tuple[Sequence[Example], list[int]]:
    """The rows whose question leaves room for text, and each one's windows; notes the others as rejected.

    Raises UserError when their share is above `most`.
    """
    kept = [n for n, reading in enumerate(readings) if reading.fits]
    bad = [(e, r) for e, r in zip(loaded.examples, readings, strict=True) if not r.fits]
    reasons = [
        f"the instruction takes {r.instruction} of {r.max_length} sub-words; raise max_length or shorten it"
        for _, r in bad
    ]
    if bad and (len(bad) > most * len(loaded.examples) or not kept):
        raise UserError(
            f"{len(bad)} of {len(loaded.examples)} rows cannot be used (max_bad_rows allows {most:.0%}):\n"
            f"  row {bad[0][0].id!r}: {reasons[0]}",
            at=(*at, "data"),
        )
    loaded.rejected += [
        Rejected(e.source, 0, f"{e.id!r}: {reason}") for (e, _), reason in zip(bad, reasons, strict=True)
    ]
    return take(loaded.examples, np.array(kept, dtype=int)), [readings[n].windows for n in kept]


def one_annotator(examples: Sequence[Example], name: str, at: KeyPath) -> str | None:
    """Who labelled a test set, where its rows say so. Raises UserError for several, which are never averaged."""
    names = list(dict.fromkeys(e.meta["annotator"] for e in examples if "annotator" in e.meta))
    if len(names) > 1:
        raise UserError(
            f"the test set {name} mixes the labels of {names[0]} and of {names[1]}, which no figure may average; "
            "give each a test set of its own (where: {annotator: …}).",
            at=(*at, "data"),
        )
    return names[0] if names else None
