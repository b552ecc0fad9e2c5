"""The figures that an adapter must reach before it is published."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, NamedTuple

from adapters.errors import UserError, hint
from adapters.evaluation.evaluate import SetFigures
from adapters.evaluation.metrics import BETAS, main_mode
from adapters.publish.finished_run import Finished
from adapters.types import Counts

MEASURES: Final = ("precision", "recall", *BETAS)
VALID: Final = "valid"
"""The share of well-formed answers, beside the measures of each field."""
WAY_OUT: Final = "publish.minimum={} publishes it all the same, and the card says so"


class Bound(NamedTuple):
    """The least value of a figure on a test set."""

    test: str
    figure: str
    least: float


def bounds(minimum: Mapping[str, float], fields: Mapping[str, Collection[str]]) -> list[Bound]:
    """What `publish.minimum` asks of each test set (name -> its fields). Raises UserError for an unknown figure.

    A figure is FIELD_MEASURE or `valid`, of every test set; SET/FIGURE is of one.
    """
    known = {test: [f"{f}_{m}" for f in of_test for m in MEASURES] + [VALID] for test, of_test in fields.items()}
    out: list[Bound] = []
    for name, least in minimum.items():
        test, slash, figure = name.partition("/")
        asked = [(test, figure)] if slash and test in known else [(test, name) for test in known]
        if not (found := [Bound(*one, least) for one in asked if one[1] in known[one[0]]]):
            given = figure if slash and test in known else name
            of_sets = f" and SET/FIGURE with SET one of {', '.join(known)}" if slash and test not in known else ""
            names = list(dict.fromkeys(f for test, _ in asked for f in known[test]))
            suggestion = hint(given.rpartition("/")[2], names) or f" Figures: {', '.join(names[:8])} …"
            raise UserError(
                f"{name!r} is no figure of the test sets{of_sets}.{suggestion}" if known else _NO_TESTS,
                at=("publish", "minimum", name),
            )
        out += found
    return out


_NO_TESTS = "the recipe has no test set (evaluate:), so there are no figures to ask for."


class Judged(NamedTuple):
    """Whether the figures suffice, and why."""

    passed: bool
    detail: str
    faults: tuple[str, ...]
    """What falls short, also if `publish.minimum: {}` lets it pass."""


def judge(finished: Finished) -> Judged:
    """Compare the published stage's figures with `publish.minimum`, the base model's and zero.

    On each test set, F1 over all fields (their counts summed, in the main mode) must not be 0 where there is something
    to find, nor below the base model's.
    """
    minimum = finished.settings.minimum
    if not finished.figures:
        unmet = [f"publish.minimum asks for {name}, and the run evaluated nothing" for name in list(minimum or ())[:1]]
        return Judged(not unmet, "; ".join(unmet) or "not measured: the run evaluated nothing", tuple(unmet))
    mode = main_mode(m for models in finished.figures.values() for f in models.values() for m in f["metrics"])
    faults: list[str] = []
    reached: list[str] = []
    for said, short in (*_beside_base(finished, mode), *_asked_for(finished, mode, minimum or {})):
        (faults if short else reached).append(said)
    if minimum == {}:
        found = "; ".join(faults) or "nothing falls short"
        return Judged(True, f"nothing was asked of the figures (`publish.minimum: {{}}`): {found}", tuple(faults))
    said = "; ".join([*faults, WAY_OUT] if faults else reached) or "nothing to find in the test rows"
    return Judged(not faults, said, tuple(faults))


def _beside_base(finished: Finished, mode: str) -> Iterator[tuple[str, bool]]:
    """Of each test set: what F1 over all fields is, and whether it falls short."""
    for name, models in finished.figures.items():
        own, base = (overall(models[m], mode) if m in models else None for m in (finished.stages[-1].name, "base"))
        if own is None or not (own.gold or own.pred):
            continue
        if own.gold and not own.matched:
            yield f"{name}: every F1 is 0", True
        elif base and own.f() < base.f() - 1e-9:
            yield f"{name}: F1 over all fields, {own.f():.4f}, is below the base model's {base.f():.4f}", True
        else:
            yield f"{name}: F1 over all fields {own.f():.4f}" + (f" (base {base.f():.4f})" if base else ""), False


def _asked_for(finished: Finished, mode: str, minimum: Mapping[str, float]) -> Iterator[tuple[str, bool]]:
    """Of each figure of `publish.minimum`: what it is, and whether it falls short."""
    figures = {name: models[finished.stages[-1].name] for name, models in finished.figures.items()}
    fields = {name: tuple(of_set["metrics"].get(mode, ())) for name, of_set in figures.items()}
    for test, figure, least in bounds(minimum, fields):
        value = _value(figures[test], mode, figure)
        if value is None:
            yield f"{test}: {figure} is undefined, as there is nothing to find, and publish.minimum asks for it", True
        elif value < least:
            yield f"{test}: {figure} is {value:.4f}, and publish.minimum asks for {least:g}", True
        else:
            yield f"{test}: {figure} {value:.4f} of at least {least:g}", False


def overall(figures: SetFigures, mode: str) -> Counts:
    """The counts of a test set, summed over its fields."""
    fields = figures["metrics"].get(mode, {}).values()
    return sum((Counts(f["gold"], f["pred"], f["matched"]) for f in fields), Counts(0, 0, 0))


def _value(figures: SetFigures, mode: str, name: str) -> float | None:
    if name == VALID:
        return figures["valid"]
    field, _, measure = name.rpartition("_")
    value: Any = figures["metrics"][mode][field][measure]
    return None if value is None else float(value)
