"""Errors that a user sees, and the hints in them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import PurePath

from adapters.secrets import redact

KeyPath = tuple[str | int, ...]
SYNONYMS = {
    "lr": "learning_rate",
    "num_generations": "group_size",
    "max_seq_length": "max_length",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "micro_batch_size",
    "warmup_ratio": "warmup",
    "lr_scheduler_type": "schedule",
    "kl_coef": "beta",
    "save_steps": "save_every",
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "base_model": "base",
    "file": "path",
    "limit": "max_rows",
    "weight": "repeat",
    "ner": "token_classification",
    "token_cls": "token_classification",
    "distillation": "distill",
    "opd": "distill",
    "gkd": "distill",
}


def hint(given: str, known: Sequence[str]) -> str:
    """A sentence that suggests the known name nearest to a wrong one, or lists the names if they are few."""
    if SYNONYMS.get(given) in known:
        return f" Did you mean {SYNONYMS[given]}?"
    suffix = PurePath(given).suffix  # left out: it alone would make short file names alike
    stems = {name.removesuffix(suffix): name for name in known}
    if near := difflib.get_close_matches(given.removesuffix(suffix), stems, 1, 0.6):
        return f" Did you mean {stems[near[0]]}?"
    return f" Known: {', '.join(known)}." if 0 < len(known) <= 30 else ""


def visible(text: object) -> str:
    """The text on one line; what moves a cursor, hides or reorders letters is written as a code point."""
    return "".join(c if c.isprintable() else f"\u27e8{ord(c):04X}\u27e9" for c in str(text))


class UserError(Exception):
    """The user's input is wrong: the command prints the message and exits with 2.

    `at` is the recipe key that the message is about; file and line are found from it. Secrets in the message, which
    may quote the exception of a plug-in, are replaced.
    """

    def __init__(self, message: str, *, at: Sequence[str | int] = ()) -> None:
        super().__init__(redact(message))
        self.at = tuple(at)


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not a defect
    """A budget is used up or a gate is not passed: the command prints the message and exits with 3."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


def first_line(error: BaseException) -> str:
    """The first line of a library's message that says something; its type where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
