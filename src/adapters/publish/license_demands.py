"""What licences of training data ask of those who publish, by their names. No legal advice."""

from __future__ import annotations

import re
from typing import Final

DEMANDS: Final = (
    (r"-nc\b|non-?commercial", "allows no commercial use"),
    (r"-nd\b", "allows no derivatives"),
    (r"-sa\b|gpl|odbl", "asks that derivatives carry the same licence"),
    (r"\bby\b|cc-by|odc-by", "asks for credit"),
)


def demands(licence: str | None) -> str:
    """What a licence asks for, by its name."""
    return " and ".join(demand for pattern, demand in DEMANDS if re.search(pattern, (licence or "").lower()))


def forbids_changes(licence: str | None) -> bool:
    """Whether a licence lets nobody share a changed copy, by its name."""
    return bool(re.search(DEMANDS[1][0], (licence or "").lower()))
