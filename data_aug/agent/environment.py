"""The invented households as an environment, with rows to play in it and rows that show how."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.data_aug.agent.households import CHANGES, Scene, episode, with_actions
from adapters.rewards.agent import Agent
from adapters.rewards.agent_formats import read, write
from adapters.types import Example

Row = Mapping[str, Any]
TURNS: Final = 8
"""Turns in which every goal can be reached."""


@dataclass
class Household:
    """An ALFWorld-style room, one action a turn.

    The reward is `goal` for reaching the goal, and 1 - `goal` times the discipline of the turns, which the reward
    `agent` measures: its mean over `TURNS` turns, of which those after the goal count as the ones before it. As in
    ALFWorld a turn without an action ends the episode, and so does the third of the same text in a row. An action that
    is not on offer does nothing.
    """

    goal: float = 0.8
    success: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Raises ValueError for a share that is none."""
        if isinstance(self.goal, bool) or not 0 <= self.goal <= 1:
            raise ValueError(f"goal is a share and must lie between 0 and 1, got {self.goal!r}")

    def reset(self, row: Row, seed: int) -> str:
        """The room of a row, whatever the seed. Raises ValueError for a row without one."""
        if not isinstance(row.get("household"), Mapping):
            raise ValueError("the row has no household; synthesize: agent_episodes makes such rows")
        given = dict(row["household"])
        self.wanted, inside = given.pop("goal"), {place: list(items) for place, items in given.pop("inside").items()}
        doors, closed = frozenset(given.pop("doors")), set(given.pop("closed"))
        self.scene = Scene(**given, doors=doors, closed=closed, inside=inside)
        self.changed: set[tuple[str, str]] = set()
        self.said: list[str] = []
        self.discipline: list[float] = []
        return with_actions("", self.scene)

    def step(self, text: str) -> tuple[str | None, float]:
        """What the turn's action leads to, and the turn's part of the reward."""
        offered = self.scene.actions()
        self.discipline.append(self._disciplined(text, offered))
        self.said.append(text.strip())
        share = (1 - self.goal) * self.discipline[-1] / TURNS
        action = read("alfworld", text).argument
        if not action or self.said[-3:] == [text.strip()] * 3:
            return None, share
        if action not in offered:
            return with_actions("Nothing happens.", self.scene), share
        self.success = self._reaches(action)
        observation = self.scene.do(action)
        if not self.success:
            return with_actions(observation, self.scene), share
        left = max(0, TURNS - len(self.discipline))
        mean = sum(self.discipline) / len(self.discipline)
        return None, self.goal + share + (1 - self.goal) * mean * left / TURNS

    def _disciplined(self, text: str, offered: list[str]) -> float:
        gold = {"env": "alfworld", "actions": offered, "previous": self.said[-2:]}
        return Agent()(text, Example("", "", (), gold=gold)).score or 0.0

    def _reaches(self, action: str) -> bool:
        """Whether an available action fulfils the goal; notes what it changes."""
        verb, _, rest = action.partition(" ")
        held = self.scene.holding or ""
        if verb in CHANGES:
            self.changed.add((verb, held))
        if verb != self.wanted["verb"] or held.split(" ")[0] != self.wanted["thing"]:
            return False
        place = rest.rpartition(" in/on ")[2].split(" ")[0]
        change = self.wanted["change"]
        return place == self.wanted["place"] and (change is None or (change, held) in self.changed)


def synthesize(n: int, seed: int = 0, *, unseen: bool = False) -> Iterator[Row]:
    """Rows of the task `agent` to play in `Household`."""
    for row, _ in _episodes(n, seed, unseen=unseen):
        yield row


def synthesize_unseen(n: int, seed: int = 0) -> Iterator[Row]:
    """As `synthesize`, in held-out rooms."""
    return synthesize(n, seed, unseen=True)


def synthesize_played(n: int, seed: int = 0) -> Iterator[Row]:
    """Conversations in which the goal is reached, as rows of the task `agent` whose turns are all learned."""
    for row, steps in _episodes(n, seed, unseen=False):
        environment = Household()
        first = row["messages"][0]
        seen: str | None = "\n".join([first["content"], environment.reset(row, 0)])
        messages: list[dict[str, str]] = []
        for thought, action in steps:
            text = write("alfworld", thought, "act", action)
            messages += [{"role": "user", "content": str(seen)}, {"role": "assistant", "content": text}]
            seen, _ = environment.step(text)
        if not environment.success:
            raise AssertionError(f"the steps of {row['id']} do not reach its goal")
        completion = messages.pop()["content"]
        yield {"id": row["id"], "env": row["env"], "messages": messages, "completion": completion, "learn": "all"}


def _episodes(n: int, seed: int, *, unseen: bool) -> Iterator[tuple[Row, list[tuple[str, str]]]]:
    for i in range(n):
        rng = random.Random(f"episode:{seed}:{i}:{unseen}")
        row, steps = episode(rng, unseen=unseen, most=TURNS)
        yield {"id": f"episode-{'unseen-' if unseen else ''}{seed}-{i}", **row}, steps
