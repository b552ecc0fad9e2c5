"""Figures of confidence on known values, calibration, and the values of an answer: their places and verdicts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tiny import funding_rows

from adapters.evaluation import answer_values, calibration, confidence
from adapters.evaluation.calibration import Calibration
from adapters.tasks.funding import FundingTask
from adapters.tasks.ie import IeTask
from adapters.tasks.records import RecordsTask
from adapters.types import Example, TokenScores

TASK = FundingTask(target="compact")


def arrays(*pairs: tuple[float, int]) -> tuple[np.ndarray, np.ndarray]:
    sure, right = zip(*pairs, strict=True)
    return np.array(sure, float), np.array(right, bool)


# ------------------------------------------------------------------------------------------------------------ figures


def test_the_calibration_error_of_known_bins() -> None:
    # 15 bins of one value each: the mean of |confidence - right|.
    sure, right = arrays(*((n / 20, n % 2) for n in range(15)))
    assert confidence.calibration_error(sure, right) == pytest.approx(np.abs(sure - right).mean())
    # 15 bins of ten: .9 said, .8 right in each.
    sure, right = arrays(*((0.9, n % 10 < 8) for n in range(150)))
    order = np.random.default_rng(0).permutation(150)
    assert confidence.calibration_error(np.full(150, 0.8), right) == pytest.approx(0.0)
    assert confidence.calibration_error(sure, right) == pytest.approx(0.1)
    assert confidence.reliability(sure[order], right[order])[0][0] == pytest.approx(0.9)
    assert sum(n for _, _, n in confidence.reliability(sure, right)) == 150


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(0.1, 0), (0.4, 0), (0.35, 1), (0.8, 1)], 0.75),
        ([(0.5, 0), (0.5, 1), (0.5, 1)], 0.5),
        ([(0.1, 0), (0.9, 1)], 1.0),
        ([(0.1, 1), (0.9, 0)], 0.0),
        ([(0.1, 1), (0.9, 1)], None),
    ],
)
def test_auroc(pairs: list, expected: float | None) -> None:
    assert confidence.auroc(*arrays(*pairs)) == expected


def test_what_dropping_the_least_sure_tenth_gains() -> None:
    twenty = [(n / 20, n not in (0, 1, 10)) for n in range(20)]
    assert confidence.tenth_gain(*arrays(*twenty)) == pytest.approx(17 / 18 - 17 / 20)
    assert confidence.tenth_gain(*arrays(*[(0.5, n % 2) for n in range(20)])) == pytest.approx(0), "all tie"
    assert confidence.tenth_gain(*arrays((0.1, 0), (0.2, 1))) is None


def test_thresholds_and_the_lowest_with_a_precision() -> None:
    table = confidence.thresholds(*arrays((0.9, 1), (0.8, 1), (0.8, 0), (0.3, 1), (0.1, 0)))
    assert table.tolist() == [[0.9, 1, 1 / 3], [0.8, 2 / 3, 2 / 3], [0.3, 0.75, 1], [0.1, 0.6, 1]]
    assert confidence.at_precision(table, 0.7) == {"confidence": 0.3, "precision": 0.75, "kept": 1.0}
    assert confidence.at_precision(table, 0.95) == {"confidence": 0.9, "precision": 1.0, "kept": 1 / 3}
    assert confidence.at_precision(table[1:], 0.95) is None


def test_intervals_are_of_rows() -> None:
    rng = np.random.default_rng(1)
    sure = rng.random(600)
    right = rng.random(600) < sure
    alone = confidence.figures(sure, sure, right, list(range(600)))
    low, high = alone["auroc"]["ci"]
    assert low < alone["auroc"]["value"] < high
    assert alone["ece"]["value"] < 0.08
    assert alone["drop_tenth"]["ci"][0] > 0
    assert (alone["n"], alone["rows"]) == (600, 600)
    assert alone["curve"][0][0] > alone["curve"][-1][0]
    # Ten copies of each value in its row say nothing more than one.
    ten = confidence.figures(*(np.repeat(v[:60], 10) for v in (sure, sure, right, np.arange(60))))
    one = confidence.figures(sure[:60], sure[:60], right[:60], list(range(60)))
    assert np.subtract(*ten["auroc"]["ci"]) == pytest.approx(np.subtract(*one["auroc"]["ci"]), abs=0.02)


# -------------------------------------------------------------------------------------------------------- calibration


def made(n: int = 1500) -> tuple[list, list, list]:
    """Signals of which only `min` tells, whose probabilities are far too high, and how the values turned out."""
    rng = np.random.default_rng(3)
    hidden = rng.normal(0.5, 1.5, n)
    right = (rng.random(n) < 1 / (1 + np.exp(-hidden))).tolist()
    signals = [{"min": float(h) / 50 - 0.02, "mean": float(rng.normal()), "field=x": 1.0} for h in hidden]
    return signals, right, [i // 3 for i in range(n)]


def test_a_calibration_chooses_the_signal_that_ranks_and_corrects_it() -> None:
    signals, right, rows = made()
    fitted = calibration.fit(signals, right, rows, {"mean": ("mean",), "min": ("min",)})
    assert fitted.signals == "min"
    raw = np.exp([s["min"] for s in signals])
    before = confidence.calibration_error(raw, np.array(right))
    after = confidence.calibration_error(np.array(fitted.confidence), np.array(right))
    assert before > 0.3 > 0.06 > after
    assert confidence.auroc(np.array(fitted.confidence), np.array(right)) > 0.75
    stored = json.loads(json.dumps(fitted.calibration.stored))
    assert Calibration.read(stored)(signals) == pytest.approx(fitted.calibration(signals))
    assert all(0 < p < 1 for p in fitted.calibration([{"min": -math.inf}, {"min": 99.0}, {}]))


def test_isotonic_regression_never_falls_and_is_never_certain() -> None:
    signals, right, _ = made()
    model = calibration._isotonic(signals, np.array(right), ("min",))
    grid = model([{"min": x} for x in np.linspace(-0.3, 0.3, 50)])
    assert grid == sorted(grid)
    assert 0 < grid[0] < 0.3 < 0.7 < grid[-1] < 1
    platt = calibration._platt(signals, np.array(right), ("min",))
    assert np.abs(np.array(platt(signals)) - np.array(model(signals))).mean() < 0.05


def test_fields_are_columns_and_too_few_of_a_kind_are_refused() -> None:
    signals = [{"mean": 0.0, f"field={'a' if n % 2 else 'b'}": 1.0} for n in range(60)]
    right = [n % 2 == 1 or n % 10 == 0 for n in range(60)]
    fitted = calibration.fit(signals, right, list(range(60)), {"all": ("mean", "field=")})
    a, b, other = fitted.calibration([{"field=a": 1.0}, {"field=b": 1.0}, {}])
    assert a > other > b
    with pytest.raises(ValueError, match=r"60 of 60 values are right, and it takes 5 right and 5 wrong ones"):
        calibration.fit(signals, [True] * 60, list(range(60)), {"all": ("mean",)})


# ----------------------------------------------------------------------------------------- places, tokens and verdicts


def test_values_are_found_among_the_strings_of_an_answer() -> None:
    answer = 'x "NSF" </think>{"NSF": "a", "b": ["NSF", "q\\"u\\u00e9", 12, "NSF"]}'
    at = answer_values.places(answer, ["NSF", 'q"ué', "12", "NSF", "NSF", "none"])
    assert [answer[p.start : p.end] for p in at if p] == ['"NSF"', '"q\\"u\\u00e9"', "12", '"NSF"', '"NSF"']
    assert at[0] != at[3] == at[4]
    assert at[5] is None


def test_the_tokens_of_a_value_are_those_that_touch_it() -> None:
    answer = '["ab","c"]'
    scores = TokenScores((2, 4, 7, 8, 10), (-1.0, -2.0, -3.0, -4.0, -5.0))  # ["  ab  ","  c  "]
    ab, c, unknown = answer_values.token_signals(scores, [*answer_values.places(answer, ["ab", "c"]), None])
    assert ab == {"mean": -2.0, "min": -3.0, "sum": -6.0, "lead": 0.0, "answer": -3.0}
    assert c == {"mean": -4.0, "min": -5.0, "sum": -12.0, "lead": 0.0, "answer": -3.0}
    assert unknown == {"mean": -3.0, "min": -5.0, "sum": -15.0, "lead": 0.0, "answer": -3.0}
    spaced = TokenScores((1, 5, 6, 9, 10), (-1.0, -2.0, -3.0, -4.0, -5.0))  # [  "ab"  ,  "c"  ]
    assert [s["lead"] for s in answer_values.token_signals(spaced, answer_values.places(answer, ["ab", "c"]))] == [
        -1.0,
        -3.0,
    ]


def judged(task: object, gold: object, answer: str, values: list[str], **meta: object) -> list[bool | None]:
    example = Example("", "", (), gold=gold, meta={"text": None, **meta})
    return answer_values.verdicts(task, example, answer, answer_values.places(answer, values))


def test_the_tasks_own_counts_say_which_values_are_right() -> None:
    gold = TASK.gold({"funders": [{"funder_name": "Wellcome Trust", "awards": [{"award_ids": ["A-1", "B-2"]}]}]})
    right = TASK.answer(gold)
    assert judged(TASK, gold, right, ["Wellcome Trust", "A-1", "B-2"]) == [True, True, True]
    wrong = right.replace("A-1", "A-9")
    assert judged(TASK, gold, wrong, ["Wellcome Trust", "A-9", "B-2"]) == [True, False, True]
    elsewhere = right.replace("Wellcome Trust", "Simons Foundation")
    assert judged(TASK, gold, elsewhere, ["Simons Foundation", "A-1", "B-2"]) == [False, False, False]
    twice = '[{"funder_name":"Wellcome Trust","award_ids":["A-1"]},{"funder_name":"Wellcome Trust","award_ids":["X"]}]'
    assert judged(TASK, gold, twice, ["Wellcome Trust", "A-1", "Wellcome Trust", "X"]) == [True, True, None, False]
    nested = FundingTask()
    assert judged(nested, gold, nested.answer(gold), ["Wellcome Trust", "A-1", "B-2"]) == [True, True, True]


def test_an_uncertain_label_is_not_judged() -> None:
    row = {"funders": [{"funder_name": "NSF", "awards": [{"award_ids": ["A-1", "B-2"]}]}]}
    gold = TASK.gold({**row, "uncertain": ["funders.0.awards.0.award_ids.1"]})
    assert judged(TASK, gold, TASK.answer(TASK.gold(row)), ["NSF", "A-1", "B-2"]) == [True, True, None]


def test_entities_relations_and_objects_are_judged_too() -> None:
    task = IeTask(target="compact", missing_answer="whole")
    answer = '{"person":["Ada","Bob"],"works for":[{"head":"Ada","tail":"Acme"},{"head":"Bob","tail":"Acme"}]}'
    gold = {"person": ["Ada"], "works for": [{"head": "Bob", "tail": "Acme"}]}
    values = ["Ada", "Bob", "Ada", "Acme", "Bob", "Acme"]
    found = judged(task, gold, answer, values)
    assert found == [True, False, False, False, True, True]
    receipts = RecordsTask()
    row = receipts.example_rows[0]
    gold = receipts.gold(row)
    wrong = receipts.answer(gold).replace("Rye bread", "Oat bread")
    assert judged(receipts, gold, wrong, ["Sample Bakery", "Oat bread", "Plum cake"]) == [True, False, True]


def test_all_right_answers_are_right() -> None:
    for row in funding_rows(20):
        example = TASK.example(row, id="x")
        values = [f["funder_name"] for f in row["funders"]]
        answer = example.completion or ""
        found = answer_values.verdicts(TASK, example, answer, answer_values.places(answer, values))
        assert all(v is not False for v in found), (row, found)
        assert answer_values.whole_is_right(answer_values.matched(TASK, example, answer))
