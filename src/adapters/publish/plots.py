"""Plots of the card: loss, reward and KL over the steps, F1 of every model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

from adapters.publish.finished_run import Finished

CURVES = {"loss": "loss", "reward": "reward", "kl": "KL to the reference"}
RELIABILITY = {"before": "reliability_before", "calibrated": "reliability"}
# One colour a stage, distinguishable by colour-blind people (Okabe and Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(finished: Finished, folder: Path, mode: str | None) -> list[str]:
    """Write PNG files into `folder`, the same bytes every time; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = {s.name: s.log for s in finished.stages}
    drawn = []
    for key, label in CURVES.items():
        # GRPO's loss is near 0 by construction, so its curve shows nothing.
        series = {
            name: points
            for name, log in logs.items()
            if not (key == "loss" and any("reward" in row for row in log))
            and len(points := [(row["step"], row[key]) for row in log if key in row]) > 1
        }
        if series:
            _curves(series, label, folder / f"{key}.png")
            drawn.append(f"{key}.png")
    if mode is not None:
        for name, models in finished.figures.items():
            labels = [m for m in finished.labels if m in models]
            _bars({m: models[m]["metrics"][mode] for m in labels}, f"{name}, {mode}", folder / f"{name}.png")
            drawn.append(f"{name}.png")
    return drawn


def draw_confidence(ways: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """Write a reliability diagram and a precision-recall curve of the values, of each way of answering."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, (way, stored) in enumerate(ways.items()):
        figures = stored["figures"]
        of_values = figures.get("test values") or figures["values"]
        picture = Figure(figsize=(6.4, 3.2), layout="constrained")
        left, right = picture.subplots(1, 2)
        left.plot((0, 1), (0, 1), color="0.7", linewidth=0.8)
        for colour, (name, key) in zip(COLOURS, RELIABILITY.items(), strict=False):
            said, true, _ = zip(*of_values[key], strict=True)
            left.plot(said, true, ".-", color=colour, label=name)
        left.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1), title=f"values, by {way}")
        left.legend()
        _, precision, kept = zip(*of_values["curve"], strict=True)
        right.step([share * (of_values["recall"] or 1) for share in kept], precision, color=COLOURS[0], where="pre")
        right.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        right.grid(alpha=0.3)
        names.append(f"confidence-{number}.png")
        picture.savefig(folder / names[-1], dpi=120, metadata={"Software": None})
    return names


@contextmanager
def _plot(path: Path) -> Iterator[Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    yield axes
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _curves(series: Mapping[str, Sequence[tuple[float, float]]], label: str, path: Path) -> None:
    with _plot(path) as axes:
        for colour, (name, points) in zip(cycle(COLOURS), series.items()):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.4 if len(points) > 20 else 1)
            if len(points) > 20:
                axes.plot(steps, _smooth(values), color=colour, linewidth=1.6)
            axes.plot([], [], color=colour, label=name)
        axes.set(xlabel="optimizer step", ylabel=label)
        axes.grid(alpha=0.3)


def _bars(models: dict[str, dict[str, Any]], title: str, path: Path) -> None:
    fields = [f for f in next(iter(models.values())) if any(m[f]["gold"] or m[f]["pred"] for m in models.values())]
    width, style = 0.8 / len(models), {"capsize": 2, "error_kw": {"linewidth": 0.8}}
    with _plot(path) as axes:
        for n, (colour, (name, metrics)) in enumerate(zip(cycle(COLOURS), models.items())):
            places = [i + (n - (len(models) - 1) / 2) * width for i in range(len(fields))]
            f1 = [metrics[f]["f1"] or 0.0 for f in fields]
            ends = [metrics[f]["f1_ci"] or (0.0, 0.0) for f in fields]
            below = [max(0.0, value - low) for value, (low, _) in zip(f1, ends, strict=True)]
            above = [max(0.0, high - value) for value, (_, high) in zip(f1, ends, strict=True)]
            axes.bar(places, f1, width, yerr=(below, above), color=colour, label=name, **style)
        axes.set_xticks(range(len(fields)), [f.replace("_", " ") for f in fields])
        axes.set(ylabel="F1, 95 % interval", ylim=(0, 1), title=title)


def _smooth(values: Iterable[float], weight: float = 0.9) -> list[float]:
    """Exponential mean, corrected for its start (Kingma and Ba 2015, section 3)."""
    out, mean, seen = [], 0.0, 1.0
    for value in values:
        mean, seen = weight * mean + (1 - weight) * value, seen * weight
        out.append(mean / (1 - seen))
    return out
