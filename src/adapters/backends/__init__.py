"""Where training happens. Only these modules import a training library."""

from __future__ import annotations

from adapters.recipe import Recipe
from adapters.types import Backend


def backend(recipe: Recipe) -> Backend:
    """The recipe's backend. Imports its libraries, which takes seconds for the local one."""
    if recipe.trainer == "echo":
        from adapters.backends.echo import EchoBackend

        return EchoBackend(recipe)
    from adapters.backends.local import LocalBackend

    return LocalBackend(recipe)
