"""The outcome of a reward's call, and the check of the score it returns."""

from __future__ import annotations

import contextlib
import inspect
import reprlib
import sys
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple

from adapters.secrets import redact
from adapters.types import Example, Scored


class RewardError(RuntimeError):
    """A reward failed, took too long, or returned no valid score. The message names reward and row, and no secret."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class RewardStuckError(RewardError):
    """A call that nothing can stop holds up the others: the run stops, whatever `on_error` says."""


class Attempt(NamedTuple):
    """One call of a batch: its index, its score or error, and its duration in seconds."""

    n: int
    outcome: Scored | RewardError
    seconds: float


def checked(name: str, value: Any, example: Example) -> Scored:
    """A reward's result as a score, without parts that are not finite. Raises RewardError."""

    def error(given: str, wanted: str) -> RewardError:
        return RewardError(f"the reward {name} gave {given} for row {example.id!r}, {wanted}")

    if inspect.iscoroutine(value):
        value.close()
        raise error("a coroutine", "not a number: declare its call as `async def`")
    if isinstance(value, Mapping) or (isinstance(value, tuple) and not isinstance(value, Scored)):
        wanted = "not a number: return Scored(score, parts), of adapters.types"
        raise error(f"a {type(value).__name__} {reprlib.repr(value)}", wanted)
    value = plain(value)
    score, parts = value if isinstance(value, Scored) else Scored(value)
    if not isinstance(parts, Mapping):
        raise error(f"parts of type {type(parts).__name__}", "not a mapping")
    for part in parts.values():
        if not isinstance(part, int | float):
            raise error(f"a part {part!r}", "not a number")
    if score is not None and (not isinstance(score, int | float) or not _finite(score)):
        raise error(repr(score), "not a number in [0, 1]")
    if score is not None and not -1e-9 <= score <= 1 + 1e-9:
        raise error(repr(score), "outside [0, 1]")
    return Scored(score, {part: value for part, value in parts.items() if _finite(value)})


def plain(value: Any) -> Any:
    """A result with Python's numbers, in score and parts, for what stands for a number; others stay as they are.

    These are bools, fractions, decimals, and scalars, arrays and tensors without dimensions.
    """
    if isinstance(value, Scored):
        parts = value.parts
        named = isinstance(parts, Mapping)
        return Scored(plain(value.score), {name: plain(part) for name, part in parts.items()} if named else parts)
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    with contextlib.suppress(ArithmeticError, ValueError):
        return float(value) if isinstance(value, Real | Decimal) else value
    return value


def _finite(value: float) -> bool:
    # Not math.isfinite, which fails on an integer that is too large for a float.
    return abs(value) <= sys.float_info.max
