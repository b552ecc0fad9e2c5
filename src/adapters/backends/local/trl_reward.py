"""A reward plug-in as a reward function of TRL's `GRPOTrainer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.plugins.environments import Episode, EpisodeReward
from adapters.plugins.rewards import NamedReward
from adapters.plugins.rollouts import RewardCaller
from adapters.types import Example


class TrlReward:
    """A `Reward` with TRL's signature, picklable; the `row` column finds the example."""

    def __init__(self, reward: NamedReward, examples: Sequence[Example], rollouts: Path) -> None:
        self.caller, self.examples = RewardCaller(reward, rollouts), examples
        self.of_episodes = isinstance(reward.reward, EpisodeReward)
        self.__name__ = reward.name  # TRL logs under this; two instances of one class must not share it

    def __call__(
        self,
        *,
        completions: Sequence[Any],
        row: Sequence[int],
        episode: Sequence[Episode] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Scores of a batch; None where the reward does not apply.

        The reward of an environment is given the records of episodes, any other their last turns.
        """
        step = getattr(trainer_state, "global_step", None)
        if episode is not None:
            completions = [e.record if self.of_episodes else e.turns[-1].text for e in episode]
        scores = self.caller.score(completions, [self.examples[n] for n in row], step)
        for name, value in self.caller.take_figures().items():
            if log_metric is not None:
                log_metric(name, value)
        return scores
