"""Confidence from signals: a logistic model (Platt 1999), or isotonic regression on it, chosen by cross-validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from adapters.evaluation.confidence import auroc

FILE: Final = "calibration.json"
"""Of an adapter's folder."""
FOLDS: Final = 5
RIDGE: Final = 1.0
"""Weight of the squared coefficients, of standardised signals, beside the summed log loss."""
LEAST_OF_A_KIND: Final = 5
"""Right and wrong examples that a calibration needs, each."""
SUREST: Final = 9.0
"""Largest logit: no value is surer than 0.9999."""
LOWEST: Final = -30.0
"""Least log-probability; a constraint's mask may make one infinite."""

Signals = Mapping[str, float]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """From the signals of a value or a row to the probability that it is right."""

    columns: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    steps: tuple[tuple[float, float], ...] = ()
    """Of isotonic regression: (logit of the logistic model, probability), between which it is interpolated."""

    def __call__(self, signals: Sequence[Signals]) -> list[float]:
        """The probabilities."""
        logits = self._logits(signals)
        if not self.steps:
            return list(_sigmoid(logits).tolist())
        xs, ys = zip(*self.steps, strict=True)
        return list(np.interp(logits, xs, ys).tolist())

    def _logits(self, signals: Sequence[Signals]) -> Numbers:
        standard = (_table(signals, self.columns) - np.array(self.means)) / np.array(self.scales)
        return np.asarray(np.clip(standard @ np.array(self.weights) + self.intercept, -SUREST, SUREST))

    @property
    def stored(self) -> dict[str, Any]:
        """It as JSON."""
        return asdict(self)

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Calibration:
        """It from JSON. Raises KeyError, TypeError or ValueError for anything else."""
        lists = {name: tuple(map(float, stored[name])) for name in ("means", "scales", "weights")}
        columns, steps = tuple(map(str, stored["columns"])), tuple((float(x), float(y)) for x, y in stored["steps"])
        if not len(columns) == len(lists["means"]) == len(lists["scales"]) == len(lists["weights"]):
            raise ValueError("a calibration with columns of different lengths")
        return cls(columns, **lists, intercept=float(stored["intercept"]), steps=steps)


@dataclass(frozen=True)
class Fitted:
    """A calibration, how it was chosen, and each example's confidence by a model that has not seen its row."""

    calibration: Calibration
    signals: str
    """Name of the chosen signals."""
    how: str
    confidence: list[float]


def fit(
    signals: Sequence[Signals], right: Sequence[bool], rows: Sequence[int], choices: Mapping[str, Sequence[str]]
) -> Fitted:
    """The calibration whose signals rank best (AUROC), and whose map has the least Brier score, both cross-validated.

    `choices` names sets of signals; a column that ends in `=` stands for all that begin with it. Folds are of rows.
    Raises ValueError where right or wrong examples are too few.
    """
    correct = np.asarray(right, dtype=bool)
    fewest = min(int(correct.sum()), int((~correct).sum()))
    if fewest < LEAST_OF_A_KIND:
        raise ValueError(
            f"{int(correct.sum()):,} of {len(correct):,} values are right, and it takes {LEAST_OF_A_KIND} right and "
            f"{LEAST_OF_A_KIND} wrong ones"
        )
    sets = {name: _columns(signals, columns) for name, columns in choices.items()}
    fold = np.asarray(rows) % FOLDS
    crossed = {name: _crossed(_platt, signals, correct, fold, columns) for name, columns in sets.items()}
    name = max(sets, key=lambda name: auroc(crossed[name], correct) or 0.0)
    maps = {"platt": crossed[name], "isotonic": _crossed(_isotonic, signals, correct, fold, sets[name])}
    how = min(maps, key=lambda kind: float(np.mean((maps[kind] - correct) ** 2)))
    chosen = (_platt if how == "platt" else _isotonic)(signals, correct, sets[name])
    return Fitted(chosen, name, how, list(maps[how].tolist()))


Fit = Callable[[Sequence[Signals], NDArray[np.bool_], tuple[str, ...]], Calibration]


def _crossed(
    fit_one: Fit, signals: Sequence[Signals], right: NDArray[np.bool_], fold: NDArray[Any], columns: tuple[str, ...]
) -> Numbers:
    out = np.full(len(right), float(right.mean()))
    for n in range(FOLDS):
        inside, outside = np.flatnonzero(fold == n), np.flatnonzero(fold != n)
        if len(inside) and 0 < right[outside].sum() < len(outside):
            model = fit_one([signals[i] for i in outside], right[outside], columns)
            out[inside] = model([signals[i] for i in inside])
    return out


def _platt(signals: Sequence[Signals], right: NDArray[np.bool_], columns: tuple[str, ...]) -> Calibration:
    """Logistic regression on standardised signals, with a small ridge."""
    from scipy.optimize import minimize

    table = _table(signals, columns)
    means, scales = table.mean(axis=0), table.std(axis=0)
    scales = np.where(scales > 1e-9, scales, 1.0)
    design = np.hstack([(table - means) / scales, np.ones((len(table), 1))])
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: Numbers) -> tuple[float, Numbers]:
        margins = signs * (design @ weights)
        penalised = np.append(weights[:-1], 0.0)
        gradient = -design.T @ (signs * _sigmoid(-margins)) + RIDGE * penalised
        return float(np.logaddexp(0.0, -margins).sum() + RIDGE / 2 * penalised @ penalised), gradient

    found = minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B").x
    means_, scales_, weights = (tuple(map(float, part)) for part in (means, scales, found[:-1]))
    return Calibration(columns, means_, scales_, weights, float(found[-1]))


def _isotonic(signals: Sequence[Signals], right: NDArray[np.bool_], columns: tuple[str, ...]) -> Calibration:
    """Isotonic regression of right on the logistic model's logits; never quite 0 or 1."""
    from scipy.optimize import isotonic_regression

    model = _platt(signals, right, columns)
    logits = model._logits(signals)
    xs, place = np.unique(logits, return_inverse=True)
    weights = np.bincount(place).astype(float)
    ys = isotonic_regression(np.bincount(place, weights=right) / weights, weights=weights).x
    margin = 1 / (len(right) + 2)
    ys = np.clip(ys, margin, 1 - margin)
    ends = np.flatnonzero(np.diff(ys, prepend=-1.0, append=2.0))  # the first value of each step
    ends = np.unique(np.concatenate([ends[:-1], ends[1:] - 1]))
    return Calibration(**{**vars(model), "steps": tuple(zip(xs[ends].tolist(), ys[ends].tolist(), strict=True))})


def _columns(signals: Sequence[Signals], wanted: Sequence[str]) -> tuple[str, ...]:
    known = dict.fromkeys(name for of_one in signals for name in of_one)
    open_ended = tuple(name for name in wanted if name.endswith("="))
    return tuple(name for name in known if name in wanted or (open_ended and name.startswith(open_ended)))


def _table(signals: Sequence[Signals], columns: tuple[str, ...]) -> Numbers:
    rows = [[max(LOWEST, of_one.get(name, 0.0)) for name in columns] for of_one in signals]
    return np.array(rows, dtype=float).reshape(len(rows), len(columns))


def _sigmoid(values: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))))


def probability(logprob: float) -> float:
    """The probability of a log-probability in nats."""
    return math.exp(min(0.0, max(LOWEST, logprob)))
