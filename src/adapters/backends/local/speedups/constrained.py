"""Tokens that keep to a grammar: llguidance tells which, and this holds the decoder to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np
import torch

from adapters.backends.local.speedups.choosing import Choose

_FUEL: Final = 200_000_000
"""llguidance's limit on the size of a grammar, above that of any text that a context holds."""


class Grammars:
    """Compiles grammars for one tokenizer. `width`: tokens that the model gives logits for."""

    def __init__(self, tokenizer: Any, width: int) -> None:
        from llguidance.hf import from_tokenizer

        self._tokenizer = from_tokenizer(tokenizer, n_vocab=max(width, len(tokenizer)))
        self._compiled = lru_cache(maxsize=256)(self._compile)

    def matcher(self, grammar: str) -> Any:
        """A matcher at the grammar's start. Raises RuntimeError for one that llguidance cannot compile."""
        return self._compiled(grammar).deep_copy()

    def _compile(self, grammar: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(initial_lexer_fuel=_FUEL)
        matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(grammar), limits=limits)
        _raise_errors(matcher)
        return matcher


class Held:
    """Holds rows to their grammars. `start` makes a row's matcher, when the row begins.

    A chosen token that the grammar takes stays, so that a mask is only computed where it changes something. Where it
    does not, the choice is repeated among the tokens that it takes. For greedy choices that is the likeliest token
    that is taken. For drawn ones it is rejection sampling, whose distribution is the model's own, restricted to them.
    """

    def __init__(self, start: Callable[[int], Any], stops: Set[int]) -> None:
        self.matcher, self.stops = cache(start), stops

    def __call__(self, logits: torch.Tensor, rows: Sequence[int], pick: Choose) -> torch.Tensor:
        """What `pick` chooses; see `Choose`."""
        chosen = pick(logits, rows)
        refused = [
            n for n, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)) if not self._takes(row, token)
        ]
        if not refused:
            return chosen
        index, held = torch.tensor(refused, device=logits.device), [rows[n] for n in refused]
        taken = torch.from_numpy(np.stack([self._taken(row, logits.shape[-1]) for row in held])).to(logits.device)
        again = pick(logits[index].masked_fill(~taken, float("-inf")), held)
        for row, token in zip(held, again.tolist(), strict=True):
            self._takes(row, token)
        return chosen.index_copy(0, index, again)

    def _takes(self, row: int, token: int) -> bool:
        """Whether a row may go on with a token; if so, it does."""
        matcher = self.matcher(row)
        if token in self.stops:
            return bool(matcher.is_accepting())
        return bool(matcher.try_consume_tokens([token]) == 1)

    def _taken(self, row: int, width: int) -> Any:
        matcher = self.matcher(row)
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        _raise_errors(matcher)
        taken = np.unpackbits(bits, bitorder="little")[:width].astype(bool)
        taken[list(self.stops)] = matcher.is_accepting()
        return taken


def _raise_errors(matcher: Any) -> None:
    if matcher.is_error():
        raise RuntimeError(f"llguidance: {matcher.get_error()}")
