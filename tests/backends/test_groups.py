"""Flat groups, and the rows that are drawn in their place."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.backends.batches import layout
from adapters.backends.groups import fresh_rows, is_flat


@pytest.mark.parametrize(
    ("rewards", "below", "flat"),
    [
        ([0.3, 0.1 + 0.2], 0.0, True),
        ([0.3, 0.3001], 0.0, False),
        ([0.3, 0.3999], 0.1, True),
        ([0.3, 0.4], 0.1, False),
        ([0.0, 0.05, 0.1], 0.1, False),
        ([None, 0.5, math.nan], 0.0, True),
        ([None, 0.5, 0.7], 0.0, False),
        ([None, None], 0.0, True),
    ],
)
def test_a_flat_group_differs_by_less_than_the_limit(rewards: list, below: float, flat: bool) -> None:
    assert is_flat(rewards, below) == flat


@given(st.integers(2, 60), st.integers(1, 8), st.integers(1, 4), st.integers(0, 5), st.integers(1, 12))
def test_fresh_rows_are_others_than_those_nearby(rows: int, size: int, rounds: int, seed: int, steps: int) -> None:
    size = min(size, rows // 2)
    order = layout([0] * rows, size, steps, seed, by_length=False)
    for start in range(0, len(order), size):
        drawn = fresh_rows(order, rows, start, start + size, seed, rounds)
        assert drawn == fresh_rows(order, rows, start, start + size, seed, rounds)
        assert len(drawn) == rounds
        flat = [n for of_round in drawn for n in of_round]
        assert len(set(flat)) == len(flat), "no row twice in a generation"
        assert set(flat) <= set(range(rows))
        assert not set(flat) & set(order[start : start + size])
        assert flat or rows < 2 * size + 2, "there is something to draw"
        assert all(len(of_round) <= size for of_round in drawn)


def test_each_generation_and_seed_draws_anew() -> None:
    order = layout([0] * 400, 4, 40, 0, by_length=False)
    draws = [tuple(fresh_rows(order, 400, n, n + 4, seed, 1)[0]) for n in (0, 4, 8) for seed in (0, 1)]
    assert len(set(draws)) == 6
    scheduled_soon = set(order[8 : 8 + 99])
    assert not scheduled_soon & {n for of_round in fresh_rows(order, 400, 4, 8, 0, 9) for n in of_round}
