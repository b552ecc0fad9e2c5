"""Watching a training for the ways in which it goes wrong without failing."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.backends.local.checkpoints import last_good
from adapters.stages import Health

# TRL's figure, what it means when it stands at 1, and what usually helps.
STUCK = {
    "frac_reward_zero_std": (
        "no group of completions differs in reward, so nothing is learnt",
        "raise temperature or group_size, use harder or noisier rows, or a finer reward",
    ),
    "completions/clipped_ratio": (
        "every completion is cut at max_completion_length",
        "raise max_completion_length, or train the stage before until the model stops by itself",
    ),
}


class HealthError(RuntimeError):
    """A training that was stopped because going on would only cost."""


class HealthWatch(TrainerCallback):  # type: ignore[misc]
    """Warns, then stops, by the thresholds of the stage's `health:`. Raises HealthError before the state is saved."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.stuck = dict.fromkeys(STUCK, 0)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at the figures of the last steps."""
        figures = {k: v for k, v in (logs or {}).items() if isinstance(v, int | float)}
        for name in ("loss", "grad_norm"):
            if not math.isfinite(figures.get(name, 0.0)):
                self._stop(args, state, f"{name} is {figures[name]}", "lower learning_rate, or use bf16 or fp32")
        limit = self.health.max_kl
        kl = figures.get("kl", 0.0)
        if limit is not None and not kl <= limit:
            remedy = "lower learning_rate, raise beta, or raise health.max_kl"
            self._stop(args, state, f"the KL to the reference is {kl:g}, above {limit:g}", remedy)
        if self.health.stuck_steps is None:
            return
        for name, (what, remedy) in STUCK.items():
            if name in figures:
                self.stuck[name] = self.stuck[name] + 1 if figures[name] >= 1 else 0
            if self.stuck[name] >= self.health.stuck_steps:
                self._stop(args, state, f"for {self.stuck[name]} steps {what}", remedy)
            if self.stuck[name] and self.stuck[name] == self.health.stuck_steps // 2 and state.is_world_process_zero:
                print(f"warning: for {self.stuck[name]} steps {what}; {remedy}.", file=sys.stderr)

    def _stop(self, args: Any, state: Any, what: str, remedy: str) -> None:
        good = last_good(Path(args.output_dir))
        kept = f"The last good adapter is {good}." if good else "No checkpoint had been saved yet."
        raise HealthError(f"stopped at step {state.global_step}: {what}. To do: {remedy}. {kept}")
