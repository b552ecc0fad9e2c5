"""Automatic stopping (health checks) in a TRL training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.backends.health import HealthMonitor
from adapters.backends.local.checkpoints import last_good
from adapters.recipe.stages import Health


class HealthWatch(TrainerCallback):  # type: ignore[misc]
    """Warns, then raises HealthError, by the thresholds of the stage's `health:`."""

    def __init__(self, health: Health) -> None:
        self.monitor = HealthMonitor(health)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Check the figures of the last step."""

        def kept() -> str:
            good = last_good(Path(args.output_dir))
            return f"The newest checkpoint is {good}." if good else "No checkpoint had been saved yet."

        self.monitor.judge(state.global_step, logs or {}, kept)
