"""Figures of a finished stage, from the log of its steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

DPO_FIGURES: Final = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
}
"""Name in the manifest -> name in TRL's log. Rewards are beta times the log ratio of policy and reference."""


def dpo_figures(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each figure of the first step, and its mean over the last tenth of the steps."""
    entries = [entry for entry in log if DPO_FIGURES["margin"] in entry]
    spans = {"first": entries[:1], "last": entries[-max(1, len(entries) // 10) :]} if entries else {}
    return {
        f"{name}_{span}": sum(entry[key] for entry in steps) / len(steps)
        for name, key in DPO_FIGURES.items()
        for span, steps in spans.items()
    }


def grpo_figures(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """First KL, first and last reward, groups without variance and replaced, the largest importance ratio."""
    entries = [entry for entry in log if "reward" in entry]
    if not entries:
        return {}
    ratios = [entry["importance_ratio/max"] for entry in log if "importance_ratio/max" in entry]
    replacing = [entry for entry in entries if "flat_groups/left" in entry]
    replaced = {
        "flat_left_share": sum(entry["flat_groups/left"] for entry in replacing) / max(1, len(replacing)),
        "groups_replaced": int(sum(entry["flat_groups/replaced"] for entry in replacing)),
        "replacement_rounds": int(sum(entry["flat_groups/rounds"] for entry in replacing)),
    }
    return {
        **({"importance_ratio_max": max(ratios)} if ratios else {}),
        **(replaced if replacing else {}),
        "first_kl": entries[0].get("kl"),
        "reward_first": entries[0]["reward"],
        "reward_last": entries[-1]["reward"],
        "zero_variance_share": sum(entry.get("frac_reward_zero_std", 0.0) for entry in entries) / len(entries),
    }


def distill_figures(log: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Loss and coverage of the first step and their means over the last tenth of the steps, also by domain."""
    entries = [entry for entry in log if "coverage" in entry]
    if not entries:
        return {}
    last = entries[-max(1, len(entries) // 10) :]
    names = [n for n in entries[0] if n.partition("/")[0] in ("loss", "coverage", "teacher_coverage", "entropy")]
    means = {f"{name}_last": sum(entry[name] for entry in last) / len(last) for name in names}
    return {f"{name}_first": entries[0][name] for name in names} | means
