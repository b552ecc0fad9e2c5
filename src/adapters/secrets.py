"""Access tokens and the values of secret variables, which nothing that this project writes or prints may hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

NAMES: Final = re.compile(r"TOKEN(?!IZER)|API_?KEY|ACCESS_?KEY|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
"""Names of environment variables whose values are secrets; TOKENIZERS_PARALLELISM is not."""
SHAPES: Final = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[A-Z0-9]{16}\b"
    r"|sk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,}|xox[abprs]-[A-Za-z0-9-]{10,}|tml-[\w.-]{8,}|glpat-[\w-]{20,}"
    r"|eyJ[\w-]{6,}\.[\w.-]+)|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\b[Aa]uthorization['\"]?\s*[:=]\s*b?['\"]?(?:Basic|Bearer|Token)\s+[\w+/.=~-]{6,}"
)
"""Access tokens of the Hub, GitHub, GitLab, AWS, OpenAI, Slack and Tinker, JSON web tokens, private keys, headers."""
SHORTEST: Final = 8
"""Characters of a variable's value below which it may be an ordinary word."""


def values() -> dict[str, str]:
    """Values of the environment's secret variables, with the variables' names."""
    return {value: name for name, value in os.environ.items() if NAMES.search(name) and len(value) >= SHORTEST}


def redact(text: str) -> str:
    """The text with secrets, and the queries of URLs (signatures), replaced by ***."""
    for value in values():
        text = text.replace(value, "***")
    text = SHAPES.sub("***", text)
    return re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1?***", text)


def find(texts: Iterable[str]) -> str | None:
    """Which secret the texts hold, in words that do not repeat it; None for none."""
    known = values()
    for text in texts:
        if name := next((name for value, name in known.items() if value in text), None):
            return f"the value of {name}"
        if SHAPES.search(text):
            return "what looks like an access token"
    return None
