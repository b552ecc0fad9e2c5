"""Flat groups of a GRPO step, whose rewards do not differ: left out of the loss, or replaced by fresh prompts.

They teach nothing, but count in the loss's denominator and in the KL term (DAPO, Yu et al. 2025, section 3.2). A masked
completion leaves the denominator of TRL's losses that count tokens (dapo, which is the default, bnpo, cispo, vespo);
`trainer_args.BY_ROWS` are the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from adapters.backends.groups import is_flat
from adapters.recipe.stages import Grpo


class FlatGroups:
    """Does with flat groups what the stage says, inside TRL's `_generate_and_score_completions`.

    `rows` are all rows of the stage, and `fresh` gives the numbers of those to draw in each round, by the optimizer
    steps before the generation. TRL samples, then this scores and replaces, and TRL goes on with the completions that
    are left: it pads, and computes log-probabilities and advantages, for them alone.
    """

    def __init__(
        self, trainer: GRPOTrainer, stage: Grpo, rows: Dataset, fresh: Callable[[int], Sequence[Sequence[int]]]
    ) -> None:
        self.trainer, self.stage, self.rows, self.fresh = trainer, stage, rows, fresh
        self.replacing = False
        """Whether a round of replacements is being sampled."""
        self._finish, self._sample = trainer._generate_and_score_completions, trainer._generate
        self._score, self._size = trainer._calculate_rewards, trainer.num_generations
        trainer._generate_and_score_completions = self._generation
        trainer._generate, trainer._calculate_rewards = self._sampled, lambda *_: self._rewards

    def _generation(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """In place of `_generate_and_score_completions`: flat groups have no advantage, and may leave the loss."""
        self._inputs = inputs
        out: dict[str, Any] = self._finish(inputs)
        self._log()
        flat = torch.tensor(self._flat(self._rewards), device=out["advantages"].device)
        start = self.trainer.accelerator.process_index * len(inputs)
        mine = flat.repeat_interleave(self._size)[start : start + len(inputs)]  # a group may be shared among processes
        out["advantages"] = out["advantages"].masked_fill(mine, 0.0)
        # A generation of flat groups alone stays as it is: its gradient is that of the KL term, if there is one.
        if self.stage.flat_groups != "keep" and flat.any() and not flat.all():
            out["completion_mask"] = out["completion_mask"] * (~mine)[:, None].int()
            learned = out["completion_mask"] * out.get("tool_mask", 1)
            out["num_items_in_batch"] = self.trainer.accelerator.gather(learned.sum()).sum()
        return out

    def _sampled(self, prompts: list[str]) -> tuple[Any, ...]:
        """In place of `_generate`: completions of the generation's prompts, or of fresh ones in their place."""
        trainer = self.trainer
        made: tuple[Any, ...] = self._sample(prompts)
        _give_fields(self._inputs, made)
        self._rewards = self._score(self._inputs, prompts, made[3], made[1])
        self._scheduled, self._rounds, self._replaced = self._rewards.clone(), 0, 0
        if self.stage.flat_groups == "replace":
            # The figures of a step are those of its own prompts; replacements have been picked by their rewards.
            logged = [(figures, _lengths(figures)) for figures in (trainer._metrics["train"], trainer._pending_metrics)]
            self.replacing = True
            for candidates in self.fresh(trainer.state.global_step):
                self._replace(prompts, made, candidates)
            self.replacing = False
            for figures, lengths in logged:
                _cut(figures, lengths)
        return made

    def _replace(self, prompts: list[str], made: tuple[Any, ...], candidates: Sequence[int]) -> None:
        """One round: a group of a fresh prompt for each flat one, which takes its place unless it is flat, too."""
        accelerator, size = self.trainer.accelerator, self._size
        flat = [n for n, one in enumerate(self._flat(self._rewards)) if one]
        # All processes sample as many completions, so that none waits for another and all make the same calls.
        unit = accelerator.num_processes // math.gcd(accelerator.num_processes, size)
        count = min(-(-len(flat) // unit), len(candidates) // unit) * unit
        if not count:
            return
        share, rank = count * size // accelerator.num_processes, accelerator.process_index
        drawn = [self.rows[candidates[n // size]] for n in range(rank * share, (rank + 1) * share)]
        asked = [row["prompt"] for row in drawn]
        sampled = self._sample(asked)
        _give_fields(drawn, sampled)
        rewards = self._score(drawn, asked, sampled[3], sampled[1])
        # Prompt and completion ids, the mask of what was sampled, texts, log-probabilities.
        lists = [n for n in range(5) if sampled[n] is not None]
        everyone = gather_object([*zip(drawn, *(sampled[n] for n in lists), strict=True)])
        varied = [n for n, one in enumerate(self._flat(rewards)) if not one]
        for place, found in zip(flat, varied, strict=False):
            for n in range(size):
                self._rewards[place * size + n] = rewards[found * size + n]
                local = place * size + n - rank * len(prompts)
                if 0 <= local < len(prompts):
                    row, *columns = everyone[found * size + n]
                    self._inputs[local], prompts[local] = row, row["prompt"]
                    for index, value in zip(lists, columns, strict=True):
                        made[index][local] = value
        self._rounds, self._replaced = self._rounds + 1, self._replaced + min(len(flat), len(varied))

    def _flat(self, rewards: torch.Tensor) -> list[bool]:
        """Whether each group is flat, of all processes."""
        trainer = self.trainer
        columns = rewards * trainer.reward_weights.to(rewards.device)
        if trainer.multi_objective_aggregation == "sum_then_normalize":
            columns = _sum(columns)[:, None]
        groups = columns.view(-1, self._size, columns.shape[1]).transpose(1, 2).tolist()
        return [all(is_flat(rewards, self.stage.flat_below) for rewards in group) for group in groups]

    def _log(self) -> None:
        """Log the rewards of the step's own prompts under TRL's names, and how many flat groups were replaced."""
        trainer, before, after = self.trainer, self._flat(self._scheduled), self._flat(self._rewards)
        figures, names = trainer._metrics["train"], trainer.reward_func_names
        logged = {(f"rewards/{n}/mean", f"rewards/{n}/std"): self._scheduled[:, i] for i, n in enumerate(names)}
        logged["reward", "reward_std"] = _sum(self._scheduled * trainer.reward_weights.to(self._scheduled.device))
        for (mean, std), values in logged.items():
            figures[mean][-1], figures[std][-1] = torch.nanmean(values).item(), nanstd(values).item()
        figures["frac_reward_zero_std"][-1] = sum(before) / len(before)
        if self.stage.flat_groups == "replace":
            figures["flat_groups/replaced"].append(self._replaced)
            figures["flat_groups/rounds"].append(self._rounds)
            figures["flat_groups/left"].append(sum(after) / len(after))


def _sum(weighted: torch.Tensor) -> torch.Tensor:
    """Sums over the rewards that apply; NaN where none does, as in TRL."""
    return weighted.nansum(dim=1).masked_fill(weighted.isnan().all(dim=1), torch.nan)


def _give_fields(inputs: Sequence[dict[str, Any]], made: tuple[Any, ...]) -> None:
    """What a rollout function returns beside tokens goes to the rewards, which TRL would see to only later."""
    for name in list(made[5]):
        for row, value in zip(inputs, made[5].pop(name), strict=True):
            row[name] = value


def _lengths(figures: MutableMapping[str, list[float]]) -> dict[str, int]:
    return {name: len(values) for name, values in figures.items()}


def _cut(figures: MutableMapping[str, list[float]], lengths: dict[str, int]) -> None:
    """Take what was appended since `lengths` were read."""
    for name in list(figures):
        if name in lengths:
            del figures[name][lengths[name] :]
        else:
            del figures[name]
