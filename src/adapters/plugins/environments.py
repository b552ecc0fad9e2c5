"""Environments of a recipe: resolved, tried, and played, one episode a row and seed."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from adapters.errors import KeyPath, UserError
from adapters.plugins.attempts import RewardError, checked
from adapters.plugins.registry import resolve
from adapters.plugins.rewards import GARBAGE, NamedReward
from adapters.plugins.source_files import identity, score_hash
from adapters.plugins.task_calls import TaskError, time_limit
from adapters.recipe.fields import EnvironmentSpec
from adapters.types import ROW, Environment, Example, Message, Scored

MAX_TURNS: Final = "max_turns"
MAX_LENGTH: Final = "max_length"
ENDED: Final = "environment"
"""What ended an episode: the limit of turns, that of tokens, or the environment itself."""
LIMIT: Final = 60.0
"""Seconds that one call of an environment may take."""


class EpisodeError(RewardError):
    """An environment failed, or answered with what it must not. The message names it, the row and the seed."""


@dataclass(frozen=True)
class NamedEnvironment:
    """A configured environment under the name its figures are logged by."""

    name: str
    environment: Environment
    reward: NamedReward
    """The reward of its episodes, which scores their records."""
    max_turns: int = 8
    max_turn_length: int | None = None

    @property
    def identity(self) -> list[Any]:
        """Its part of a stage's fingerprint."""
        return [self.reward.identity, self.reward.weight, self.max_turns, self.max_turn_length]


class Turn(NamedTuple):
    """A turn of the model, and what it led to; a turn that was cut by the limit of tokens led to nothing."""

    text: str
    observation: str | None = None
    reward: float | None = None


class Episode:
    """One play of an environment. Raises EpisodeError for a failure of the environment."""

    def __init__(self, named: NamedEnvironment, example: Example, seed: int) -> None:
        self.named, self.example, self.seed = named, example, seed
        self.turns: list[Turn] = []
        self.ended: str | None = None
        self.environment = self._call("be copied", lambda: copy.deepcopy(named.environment))
        self.opening: str = self._call("reset", lambda: self.environment.reset(example.meta[ROW], seed))
        if not isinstance(self.opening, str):
            raise self._error(f"gave a {type(self.opening).__name__} in reset, which must be a text")

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The row's prompt with the first observation, which joins the user's message at its end.

        Two messages of the user in a row are refused by some chat templates.
        """
        *before, last = self.example.prompt
        if last["role"] != "user":
            return (*before, last, {"role": "user", "content": self.opening})
        text = "\n".join(filter(None, (last["content"], self.opening)))
        return (*before, {**last, "content": text})

    @property
    def messages(self) -> tuple[Message, ...]:
        """The whole conversation, up to the model's next turn."""
        return (*self.prompt, *self._history())

    def _history(self) -> Iterator[Message]:
        for turn in self.turns:
            yield {"role": "assistant", "content": turn.text}
            if turn.observation is not None:
                yield {"role": "user", "content": turn.observation}

    def take(self, text: str) -> str | None:
        """Take a turn of the model; the observation that it led to, None when the episode has ended."""
        given: Any = self._call("step", lambda: self.environment.step(text))
        if not isinstance(given, tuple) or len(given) != 2:
            raise self._error(f"gave {given!r:.80} in step, which must be (observation or None, reward or None)")
        observation, reward = given
        if observation is not None and not isinstance(observation, str):
            raise self._error(f"gave a {type(observation).__name__} as an observation, which must be a text or None")
        if reward is not None and (isinstance(reward, bool) or not isinstance(reward, int | float)):
            raise self._error(f"gave a reward {reward!r:.80}, which must be a number or None")
        self.turns.append(Turn(text, observation, reward))
        if observation is None:
            self._end(ENDED)
        elif len(self.turns) == self.named.max_turns:
            self._end(MAX_TURNS)
        return observation if self.ended is None else None

    def cut(self, text: str | None = None) -> None:
        """End the episode at the limit of tokens, where a last turn, if it is given, is not whole."""
        self.turns += [] if text is None else [Turn(text)]
        self._end(MAX_LENGTH)

    def _end(self, how: str) -> None:
        self.ended = how
        try:
            checked(self.named.name, self.reward, self.example)
        except RewardError:
            raise self._error(f"gave rewards that sum to {self.reward!r}, which must lie in [0, 1]") from None

    @property
    def reward(self) -> float:
        """The sum of the turns' rewards."""
        return float(sum(turn.reward or 0.0 for turn in self.turns))

    @property
    def record(self) -> str:
        """The episode as JSON text: what `EpisodeReward` scores."""
        success = getattr(self.environment, "success", None)
        told = {"seed": self.seed, "opening": self.opening, "turns": [turn._asdict() for turn in self.turns]}
        won = self.reward >= 1 - 1e-9 if success is None else bool(success)
        return json.dumps(told | {"ended": self.ended, "success": won, "reward": self.reward}, ensure_ascii=False)

    def _call(self, what: str, call: Any) -> Any:
        where = what if what != "step" else f"step, turn {len(self.turns) + 1}"
        try:
            with time_limit(f"the environment {self.named.name}: {where}", self._played, LIMIT):
                return call()
        except TaskError as error:
            raise EpisodeError(str(error).removesuffix(".")) from None
        except (Exception, SystemExit) as error:
            raise self._error(f"failed in {where}: {type(error).__name__}: {error}") from error

    def _error(self, what: str) -> EpisodeError:
        return EpisodeError(f"the environment {self.named.name} {what}; {self._played}")

    @property
    def _played(self) -> str:
        return f"row {self.example.id!r}, seed {self.seed}"


