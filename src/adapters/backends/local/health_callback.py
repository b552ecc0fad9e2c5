"""Stopping a TRL training that goes wrong without failing."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from adapters.backends.health import HealthError, HealthMonitor
from adapters.backends.local.checkpoints import last_good
from adapters.recipe.stages import Health


class HealthWatch(TrainerCallback):  # type: ignore[misc]
    """Warns, then stops, by the thresholds of the stage's `health:`. Raises HealthError before the state is saved."""

    def __init__(self, health: Health) -> None:
        self.monitor = HealthMonitor(health)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Look at the figures of the last steps."""
        found = self.monitor.update(logs or {})
        if found is None:
            return
        if found.fatal:
            good = last_good(Path(args.output_dir))
            kept = f"The last good adapter is {good}." if good else "No checkpoint had been saved yet."
            raise HealthError(f"stopped at step {state.global_step}: {found.what}. To do: {found.remedy}. {kept}")
        if state.is_world_process_zero:
            print(f"warning: {found.what}; {found.remedy}.", file=sys.stderr)
