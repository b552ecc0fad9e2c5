"""What is known of an example beside its texts, and the keys by which examples are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from adapters.data.json_text import label_text
from adapters.data.text_keys import text_hash
from adapters.types import COPY_OF, ROW, Example, Message, Row

DOMAIN = "domain"
"""Key of `Example.meta`: the domain of a row, by its source's `domain` or its own column."""
CLEAN = "clean_prompt"
"""Key of `Example.meta`: the prompt without noise, where noise has `teacher: clean`."""


def in_domain(example: Example, domain: Any) -> Example:
    """The example with its domain, a text or a whole number. Raises ValueError for anything else."""
    try:
        name = label_text(domain)
    except ValueError:
        raise ValueError(f"domain must be text or a whole number, not {type(domain).__name__}") from None
    return replace(example, meta={**example.meta, DOMAIN: name}) if name else example


def with_row(example: Example, row: Row) -> Example:
    """The example with its row, for an environment."""
    return replace(example, meta={**example.meta, ROW: row})


def domain_of(example: Example) -> str | None:
    """The domain of an example, which says whose teacher judges it; None without one."""
    return example.meta.get(DOMAIN)


def clean_prompt(example: Example) -> tuple[Message, ...]:
    """The prompt that a teacher reads: without noise where noise has `teacher: clean`, else the student's."""
    prompt: tuple[Message, ...] = example.meta.get(CLEAN, example.prompt)
    return prompt


def is_empty(example: Example) -> bool:
    """Whether there is nothing to find; of a row without gold, that is not known."""
    gold = example.gold
    return gold is not None and not (any(gold.values()) if isinstance(gold, Mapping) else gold)


def content_of(example: Example) -> tuple[Any, ...]:
    """All of an example but `meta`."""
    e = example
    answers = (e.completion, e.rejected, e.gold, e.answer, e.rejected_answer, e.learned, e.masked)
    return (e.id, e.source, e.prompt, *answers)


def copy_key(example: Example) -> int:
    """What the copies of one row share, noisy and varied ones among them, and no other row has."""
    key: int = example.meta.get(COPY_OF) or text_hash(repr(content_of(example)))
    return key


def prompt_key(example: Example) -> str:
    """Key of an example's prompt, without case, spacing and punctuation."""
    return fold(" ".join(m["content"] or "" for m in example.prompt))


def text_key(example: Example) -> str:
    """Key of an example's text, whatever the prompt asks about it."""
    text = example.meta.get("text")
    return fold(text) if isinstance(text, str) else prompt_key(example)


def fold(text: str) -> str:
    """A text without case, spacing and punctuation."""
    return re.sub(r"\W+", " ", text.casefold()).strip()
