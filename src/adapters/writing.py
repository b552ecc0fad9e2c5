"""Funding statements written by a model behind an endpoint, for structures that the generator drew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adapters.chat_client import Endpoint
from adapters.data_aug.funding_statements import written
from adapters.types import Message, Progress


class Written(NamedTuple):
    """The rows that were kept, and how many were refused for which reason."""

    rows: list[Any]
    refused: dict[str, int]


def write(rows: Sequence[Any], place: Endpoint, store: Path, progress: Progress) -> Written:
    """Ask for a statement for each row's structure, and keep those whose labels are exact in it.

    `store` keeps every answer (see `Endpoint.ask`). Raises UserError when the server cannot be asked.
    """
    prompts: dict[str, list[Message]] = {
        row["id"]: [{"role": m["role"], "content": m["content"]} for m in written.messages(row)] for row in rows
    }
    texts = {sample["id"]: written.cleaned(sample["completion"]) for sample in place.ask(prompts, 1, store, progress)}
    kept: list[Any] = []
    refused: Counter[str] = Counter()
    seen: set[str] = set()
    for row in rows:
        text = texts.get(row["id"])
        why = "cut at the longest length, or refused by the server" if text is None else written.refusal(row, text)
        if why is None and text in seen:
            why = "written before"
        if why is not None or text is None:
            refused[str(why)] += 1
            continue
        seen.add(text)
        kept.append(written.labelled(row, text))
    return Written(kept, dict(refused.most_common()))


def summary(result: Written) -> str:
    """The counts in words."""
    refused = sum(result.refused.values())
    reasons = "".join(f"\n  {count:,}: {why}" for why, count in result.refused.items())
    return f"{len(result.rows):,} statements kept, {refused:,} refused{reasons}"
