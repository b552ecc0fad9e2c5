"""Health checks of a training (NaN, KL, no signal), local or hosted."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from adapters.console import console
from adapters.recipe.stages import Health

NO_SIGNAL = {
    "frac_reward_zero_std": (
        "no group of completions differs in reward, so nothing is learnt",
        "raise temperature or group_size, use harder or noisier rows, or a finer reward",
    ),
    "completions/clipped_ratio": (
        "every completion is cut at max_completion_length",
        "raise max_completion_length, or train the stage before until the model stops by itself",
    ),
}
"""TRL's figure -> what it means at 1, and what usually helps."""
LEFT = "flat_groups/left"
"""Share of groups of equal rewards that are left in a generation after others have been replaced."""
SAMPLING_GAP = "sampling/sampling_logp_difference/mean"
"""TRL's figure: mean |log p| difference of the sampled tokens between vLLM and the trainer, in nats."""


class HealthError(RuntimeError):
    """A training was stopped automatically, by its health checks."""


class Finding(NamedTuple):
    """What is wrong, what usually helps, and whether it ends the training."""

    what: str
    remedy: str
    fatal: bool


class HealthMonitor:
    """Follows the figures of a stage's steps, by the thresholds of its `health:`."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self.stuck = dict.fromkeys(NO_SIGNAL, 0)

    def judge(self, step: int, logs: Mapping[str, Any], kept: Callable[[], str]) -> None:
        """Check a step's figures: print a warning, or raise HealthError.

        `kept` tells which weights remain when the training ends.
        """
        finding = self.update(logs)
        if finding is None:
            return
        advice = f"{finding.what}. Try to {finding.remedy}."
        if finding.fatal:
            raise HealthError(f"stopped automatically at step {step}: {advice} {kept()}")
        console(stderr=True).print(f"warning: {advice}", markup=False, soft_wrap=True)

    def update(self, logs: Mapping[str, Any]) -> Finding | None:
        """What the figures of one more step say; what ends the training goes first."""
        figures = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        if LEFT in figures:
            figures["frac_reward_zero_std"] = figures[LEFT]
        for name in ("loss", "grad_norm"):
            if not math.isfinite(figures.get(name, 0.0)):
                return Finding(f"{name} is {figures[name]}", "lower learning_rate, or use bf16 or fp32", True)
        limit, kl = self.health.max_kl, figures.get("kl", 0.0)
        if limit is not None and not kl <= limit:
            remedy = "lower learning_rate, raise beta, or raise health.max_kl"
            return Finding(f"the KL to the reference is {kl:g}, above {limit:g}", remedy, True)
        limit, gap = self.health.max_sampling_gap, figures.get(SAMPLING_GAP, 0.0)
        if limit is not None and not gap <= limit:
            what = f"vLLM does not sample from the trained weights: {SAMPLING_GAP} is {gap:.2g}, above {limit:g}"
            remedy = "start the vLLM server again, train afresh with vllm: off, or raise health.max_sampling_gap"
            return Finding(what, remedy, True)
        most = self.health.no_signal_steps
        if most is None:
            return None
        findings = []
        for name, (what, remedy) in NO_SIGNAL.items():
            if name in figures:
                self.stuck[name] = self.stuck[name] + 1 if figures[name] >= 1 else 0
            steps = self.stuck[name]
            if steps and (steps >= most or steps == most // 2):
                findings.append(Finding(f"for {steps} steps {what}", remedy, steps >= most))
        return max(findings, key=lambda f: f.fatal, default=None)
