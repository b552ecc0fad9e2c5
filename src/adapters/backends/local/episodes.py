"""Episodes of an environment in GRPO, as a rollout function of TRL, whose trainer samples every turn.

The completion of an episode is all that follows its first prompt: the tokens that the model sampled, as it sampled
them, and between two turns what the chat template writes for the environment's reply. `env_mask` is 1 for the former,
which alone are in the loss, and 0 for the latter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import gather_object
from datasets import Dataset

from adapters.backends.jobs import Job
from adapters.backends.local.encoder import Encoder
from adapters.backends.local.speedups.turns import Turns
from adapters.plugins.environments import Episode, EpisodeError, NamedEnvironment, seed_of
from adapters.types import Example


def rows(examples: Sequence[Example]) -> Dataset:
    """Rows of a stage with an environment: TRL hands a rollout function the prompts alone, which name their rows."""
    return Dataset.from_list([{"prompt": json.dumps([n, e.prompt]), "row": n} for n, e in enumerate(examples)])


@dataclass
class _Played:
    """An episode's tokens. `room`: most tokens of its completion."""

    episode: Episode
    prompt: list[int]
    room: int
    tokens: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)

    @property
    def left(self) -> int:
        return self.room - len(self.tokens)

    def add(self, tokens: Sequence[int], *, sampled: bool) -> None:
        self.tokens += tokens
        self.sampled += [int(sampled)] * len(tokens)


class Rollouts:
    """A rollout function: plays an episode for each prompt, all in step.

    The episodes of a group have one seed, of the run's seed, the row and the optimizer steps that are done, and so the
    same first prompt. Tokens are drawn from torch's random numbers, which a checkpoint stores.
    """

    def __init__(self, encoder: Encoder, job: Job, seed: int) -> None:
        self.encoder, self.examples, self.seed = encoder, job.examples, seed
        self.stage: Any = job.stage
        assert job.environment is not None  # noqa: S101 - other stages have no rollout function
        self.named: NamedEnvironment = job.environment
        self.turns = Turns()
        self.later_turn = False
        """Whether what is sampled now goes on with episodes that have begun."""

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """The tokens of the episodes, and the episodes, for the rewards. Raises EpisodeError."""
        played = self._begin([json.loads(prompt)[0] for prompt in prompts], trainer.state.global_step)
        stops = set(trainer.eos_token_ids)
        while self._anywhere(trainer, going := [p for p in played if p.episode.ended is None]):
            # A process whose episodes have ended samples too: sharded weights make the passes of all together.
            asked = [[*p.prompt, *p.tokens] for p in going or played[:1]]
            size = 1 if self.later_turn else trainer.num_generations
            with _limited(trainer.generation_config, self._limit(going)):
                answers, _ = trainer._generate_single_turn(asked, None, {}, size)
            self.later_turn = True
            for one, answer in zip(going, answers, strict=bool(going)):
                self._take(one, answer[: one.left], stops)
        self.later_turn = False
        self.turns.forget()
        return {
            "prompt_ids": [p.prompt for p in played],
            "completion_ids": [p.tokens for p in played],
            "logprobs": None,
            "env_mask": [p.sampled for p in played],
            "episode": [p.episode for p in played],
        }

    def _begin(self, numbers: Sequence[int], step: int) -> list[_Played]:
        examples = [self.examples[n] for n in numbers]
        episodes = [Episode(self.named, e, seed_of(self.seed, e.id, step)) for e in examples]
        opened: dict[int, Episode] = {}
        for n, episode in zip(numbers, episodes, strict=True):
            if opened.setdefault(n, episode).opening != episode.opening:
                raise EpisodeError(
                    f"the environment {self.named.name} gave two first observations for row {episode.example.id!r} and "
                    f"seed {episode.seed}; the answers of a group must follow one prompt"
                )
        most, whole = self.stage.max_completion_length, self.stage.max_prompt_length + self.stage.max_completion_length
        prompts = self.encoder.prompts([episode.prompt for episode in episodes])
        rooms = [max(1, min(most, whole - len(prompt))) for prompt in prompts]
        return [_Played(*of_one) for of_one in zip(episodes, prompts, rooms, strict=True)]

    def _limit(self, going: Sequence[_Played]) -> int:
        """Most tokens of the next turn, of any episode."""
        left = max((p.left for p in going), default=1)
        return min(left, self.named.max_turn_length or left)

    def _take(self, one: _Played, answer: list[int], stops: set[int]) -> None:
        ended = answer[-1] in stops
        text = self.encoder.tokenizer.decode(answer[:-1] if ended else answer, skip_special_tokens=True)
        one.add(answer, sampled=True)
        if not ended and not one.left:
            one.episode.cut(text)
            return
        observation = one.episode.take(text)
        if observation is None:
            return
        reply = self.encoder.reply(observation, ended=answer[-1] == self.encoder.end)
        if len(reply) >= one.left:
            one.episode.cut()
        else:
            one.add(reply, sampled=False)

    @staticmethod
    def _anywhere(trainer: Any, going: Sequence[_Played]) -> bool:
        """Whether an episode of any process goes on."""
        several = trainer.accelerator.num_processes > 1
        return any(gather_object([bool(going)])) if several else bool(going)


@contextmanager
def _limited(config: Any, most: int) -> Iterator[None]:
    """A generation config with a lower limit of new tokens while the context is open."""
    before = config.max_new_tokens
    config.max_new_tokens = min(before, most)
    try:
        yield
    finally:
        config.max_new_tokens = before
