"""Rewards of a recipe, resolved, named and probed; one way to call them, whoever calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.plugins import identity, resolve
from adapters.recipe_file import KeyPath
from adapters.schema import RewardPlug
from adapters.types import Example, Reward, Scored, UserError

GARBAGE = "]]} this is not an answer {{["


@dataclass(frozen=True, slots=True)
class NamedReward:
    """A configured reward under the name its figures are logged by."""

    name: str
    reward: Reward
    weight: float = 1.0
    identity: str = ""
    """What it is, across processes and restarts: the plug-in, its parameters and the hash of its file."""


def resolve_all(plugs: Sequence[RewardPlug], *, folder: Path, at: KeyPath) -> tuple[NamedReward, ...]:
    """Instances of a stage's rewards, each under a name of its own."""
    out: list[NamedReward] = []
    for n, plug in enumerate(plugs):
        reward = resolve("rewards", plug, folder=folder, at=(*at, n))
        name = plug.use.rpartition(":")[2]
        taken = sum(1 for other in out if other.name.rpartition("#")[0] == name or other.name == name)
        out.append(NamedReward(f"{name}#{taken + 1}" if taken else name, reward, plug.weight, identity(plug, folder)))
    return tuple(out)


def grade(named: NamedReward, completion: str, example: Example) -> Scored:
    """One call. Raises RuntimeError, naming reward and row, when the reward fails or leaves [0, 1]."""
    try:
        value: Any = named.reward(completion, example)
    except Exception as error:
        raise RuntimeError(
            f"the reward {named.name} failed on row {example.id!r}: {type(error).__name__}: {error}"
        ) from error
    scored = value if isinstance(value, Scored) else Scored(value)
    if scored.score is None:
        return scored
    if isinstance(scored.score, bool) or not isinstance(scored.score, int | float) or not math.isfinite(scored.score):
        raise RuntimeError(
            f"the reward {named.name} gave {scored.score!r} for row {example.id!r}, not a number in [0, 1]"
        )
    if not -1e-9 <= scored.score <= 1 + 1e-9:
        raise RuntimeError(f"the reward {named.name} gave {scored.score!r} for row {example.id!r}, outside [0, 1]")
    return scored


def probe(named: NamedReward, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Try a reward on gold, empty and garbage text of a few rows before any model is loaded.

    Raises UserError when it fails, leaves [0, 1], or prefers garbage to gold. Returns a note when it pays garbage as
    much as gold.
    """
    bought = 0
    for example in list(examples)[:20]:
        if example.completion is None:
            continue
        try:
            gold, empty, garbage = (grade(named, text, example).score for text in (example.completion, "", GARBAGE))
        except RuntimeError as error:
            raise UserError(str(error), at=at) from error
        if gold is not None and max(empty or 0, garbage or 0) > gold + 1e-9:
            raise UserError(
                f"{named.name} prefers empty or broken text ({max(empty or 0, garbage or 0):.3f}) to the gold answer "
                f"({gold:.3f}) on row {example.id!r}; a policy would learn that.",
                at=at,
            )
        bought += gold is not None and garbage == gold > 0
    return [f"the reward {named.name} pays broken text as much as gold on {bought} of 20 rows tried"] if bought else []