class EpisodeReward:
    """The reward of an episode, read from its record; None for a text that is none."""

    def __call__(self, completion: str, example: Example) -> Scored:
        """The sum of its rewards, with parts: success, turns, and the shares that a limit ended."""
        record = read_record(completion)
        if record is None:
            return Scored(None)
        parts = {name: float(record["ended"] == limit) for name, limit in (("cut", MAX_LENGTH), ("endless", MAX_TURNS))}
        parts |= {"success": float(record["success"]), "turns": float(len(record["turns"]))}
        return Scored(record["reward"], parts)


def read_record(text: str) -> Mapping[str, Any] | None:
    """The record of an episode; None for any other text."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    wanted = {"seed", "opening", "turns", "ended", "success", "reward"}
    return record if isinstance(record, dict) and record.keys() == wanted else None


def seed_of(seed: int, row: str, when: int = 0) -> int:
    """The seed of the episodes of a row that are sampled at once, `when` so many optimizer steps are done."""
    return int.from_bytes(hashlib.sha256(f"episode:{seed}:{row}:{when}".encode()).digest()[:4]) >> 1


def configured(spec: EnvironmentSpec | None, folder: Path, at: KeyPath) -> NamedEnvironment | None:
    """The environment that a stage or a test set names. Raises UserError."""
    if spec is None:
        return None
    environment = resolve("environments", spec, folder=folder, at=at)
    own = {f.name for f in fields(environment)} if is_dataclass(environment) else set[str]()
    if clash := sorted(own & set(type(spec).model_fields)):
        fault = f"{spec.use} has a parameter {clash[0]!r}, which is a key of every environment; rename it."
        raise UserError(fault, at=at)
    for name, wanted in (("reset", "(row, seed)"), ("step", "(text)")):
        _check_method(environment, name, wanted, spec.use, at)
    name, code = spec.use.rpartition(":")[2], identity("environments", spec, environment, folder)
    scoring = score_hash("environments", spec, environment, folder)
    reward = NamedReward(name, EpisodeReward(), spec.weight, code, score_hash=scoring, use=spec.use)
    return NamedEnvironment(name, environment, reward, spec.max_turns, spec.max_turn_length)


def _check_method(environment: Any, name: str, wanted: str, use: str, at: KeyPath) -> None:
    method = getattr(environment, name, None)
    if not callable(method):
        raise UserError(f"{use} has no method {name}{wanted}; see docs/environments.md.", at=at)
    try:
        inspect.signature(method).bind(*wanted.split(","))
    except TypeError:
        raise UserError(f"{use}: {name} must be called with {wanted}.", at=at) from None
    except ValueError:  # no Python code
        pass


def try_environment(named: NamedEnvironment, examples: Sequence[Example], at: KeyPath) -> list[str]:
    """Play one episode twice with scripted texts, before any model is loaded; notes of how it went.

    Raises UserError when the environment fails, answers with what it must not, or plays the two in different ways.
    """
    if not examples:
        return []
    try:
        first, second = (_scripted(named, examples[0]) for _ in range(2))
    except EpisodeError as error:
        raise UserError(f"{error}.", at=at) from error
    if first != second:
        raise UserError(
            f"the environment {named.name} plays two episodes of row {examples[0].id!r} with the same seed and the "
            "same texts in different ways; take what is random in it from the seed.",
            at=at,
        )
    played = json.loads(first)
    ended = f"after {MAX_TURNS}" if played["ended"] == MAX_TURNS else "by the environment"
    episode = f"the environment {named.name}: an episode of row {examples[0].id!r} with scripted texts ended {ended}"
    return [f"{episode}, with {len(played['turns'])} turns and a reward of {played['reward']:g}"]


def _scripted(named: NamedEnvironment, example: Example) -> str:
    episode, texts = Episode(named, example, seed_of(0, example.id)), (example.completion or GARBAGE, GARBAGE, "")
    while episode.ended is None:
        episode.take(texts[len(episode.turns) % len(texts)])
    return episode.record
