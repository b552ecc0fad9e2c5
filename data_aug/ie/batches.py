"""Cut a large schema into prompts of a few labels, confusable ones together."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence

SIZES = {"NER": 6, "RE": 4}
"""Labels in a prompt, by task, as in IEPile."""

Confusable = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]
"""task -> source -> label -> labels that are easily confused with it."""


def batches(
    schema: Sequence[str],
    present: Collection[str],
    confusable: Mapping[str, Sequence[str]],
    size: int,
    rng: random.Random,
) -> list[list[str]]:
    """Cut a schema into batches of about `size` labels.

    In a text with labels: those present, those confusable with them, and `size` others, shuffled and cut; a remainder
    below half a batch joins the batch before it. In a text without: each label with probability one half, at least
    one. Labels outside the schema are never added: the corpus does not say whether the text has them.
    """
    if present:
        wanted = [label for label in schema if label in present]
        hard = {other for label in wanted for other in confusable.get(label, ())}
        chosen = wanted + [label for label in schema if label in hard and label not in present]
        rest = [label for label in schema if label not in chosen]
        chosen += rng.sample(rest, min(size, len(rest)))
    else:
        chosen = [label for label in schema if rng.random() < 0.5] or [rng.choice(schema)]
    rng.shuffle(chosen)
    pieces = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    if len(pieces) > 1 and len(pieces[-1]) < max(1, size // 2):
        remainder = pieces.pop()
        pieces[-1] += remainder
    return pieces


def of_source(confusable: Confusable, task: str, source: str) -> Mapping[str, Sequence[str]]:
    """The confusable labels of a source, by name in any case; perhaps none."""
    by_source = {name.casefold(): labels for name, labels in confusable.get(task, {}).items()}
    return by_source.get(source.casefold(), {})
