"""Panels of curves from the log of a stage, known figures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from adapters.backends.selection import LOGGED

Log = Sequence[Mapping[str, float]]
Points = list[tuple[float, float]]


class Line(NamedTuple):
    """One curve; `band` is the range around it, as (step, low, high)."""

    name: str
    points: Points
    band: list[tuple[float, float, float]]


class Panel(NamedTuple):
    """Curves that share an axis."""

    title: str
    lines: tuple[Line, ...]
    note: str = ""
    share: bool = False
    """Whether it is drawn from 0 to 1."""
    main: bool = True
    across: str = "step"
    """What the axis across is; other than of steps it is from 0 to 1."""


FIRST = {
    "loss": ("Loss", ""),
    "eval_loss": ("Loss, held-out rows", ""),
    "reward": ("Reward", "weighted sum; band: one standard deviation of the batch"),
    "kl": ("KL to the reference", "nats per token; 0 at the first step when the reference is the start"),
    "importance_ratio/max": ("Largest importance ratio", "a token's probability to that at its sampling, at most"),
    "completions/mean_length": ("Completion length", "tokens; band: shortest to longest"),
    "completions/clipped_ratio": ("Completions cut at the limit", "share"),
    "frac_reward_zero_std": ("Groups without variance", "share of groups of equal rewards, which give no gradient"),
    "rewards/accuracies": ("Preference accuracy", "share of pairs whose chosen answer has the higher implicit reward"),
    "rewards/margins": ("Preference margin", "implicit reward of chosen minus rejected"),
    "coverage": ("Coverage", "the student's probability on the teachers' top_k tokens"),
    "entropy": ("Entropy", "nats per token"),
    "mean_token_accuracy": ("Token accuracy", "share of the target tokens that are the most likely"),
}
SHARES = {"coverage", "completions/clipped_ratio", "frac_reward_zero_std", "rewards/accuracies", "mean_token_accuracy"}
NO_PANEL = {"step", "epoch", "total_flos", "reward_std", "completions/min_length", "completions/max_length"}


def panels(log: Log) -> list[Panel]:
    """All panels of a stage's log, known figures first; empty for an empty log."""
    keys = list(dict.fromkeys(key for entry in log for key in entry))
    known = [key for key in FIRST if key in keys]
    out = [Panel(title := FIRST[key][0], (_line(log, key, title),), FIRST[key][1], key in SHARES) for key in known]
    taken = {*NO_PANEL, *known}
    for key in keys:
        stem, _, last = key.rpartition("/")
        if key in taken or (last == "std" and f"{stem}/mean" in keys) or (last in ("low", "high") and stem in keys):
            continue
        taken.add(key)
        main, name = key.startswith(("rewards/", "parts/")), stem.partition("/")[2]
        if last == "chosen" and f"{stem}/rejected" in keys:
            taken.add(f"{stem}/rejected")
            pair = (_line(log, key, "chosen"), _line(log, f"{stem}/rejected", "rejected"))
            out.append(Panel(f"{stem}: chosen and rejected", pair, main=main))
        elif key.startswith("rewards/") and last == "mean":
            line = _line(log, key, "mean")
            if [y for _, y in line.points] != [y for _, y in points(log, "reward")]:
                out.append(Panel(f"Reward {name}", (line,), "unweighted; band: one standard deviation of the batch"))
        elif key.startswith(LOGGED):
            title, note = f"Held-out {last.replace('_', ' ')}", "greedy answers to held-out rows; band: 95 % interval"
            out.insert(0, Panel(title, (_line(log, key, last),), note))
        elif key.startswith("parts/"):
            out.append(Panel(last.replace("_", " "), (_line(log, key, last),), f"part of the reward {name}"))
        else:
            out.append(Panel(key.replace("_", " "), (_line(log, key, key),), main=main))
    return [panel for panel in out if any(line.points for line in panel.lines)]


def points(log: Log, key: str) -> Points:
    """(step, value) where the log has one."""
    return [(entry["step"], entry[key]) for entry in log if key in entry]


def _line(log: Log, key: str, name: str) -> Line:
    stem, _, last = key.rpartition("/")
    if key == "completions/mean_length":
        low, high = "completions/min_length", "completions/max_length"
        band = [(e["step"], e[low], e[high]) for e in log if low in e and high in e]
    elif key.startswith(LOGGED):
        band = [(e["step"], e[f"{key}/low"], e[f"{key}/high"]) for e in log if f"{key}/low" in e and f"{key}/high" in e]
    else:
        std = "reward_std" if key == "reward" else f"{stem}/std" if last == "mean" else ""
        band = [(e["step"], e[key] - e[std], e[key] + e[std]) for e in log if key in e and std in e]
    return Line(name, points(log, key), band)
