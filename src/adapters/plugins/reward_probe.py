"""A reward is tried on a few rows before a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing

from adapters.errors import KeyPath, UserError
from adapters.plugins.attempts import RewardError, RewardStuckError
from adapters.plugins.grader import Grader
from adapters.plugins.rewards import GARBAGE, NamedReward
from adapters.types import Example

PROBE_SECONDS = 20.0
"""Seconds for trying a reward before a run."""


def probe(named: NamedReward, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Try a reward on gold, empty and garbage text of 20 rows before any model is loaded.

    A slow reward is tried on as many rows as `PROBE_SECONDS` allow, one at least. Raises UserError when it fails,
    leaves [0, 1], or scores garbage higher than gold. Returns notes. A reward with `on_error` zero or skip may fail
    here, except on gold.
    """
    rows = [example for example in examples[:20] if example.completion is not None]
    texts = [text for example in rows for text in (example.completion or "", "", GARBAGE)]
    scores: list[float | None] = [None] * len(texts)
    seconds, failed = list[float](), 0
    grader, until = Grader(named), time.monotonic() + PROBE_SECONDS
    try:
        with closing(grader.attempts(texts, [example for example in rows for _ in range(3)])) as attempts:
            for n, outcome, took in attempts:
                seconds.append(took)
                if not isinstance(outcome, RewardError):
                    scores[n] = outcome.score
                elif named.faults.on_error == "raise" or isinstance(outcome, RewardStuckError) or n % 3 == 0:
                    raise UserError(str(outcome), at=at) from outcome
                else:
                    failed += 1
                if time.monotonic() > until and len(seconds) >= 3:
                    break
    finally:
        grader.close()
    return _probed(named, rows, scores, seconds, failed, at)


def _probed(
    named: NamedReward,
    rows: Sequence[Example],
    scores: Sequence[float | None],
    seconds: Sequence[float],
    failed: int,
    at: KeyPath,
) -> list[str]:
    as_gold, tried, notes = 0, len(seconds) // 3, list[str]()
    for row, example in enumerate(rows):
        gold, *wrong = scores[3 * row : 3 * row + 3]
        best = max(score or 0 for score in wrong)
        if gold is not None and best > gold + 1e-9:
            raise UserError(
                f"{named.name} scores empty or broken text ({best:.3f}) higher than the gold answer ({gold:.3f}) "
                f"on row {example.id!r}; the model would learn to write such text.",
                at=at,
            )
        as_gold += gold is not None and wrong[1] == gold > 0
    if tried < len(rows):
        notes.append(
            f"the reward {named.name} was tried on {tried} of {len(rows)} rows, because a call takes "
            f"{sum(seconds) / len(seconds):.2g} s; for more: adapters rewards test {named.use or named.name}"
        )
    if as_gold:
        notes.append(f"the reward {named.name} scores broken text as high as gold on {as_gold} of {tried} rows tried")
    if failed:
        notes.append(f"the reward {named.name} fails on empty or broken text; on_error: {named.faults.on_error}")
    return notes
