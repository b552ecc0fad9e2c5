"""Apply noise families in order and carry the labelled spans along."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from adapters.data_aug.noise.edits import Edit, Family, Noised, Span, apply, carried
from adapters.data_aug.noise.policy import POLICIES, admit


@dataclass(frozen=True)
class Noise:
    """Noise families in the order they are applied.

    A family may have a `chance`, the probability that it acts on a text at all: real texts show a few kinds of noise
    often, not every kind once. A text that stays unchanged is tried again, up to `attempts` times, so that a mixture
    of small chances still noises it.
    """

    families: tuple[Family, ...]
    attempts: int = 1
    name: str = "custom"

    @cached_property
    def chances(self) -> tuple[tuple[Family, float], ...]:
        """The families with their chances."""
        return tuple((family, getattr(family, "chance", 1.0)) for family in self.families)


def noise_text(
    text: str, rng: random.Random, protected: Sequence[Span], noise: Noise, policy: str = "protect"
) -> Noised:
    """Apply a noise to a text.

    The same text, spans and state of `rng` give the same result in every process. Raises ValueError for an unknown
    policy and for a span that is empty or lies outside the text.
    """
    if policy not in POLICIES:
        raise ValueError(f"unknown label policy {policy!r}; known: {', '.join(POLICIES)}")
    for span in protected:
        if not 0 <= span.start < span.end <= len(text):
            raise ValueError(f"span [{span.start}, {span.end}) does not fit a text of {len(text)} characters")
    for _ in range(noise.attempts):
        noised = _attempt(text, rng, protected, noise, policy)
        if noised.passes:
            return noised
    return Noised(text, text, spans=tuple(protected))


def _attempt(text: str, rng: random.Random, protected: Sequence[Span], noise: Noise, policy: str) -> Noised:
    source, spans = text, list(protected)
    passes: list[tuple[Edit, ...]] = []
    draw = rng.random
    for family, chance in noise.chances:
        if chance < 1 and draw() >= chance:
            continue
        proposed = family(text, rng, spans)
        edits = admit(text, proposed, spans, policy) if proposed else []
        if edits:
            text = apply(text, edits)
            spans = carried(spans, edits)
            passes.append(tuple(edits))
    return Noised(source, text, tuple(passes), tuple(spans))
