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

CLOSED: Final = r"\b(proprietary|all[ -]rights[ -]reserved|closed|confidential|internal|unlicensed|unknown|none)\b"


def demands(licence: str | None) -> str:
    """What a licence asks for, by its name."""
    return " and ".join(demand for pattern, demand in DEMANDS if re.search(pattern, (licence or "").lower()))


def forbids_sharing(licence: str) -> str:
    """Why changed copies under a licence may not be shared, by its name; "" where they may."""
    name = licence.lower()
    if re.search(DEMANDS[1][0], name):
        return "allows no changed copies to be shared"
    return "allows no copies to be shared" if re.search(CLOSED, name) else ""
