"""Synthetic agent trajectories in disciplined format, and preference pairs.

All words, tables and households are the project's own; nothing is taken from an environment's data. Row i is a pure
function of (seed, i). `unseen=True` draws from tables and rooms that the other rows never use, for held-out tasks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.data_aug.agent import households, tables
from adapters.rewards.agent_formats import available, env_of, read, without_actions

Row = Mapping[str, Any]
SOURCES = (tables, households)


def trajectory(seed: int, i: int, *, unseen: bool = False) -> Row:
    """DBBench- and ALFWorld-style in turn: `id`, `env`, `messages`, perhaps `table`."""
    rng = random.Random(f"agent:{seed}:{i}:{unseen}")
    return {"id": f"agent-{'unseen-' if unseen else ''}{seed}-{i}", **SOURCES[i % 2].trajectory(rng, unseen=unseen)}


def synthesize(n: int, seed: int = 0, *, unseen: bool = False) -> Iterator[Row]:
    """One turn of each of n trajectories, as rows of the `agent` task."""
    for i in range(n):
        rows = turns(trajectory(seed, i, unseen=unseen))
        yield {**random.Random(f"turn:{seed}:{i}").choice(rows), "id": f"agent-{'unseen-' if unseen else ''}{seed}-{i}"}


def synthesize_unseen(n: int, seed: int = 0) -> Iterator[Row]:
    """As `synthesize`, from held-out tables and rooms."""
    return synthesize(n, seed, unseen=True)


def turns(episode: Mapping[str, Any], *, prompt: str = "messages") -> list[Row]:
    """The agent's turns of one trajectory, each a row with the messages before it.

    The messages stand under the name `prompt`. In ALFWorld the earlier turns of the user lose their list of actions, as
    in the environment. Turns that the environment cannot parse (a greeting, "OK.") and those marked `target: "no"` are
    context, never targets. Raises ValueError for a bad trajectory.
    """
    env, messages = env_of(episode.get("env")), episode.get("messages")
    if not isinstance(messages, list) or not all(
        isinstance(m, dict)
        and isinstance(m.get("role"), str)
        and (isinstance(m.get("content"), str) or (m.get("content") is None and m.get("tool_calls")))
        for m in messages
    ):
        raise ValueError("messages must be a list of messages with role and content")
    rows: list[Row] = []
    for n, message in enumerate(messages):
        target = message["role"] == "assistant" and message.get("target") != "no"
        if not target or n == 0 or message["content"] is None or read(env, message["content"]).kind is None:
            continue
        if message.get("tool_calls"):
            raise ValueError(
                f"message {n + 1} is a target and has tool_calls: a target is text, so write the call there"
            )
        history = [{key: value for key, value in m.items() if key != "target"} for m in messages[:n]]
        for earlier in history[:-1] if env == "alfworld" else ():
            if earlier["role"] == "user":
                earlier["content"] = without_actions(earlier["content"])
        row: dict[str, Any] = {"id": f"{episode.get('id', 'trajectory')}-{n}", "env": env, prompt: history}
        row |= {key: episode[key] for key in ("system", "tools") if episode.get(key)}
        row["completion"] = message["content"]
        if env == "alfworld" and (listed := available(messages[n - 1]["content"])):
            row["actions"] = listed
        if episode.get("table"):
            row["table"] = episode["table"]
        rows.append(row)
    return rows
