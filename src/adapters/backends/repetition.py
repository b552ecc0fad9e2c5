"""Answers that have begun to repeat themselves: a greedy decoder never leaves such a loop, a sampling one seldom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

TIMES: Final = 4
"""A block that stands so often in a row, at the end of an answer, is a loop."""
TOKENS: Final = 128
"""Tokens of a loop, at least, and of its block, at most."""
CHARACTERS: Final = 256
"""The same of a text whose tokens are not known. Four equal records of a list are shorter, as a rule; their number is
no mistake of form."""
_EVERY: Final = 16


def loops(answer: Sequence[Any], size: int) -> bool:
    """Whether an answer ends with `TIMES` or more equal blocks that are `size` long or longer together."""
    for block in range(1, min(size, len(answer) // TIMES) + 1):
        tail = answer[-max(size, TIMES * block) :]
        if len(tail) >= size and tail[block:] == tail[:-block]:
            return True
    return False


class LoopEnd:
    """Follows an answer token by token and tells when it loops."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.looped = False

    def closed_by(self, token: int) -> bool:
        """Whether the answer loops; looked at every few tokens."""
        self.tokens.append(token)
        self.looped = not len(self.tokens) % _EVERY and loops(self.tokens, TOKENS)
        return self.looped
