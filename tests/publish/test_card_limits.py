"""What a card says of weak evaluations, and which values of the environment a bundle must not hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.publish import bundle, card


def limitations(n: int = 100, truncated: int = 0, exact: int = 0, near: int = 0) -> list[str]:
    model = SimpleNamespace(base="Qwen/Qwen3-0.6B", thinking=True)
    finished = SimpleNamespace(
        recipe=SimpleNamespace(model=model),
        settings=SimpleNamespace(minimum=None),
        base_id=model.base,
        stages=[SimpleNamespace(name="1-sft")],
        figures={"test": {"1-sft": {"n": n, "truncated": truncated, "max_new_tokens": 8, "metrics": {"all": {}}}}},
        ledger={"tests": {"test": {"also_in_training": exact, "nearly_in_training": near}}},
    )
    return card._limitations(finished, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, []),
        ({"n": 99}, ["test has only 99 rows, so its intervals are wide."]),
        ({"truncated": 1}, ["test: 1 of 100 answers were cut at 8 tokens."]),
        ({"exact": 1, "near": 1}, ["test: 1 of its 100 texts also stand in the training data."]),
        ({"near": 1}, ["test: 1 of its 100 texts nearly repeat one of the training data."]),
    ],
)
def test_each_limitation_of_a_test_set_is_said_from_its_limit_on(figures: dict[str, int], said: list[str]) -> None:
    assert limitations(**figures) == said


@pytest.mark.parametrize(("value", "refused"), [("zq7", False), ("zq7zq7z", False), ("zq7zq7zq", True)])
def test_a_secret_of_eight_characters_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, refused: bool
) -> None:
    monkeypatch.setenv("MINE_API_KEY", value)
    (tmp_path / "README.md").write_text(f"says {value} here\n")
    assert bundle.leaks(tmp_path) == ["README.md:1 holds the value of $MINE_API_KEY"] * refused
