"""Old keys and short forms of a recipe: what may be written, and the key that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from adapters.errors import KeyPath

_OF_A_SOURCE = {"cap": "max_rows", "subset": "split", "split.take": "name", "split.of": "fractions", "split.by": "key"}
RENAMED: Final[Mapping[str, str]] = {
    "max_rejected": "max_bad_rows",
    "evaluate.*.variants": "prompt_variants",
    "stages.*.advantage": "scale_rewards",
    "stages.*.max_dropped": "max_too_long",
    "stages.*.health.stuck_steps": "no_signal_steps",
    "tinker.clip": "clip_range",
    "tinker.keep_days": "checkpoint_ttl_days",
    "tinker.patience": "timeout_minutes",
    "tinker.verify": "verify_adapter",
    **{f"{part}.*.data.*.{old}": new for part in ("stages", "evaluate") for old, new in _OF_A_SOURCE.items()},
}
"""Path of an old key (the keys above it under their present names) -> its present name."""

SHORT_FORMS: Final[Mapping[str, str]] = {
    "task": "use",
    "stages.*.noise": "use",
    "stages.*.environment": "use",
    "stages.*.rewards.*": "use",
    "stages.*.data.*": "path",
    "evaluate.*.data.*": "path",
    "evaluate.*.environment": "use",
}
"""Where a text may stand for a mapping -> the key of the mapping whose value it is."""


def present_name(path: KeyPath, value: object, beside: Mapping[Any, Any]) -> str:
    """The present name of the key at the end of a path, given its value and the mapping that it stands in."""
    key = str(path[-1])
    # `split` named a split of the Hub dataset before it was the recipe's own seeded split, which is a mapping.
    if key == "split" and isinstance(value, str) and "hub" in beside and _find(SHORT_FORMS, path[:-1]) == "path":
        return "hub_split"
    return _find(RENAMED, path) or key


def long_form(path: KeyPath, value: Any) -> Any:
    """The mapping that a text at a path is short for; any other value as it is."""
    key = _find(SHORT_FORMS, path) if isinstance(value, str) else None
    return {key: value} if key else value


def _find(table: Mapping[str, str], path: KeyPath) -> str | None:
    for pattern, name in table.items():
        keys = pattern.split(".")
        if len(keys) == len(path) and all(key in ("*", given) for key, given in zip(keys, path, strict=True)):
            return name
    return None
