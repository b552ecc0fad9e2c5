"""Where the tokens of an answer end in its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def token_ends(tokenizer: Any, ids: Sequence[int], text: str) -> tuple[int, ...]:
    """The end of each token in the decoded `text`, in code points.

    Tokens are decoded behind the ones before them, because some tokenizers drop the space of a first token. One that
    ends within a character ends before it; the token that completes it has the whole.
    """
    ends: list[int] = []
    start = read = length = 0
    for n in range(len(ids)):
        now = _decoded(tokenizer, ids[start : n + 1])
        if not now.endswith("\ufffd"):
            length += len(now) - len(_decoded(tokenizer, ids[start:read]))
            start, read = read, n + 1
        ends.append(length)
    if length != len(text):  # a decoder that changes earlier text, or an answer that ends within a character
        ends = [len(_decoded(tokenizer, ids[: n + 1])) for n in range(len(ids))]
    return tuple(min(end, len(text)) for end in ends)


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True) if ids else ""
