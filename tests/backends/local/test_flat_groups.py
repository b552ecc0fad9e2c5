"""Groups of equal rewards, left out of a GRPO step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from adapters.backends.local.flat_groups import leave_out  # noqa: E402


def generation(advantages: list[float], *, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """One process's part of a generation in groups of two, completions of three tokens."""
    size = len(advantages) // world
    everyone = torch.tensor(advantages)
    output = {
        "advantages": everyone[rank * size : (rank + 1) * size],
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0]] * (size // 2) or [[1, 1, 1]] * size),
        "num_items_in_batch": torch.tensor(99),
    }
    accelerator = SimpleNamespace(process_index=rank, gather=lambda t: everyone if t.ndim else t.repeat(world))
    trainer: Any = SimpleNamespace(
        accelerator=accelerator, num_generations=2, _generate_and_score_completions=lambda inputs: output
    )
    leave_out(trainer)
    made: dict[str, Any] = trainer._generate_and_score_completions([])
    return made


def test_a_flat_group_leaves_mask_and_count() -> None:
    made = generation([0.0, 0.0, 0.7, -0.7])
    assert made["completion_mask"].tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert made["num_items_in_batch"] == 5


def test_an_answer_at_the_mean_stays() -> None:
    assert generation([0.0, 0.0, 0.0, 0.7])["completion_mask"].sum(1).tolist() == [0, 0, 3, 2]


@pytest.mark.parametrize("advantages", [[0.0] * 4, [0.5, -0.5, 0.7, -0.7]])
def test_nothing_changes_where_all_or_none_are_flat(advantages: list[float]) -> None:
    assert generation(advantages)["num_items_in_batch"] == 99


def test_a_process_masks_its_own_part() -> None:
    second = generation([0.7, -0.7, 0.0, 0.0], rank=1, world=2)
    assert second["completion_mask"].sum() == 0
    first = generation([0.7, -0.7, 0.0, 0.0], rank=0, world=2)
    assert first["completion_mask"].sum() == 5
