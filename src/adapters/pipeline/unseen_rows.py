"""Rows that a run has neither trained nor tested on, for what is fitted to its finished adapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from adapters.data import duplicates
from adapters.data.examples import text_key
from adapters.data.load import Loaded, load_examples
from adapters.pipeline.reading import task_of
from adapters.recipe.fields import Source
from adapters.recipe.load import RecipeFile
from adapters.types import Example


class Texts(NamedTuple):
    """The texts (`examples.text_key`) of a run's training rows, those held out from training too, and test rows."""

    training: frozenset[str]
    test: frozenset[str]


def texts_of(file: RecipeFile, stages: int) -> Texts:
    """The texts of the recipe's first stages and of its test sets. Raises UserError when a file is gone."""
    recipe = file.recipe
    training = (source for stage in recipe.stages[:stages] for source in stage.data)
    return Texts(_texts(file, training), _texts(file, (source for test in recipe.evaluate for source in test.data)))


def test_rows(file: RecipeFile, name: str) -> list[Example]:
    """The rows of a test set of the recipe. Raises UserError when a file is gone."""
    spec = next(test for test in file.recipe.evaluate if test.name == name)
    return list(_loaded(file, spec.data).examples)


def seen(examples: Sequence[Example], texts: frozenset[str]) -> list[bool]:
    """Which rows have a text that is, or nearly repeats, one of `texts` (as the ledger tells near duplicates)."""
    keys = [text_key(example) for example in examples]
    if not keys or not texts:
        return [False] * len(keys)
    near = duplicates.matches(duplicates.sketch(keys), duplicates.sketch(sorted(texts)))
    return [key in texts or bool(like) for key, like in zip(keys, near, strict=True)]


def _texts(file: RecipeFile, sources: Iterable[Source]) -> frozenset[str]:
    return frozenset(chain.from_iterable(_loaded(file, list(sources)).by_source.values()))


def _loaded(file: RecipeFile, sources: Sequence[Source]) -> Loaded:
    recipe = file.recipe
    return load_examples(
        sources, task_of(file), root=file.data_root, seed=recipe.seed, max_bad_rows=recipe.max_bad_rows
    )
