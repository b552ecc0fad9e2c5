"""What a hosted run will cost, before it starts."""

from __future__ import annotations

import pytest

from adapters.backends.tinker.cost_estimate import needs_plain
from adapters.recipe.stages import Grpo
from adapters.recipe.tinker import Hosted


@pytest.mark.parametrize(
    ("temperature", "beta", "loss", "twice"),
    [
        (1.0, 0.03, "importance_sampling", False),
        (0.8, 0.0, "importance_sampling", False),
        (0.8, 0.03, "importance_sampling", True),
        (0.8, 0.0, "ppo", True),
    ],
)
def test_a_second_pass_is_counted_where_one_is_made(temperature: float, beta: float, loss: str, twice: bool) -> None:
    stage = Grpo.model_validate(
        {
            "kind": "grpo",
            "data": [{"path": "rows.jsonl"}],
            "rewards": ["funding"],
            "learning_rate": 1e-5,
            "temperature": temperature,
            "beta": beta,
        }
    )
    assert needs_plain(stage, Hosted(loss=loss)) is twice
