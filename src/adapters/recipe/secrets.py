"""Secrets come from the environment or the Hub's token store; a recipe is copied into every run and must hold none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from adapters.errors import UserError

NAMES = re.compile(r"TOKEN$|API_KEY$|ACCESS_KEY|SECRET|PASSWORD", re.IGNORECASE)
"""Environment variables whose values are secrets. TOKENIZERS_PARALLELISM is none."""
SHAPES = re.compile(r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{30,}|github_pat_\w{30,}|gh[opsu]_[A-Za-z0-9]{30,})\b")


def refuse_in(texts: Iterable[str], where: str) -> None:
    """Raise UserError, without repeating it, for a secret of the environment or a text that is shaped like one."""
    held = {name: value for name, value in os.environ.items() if NAMES.search(name) and len(value) >= 8}
    for text in texts:
        name = next((name for name, value in held.items() if value in text), None)
        if name or SHAPES.search(text):
            what = f"the value of {name}" if name else "what looks like an access token"
            raise UserError(
                f"{where}: it holds {what}, which would be copied into the run's files. Take it out, and give it in "
                "the environment (HF_TOKEN, WANDB_API_KEY, TINKER_API_KEY), or log in with: hf auth login"
            )
