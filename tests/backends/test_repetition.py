"""Answers that repeat themselves."""

from __future__ import annotations

import json

import pytest

from adapters.backends.repetition import CHARACTERS, TOKENS, LoopEnd, loops


@pytest.mark.slow
@pytest.mark.parametrize("block", [[1], [1, 2, 3], list(range(40)), list(range(128))])
def test_equal_blocks_at_the_end_are_a_loop(block: list[int]) -> None:
    end = LoopEnd()
    start = [7, 8, 9] * 5
    closed = [n for n, token in enumerate([*start, *block * 600]) if end.closed_by(token)]
    assert closed
    needed = len(start) + max(TOKENS, 4 * len(block))
    assert needed - 1 <= closed[0] < needed + 16 + len(block)


def test_a_list_of_like_records_is_none() -> None:
    funders = [{"funder_name": f"Sample Trust {n}", "award_ids": [f"ST-{n}"]} for n in range(60)]
    text = json.dumps(funders)
    assert not loops(text, CHARACTERS)
    end = LoopEnd()
    assert not any(end.closed_by(ord(character)) for character in text)
    assert loops(text + ', {"funder_name": null}' * 20, CHARACTERS)
    assert not loops("We thank nobody. " * 3, CHARACTERS)
