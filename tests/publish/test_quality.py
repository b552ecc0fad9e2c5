"""The figures that an adapter must reach before it is published."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapters.errors import UserError
from adapters.evaluation.metrics import figures
from adapters.publish import card, quality
from adapters.types import Counts

FIELDS = {"funder": Counts(10, 10, 8), "award_id": Counts(5, 4, 1)}
BASE = {"funder": Counts(10, 10, 2), "award_id": Counts(5, 4, 2)}


def of_set(counts: dict[str, Counts], valid: float = 0.9) -> dict[str, Any]:
    return {"valid": valid, "metrics": {"strict": {}, "balanced": {f: figures(c) for f, c in counts.items()}}}


def run(minimum: dict[str, float] | None = None, **sets: dict[str, Any]) -> Any:
    settings, stages = SimpleNamespace(minimum=minimum), [SimpleNamespace(name="1-sft")]
    return SimpleNamespace(settings=settings, stages=stages, figures=sets)


def with_base(own: dict[str, Counts], base: dict[str, Counts] = BASE) -> dict[str, Any]:
    return {"base": of_set(base), "1-sft": of_set(own)}


def test_better_than_the_base_passes_and_says_the_figure() -> None:
    judged = quality.judge(run(test=with_base(FIELDS)))
    assert judged.passed
    assert judged.detail == "test: F1 over all fields 0.6207 (base 0.2759)"


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"funder": Counts(10, 10, 1), "award_id": Counts(5, 4, 2)}, "test: F1 over all fields, 0.2069, is below the base model's 0.2759"),  # noqa: E501
        ({"funder": Counts(10, 10, 0), "award_id": Counts(5, 0, 0)}, "test: every F1 is 0"),
    ],
)  # fmt: skip
def test_below_the_base_and_all_zero_are_refused(own: dict[str, Counts], reason: str) -> None:
    judged = quality.judge(run(good=with_base(FIELDS), test=with_base(own)))
    assert not judged.passed
    assert judged.detail == f"{reason}; {quality.WAY_OUT}"
    let_through = quality.judge(run({}, good=with_base(FIELDS), test=with_base(own)))
    assert let_through.passed
    assert let_through.detail == f"nothing was asked of the figures (`publish.minimum: {{}}`): {reason}"
    said = card._below_base(run({}, good=with_base(FIELDS), test=with_base(own)))
    assert said[0] == f"{reason}. The publisher asked nothing of the figures (`publish.minimum: {{}}`)."


def test_equal_to_the_base_and_nothing_to_find_pass() -> None:
    assert quality.judge(run(test=with_base(BASE))).passed
    nothing = {"funder": Counts(0, 0, 0)}
    assert quality.judge(run(test=with_base(nothing, nothing))).passed
    assert quality.judge(run(test={"1-sft": of_set(FIELDS)})).passed, "a base that was not evaluated"
    assert quality.judge(run()).detail == "not measured: the run evaluated nothing"


def test_a_field_below_the_base_is_said_in_the_card() -> None:
    assert card._below_base(run(test=with_base(FIELDS))) == [
        "test: award id is below the base model's (F1 0.2222, base 0.4444)."
    ]


@pytest.mark.parametrize(
    ("minimum", "reason"),
    [
        ({"funder_f1": 0.8}, None),
        ({"funder_f1": 0.81}, "test: funder_f1 is 0.8000, and publish.minimum asks for 0.81"),
        ({"award_id_precision": 0.5}, "test: award_id_precision is 0.2500, and publish.minimum asks for 0.5"),
        ({"funder_f0.5": 0.9}, "test: funder_f0.5 is 0.8000, and publish.minimum asks for 0.9"),
        ({"valid": 0.95}, "test: valid is 0.9000, and publish.minimum asks for 0.95"),
        ({"other/funder_f1": 0.99}, None),
        ({"test/funder_f1": 0.99}, "test: funder_f1 is 0.8000, and publish.minimum asks for 0.99"),
    ],
)
def test_a_minimum_holds_on_every_test_set_or_on_the_one_that_it_names(
    minimum: dict[str, float], reason: str | None
) -> None:
    perfect = {field: Counts(10, 10, 10) for field in FIELDS}
    other = {"base": of_set(BASE), "1-sft": of_set(perfect, valid=1.0)}
    judged = quality.judge(run(minimum, test=with_base(FIELDS), other=other))
    assert judged.passed is (reason is None)
    assert judged.detail.startswith(reason or "test: F1 over all fields")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("funders_f1", "Did you mean funder_f1"),
        ("funder", "Did you mean funder_f1"),
        ("award_id_f2", "Did you mean award_id_f"),
        ("tset/funder_f1", "with SET one of test"),
        ("test/fundr_f1", "Did you mean funder_f1"),
        ("accuracy", "Figures: |Known: "),
    ],
)
def test_an_unknown_figure_is_an_error_with_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as error:
        quality.bounds({name: 0.5}, {"test": ["funder", "award_id"]})
    assert error.value.at == ("publish", "minimum", name)
    with pytest.raises(UserError, match="no test set"):
        quality.bounds({"funder_f1": 0.5}, {})
