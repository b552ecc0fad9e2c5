"""What is computed once of rows with common prefixes."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from adapters.backends.local.speedups.shared_prefixes import shared_prefixes  # noqa: E402

ROWS = st.lists(st.lists(st.integers(0, 1), max_size=14), min_size=1, max_size=6).filter(any)


@given(ROWS, st.sampled_from([1, 2, 4, sys.maxsize]))
def test_rows_are_made_of_the_pieces_that_are_computed(rows: list[list[int]], least: int) -> None:
    shared = shared_prefixes([torch.tensor(row, dtype=torch.long) for row in rows], least=least)
    tokens = torch.tensor([token for row in rows for token in row])
    computed = tokens[shared.computed]
    assert computed[shared.source].equal(tokens)
    cut = computed.split_with_sizes(shared.pieces)
    made = [torch.cat([cut[n] for n in pieces]).tolist() for pieces, _ in shared.rows]
    assert all(row in rows for row in made)
    own = [token for row, (_, n) in zip(made, shared.rows, strict=True) for token in row[len(row) - n :]]
    assert own == computed.tolist(), "in the order of computing"


def test_what_is_computed_once() -> None:
    prompt = list(range(10))
    rows = [[*prompt, 20, 21, 22], [7], [*prompt, 20, 30], [*prompt, 20, 21, 22], [*prompt, 20]]
    shared = shared_prefixes([torch.tensor(row) for row in rows], least=8)
    assert len(shared.computed) == 10 + 1 + 2 + 1 + 1
    assert len(shared_prefixes([torch.tensor(row) for row in rows], least=12).computed) == 13 + 1 + 12 + 11
    assert len(shared_prefixes([torch.tensor(row) for row in rows], least=sys.maxsize).computed) == sum(map(len, rows))
