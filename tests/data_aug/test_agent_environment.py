"""The invented households as an environment: goals that can be reached, what ends an episode, what it earns."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from adapters.data_aug.agent import environment
from adapters.data_aug.agent.environment import TURNS, Household, synthesize, synthesize_played, synthesize_unseen
from adapters.data_aug.agent.households import _DATA
from adapters.rewards.agent_formats import available, write
from adapters.tasks.agent import AgentTask


def act(action: str) -> str:
    return write("alfworld", "That is next.", "act", action)


@pytest.mark.parametrize("unseen", [False, True])
def test_every_goal_is_reached_within_the_turns_and_earns_everything(unseen: bool) -> None:
    lengths = []
    for row, steps in environment._episodes(60, 3, unseen=unseen):
        game, rewards = Household(), []
        seen: str | None = game.reset(row, 0)
        for thought, action in steps:
            assert seen is not None
            assert action in (available(seen) or ()), "the next action is on offer in what was seen"
            assert not game.success
            seen, reward = game.step(write("alfworld", thought, "act", action))
            rewards.append(reward)
        assert seen is None
        assert game.success
        assert sum(rewards) == pytest.approx(1)
        lengths.append(len(steps))
    assert max(lengths) <= TURNS
    assert min(lengths) >= 4


def test_rows_are_a_function_of_the_seed_and_the_unseen_rooms_are_others() -> None:
    assert list(synthesize(5, 1)) == list(synthesize(5, 1)) != list(synthesize(5, 2))
    rooms = {room for side in ("seen", "unseen") for room in _DATA[side]}

    def used(rows: Iterable[Mapping[str, Any]]) -> set[str]:
        told = [row["messages"][0]["content"].partition(".")[0] for row in rows]
        return {room for room in rooms for text in told if text.endswith(f" {room}")}

    seen, unseen = used(synthesize(40)), used(synthesize_unseen(40))
    assert seen == set(_DATA["seen"])
    assert unseen == set(_DATA["unseen"])


def test_a_wrong_place_or_an_unchanged_thing_is_no_success() -> None:
    changed = [
        (row, steps) for row, steps in environment._episodes(80, 1, unseen=False) if row["household"]["goal"]["change"]
    ]
    for row, steps in changed[:10]:
        game = Household()
        game.reset(row, 0)
        verb = row["household"]["goal"]["change"]
        for _, action in steps:
            if not action.startswith(verb):
                game.step(act(action))
        assert not game.success, "the thing was put there without the change"


def test_what_ends_an_episode_and_what_does_nothing() -> None:
    row = next(iter(synthesize(1, 2)))
    game = Household()
    first = game.reset(row, 0)
    seen, reward = game.step(act("fly to moon 1"))
    assert seen == f"Nothing happens. {first}"
    assert 0 < reward <= 0.2 / TURNS
    assert game.step("I will look around first.") == (None, 0)
    game.reset(row, 0)
    steps = [game.step(act("look"))[0] for _ in range(3)]
    assert [seen is None for seen in steps] == [False, False, True], "the third of the same text in a row"
    lost = Household()
    lost.reset(row, 0)
    earned = sum(
        lost.step(act(action))[1] for action in itertools.islice(itertools.cycle(["look", "inventory"]), TURNS)
    )
    assert earned == pytest.approx(0.2), "discipline alone"


def test_wrong_settings_and_rows() -> None:
    with pytest.raises(ValueError, match="goal is a share"):
        Household(goal=2)
    with pytest.raises(ValueError, match="has no household"):
        Household().reset({"id": "a"}, 0)


def test_played_rows_teach_all_turns_of_the_agent() -> None:
    task = AgentTask()
    for row in synthesize_played(10, 4):
        example = task.example(row, id=row["id"])
        assert [example.prompt[n]["content"][:9] for n in example.learned] == ["THOUGHT: "] * len(example.learned)
        assert 1 not in example.learned, "not the assent to the instructions"
        assert len(example.learned) == (len(example.prompt) - 2) // 2
        assert task.example({**row, "learn": None}, id="a").learned == ()
