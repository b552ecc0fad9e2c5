"""Where training happens. Only these modules import a training library."""

from __future__ import annotations

import importlib.util

from adapters.backends.jobs import Backend
from adapters.errors import UserError
from adapters.recipe.recipe import Recipe


def backend(recipe: Recipe) -> Backend:
    """The recipe's backend. Imports its libraries, which may take seconds."""
    if recipe.trainer == "echo":
        from adapters.backends.echo import EchoBackend

        return EchoBackend(recipe)
    if recipe.trainer == "tinker":
        if importlib.util.find_spec("tinker") is None:
            raise UserError(
                "the hosted trainer needs its SDK: pip install -e '.[tinker]' in the repository.", at=("trainer",)
            )
        from adapters.backends.tinker import TinkerBackend

        return TinkerBackend(recipe)
    if recipe.tags_words:
        from adapters.backends.local.token_classification import EncoderBackend

        return EncoderBackend(recipe)
    from adapters.backends.local import LocalBackend

    return LocalBackend(recipe)
