"""Which values of a reward count as a score, and what is said of a reward before a run."""

from __future__ import annotations

import pytest

from adapters.errors import UserError
from adapters.plugins.rewards import NamedReward, RewardError, checked, probe
from adapters.types import Example, Scored

EXAMPLE = Example("row-1", "", (), completion="gold", gold="gold")


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0, -1e-10, 1 + 1e-10])
def test_numbers_from_0_to_1_are_scores(value: float) -> None:
    assert checked("mine", value, EXAMPLE).score == value


@pytest.mark.parametrize("value", [-1e-6, -0.25, 1 + 1e-6, 1.25, 2])
def test_numbers_outside_0_to_1_are_named_with_their_row(value: float) -> None:
    with pytest.raises(RewardError, match=r"mine gave .* for row 'row-1', outside \[0, 1\]"):
        checked("mine", value, EXAMPLE)


@pytest.mark.parametrize("value", ["1", float("nan"), float("inf"), [1.0], object()])
def test_what_is_no_number_is_no_score(value: object) -> None:
    with pytest.raises(RewardError, match="not a number"):
        checked("mine", value, EXAMPLE)  # type: ignore[arg-type]


def test_parts_must_be_numbers() -> None:
    assert checked("mine", Scored(None, {"a": 1}), EXAMPLE).score is None
    with pytest.raises(RewardError, match="a part 'x'"):
        checked("mine", Scored(1.0, {"a": "x"}), EXAMPLE)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("gold", "broken", "said"),
    [
        (1.0, 0.0, []),
        (0.5, 0.5, ["the reward mine scores broken text as high as gold on 1 of"]),
        (0.0, 0.0, []),  # a row on which nothing can be earned says nothing
    ],
)
def test_a_reward_that_pays_broken_text_like_gold_is_noted(gold: float, broken: float, said: list[str]) -> None:
    reward = NamedReward("mine", lambda completion, example: gold if completion == "gold" else broken)
    notes = probe(reward, [EXAMPLE], ("stages", 0))
    assert [note[: len(expected)] for note, expected in zip(notes, said, strict=True)] == said


def test_a_reward_that_prefers_broken_text_to_gold_is_refused() -> None:
    reward = NamedReward("mine", lambda completion, example: 0.5 if completion == "gold" else 0.51)
    with pytest.raises(UserError, match=r"scores empty or broken text \(0.510\) higher than the gold answer \(0.500\)"):
        probe(reward, [EXAMPLE], ("stages", 0))
