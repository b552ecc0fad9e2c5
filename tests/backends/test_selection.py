"""Which state a stage keeps: the best, the end of patience, the start where it is better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from adapters.backends import selection
from adapters.backends.selection import Course, Figure, Rows, Selection
from adapters.files import read_jsonl
from adapters.recipe.stages import Select


class Means:
    """A judge by plain means: an interval of a tenth around them."""

    metric, examples = "f1", ()

    def rows(self, texts: Sequence[str]) -> Rows:
        return [[float(text), 1.0] for text in texts]

    def figure(self, rows: Rows) -> Figure:
        mean = sum(top for top, _ in rows) / len(rows)
        return Figure(mean, mean - 0.1, mean + 0.1)

    def change(self, before: Rows, after: Rows) -> Figure:
        delta = self.figure(after).value - self.figure(before).value
        return Figure(delta, delta - 0.1, delta + 0.1)


def course(values: dict[int, float], steps: int = 100, **settings: object) -> Course:
    made = Course(Selection(Select(**settings), Means(), every=10, max_new_tokens=8), steps, "1-sft")
    for step, value in values.items():
        made.add(step, [[value, 1.0]])
    return made


def test_measured_at_the_start_every_tenth_step_and_at_the_end() -> None:
    made = course({}, steps=25)
    assert [step for step in range(26) if made.due(step)] == [0, 10, 20, 25]


def test_the_best_state_is_kept_and_of_equal_ones_the_first() -> None:
    found = course({0: 0.5, 10: 0.7, 20: 0.7, 30: 0.6}).outcome(30)
    assert (found["kept"], found["step"], found["value"], found["end"]) == ("best", 10, 0.7, 0.6)
    assert found["change"] == pytest.approx(0.2)
    assert found["text"].startswith("the state of step 10 is kept: f1 0.700 (0.600 to 0.800)")
    assert "0.500 at the start (a change of +0.200 (+0.100 to +0.300)), 0.600 at the end (step 30" in found["text"]


@pytest.mark.parametrize("start", [0.9, 0.71])
def test_a_start_that_is_better_is_kept(start: float) -> None:
    found = course({0: start, 10: 0.7, 20: 0.6}, steps=20).outcome(20)
    assert (found["kept"], found["step"], found["value"], found["best_step"]) == ("start", 0, start, 10)
    assert found["text"].startswith("no trained state is kept, but the weights that the stage started from")


def test_a_start_that_is_as_good_is_not() -> None:
    assert course({0: 0.7, 10: 0.7, 20: 0.6}, steps=20).outcome(20)["step"] == 10


def test_the_last_state_is_kept_on_demand_whatever_it_is_worth() -> None:
    found = course({0: 0.9, 10: 0.7, 20: 0.6}, steps=20, keep="last").outcome(20)
    assert (found["kept"], found["step"], found["value"]) == ("last", 20, 0.6)


def test_patience_counts_measurements_without_a_better_one() -> None:
    falling = {0: 0.5, 10: 0.7, 20: 0.6, 30: 0.65, 40: 0.8}
    assert course(falling, patience=2).last_step == 30
    assert course(falling, patience=3).last_step == 100
    assert course(falling).last_step == 100
    assert "stopped early of 100" in course(falling, patience=2).outcome(30)["text"]
    assert course(falling, patience=2).outcome(30)["step"] == 10, "what came after the stop does not count"


def test_measurements_come_back_from_the_folder(tmp_path: Path) -> None:
    made = course({0: 0.5, 10: 0.7})
    for measured in made.measured:
        selection.store(tmp_path, measured)
        selection.log(tmp_path, "f1", measured)
    with (tmp_path / selection.FILE).open("a") as file:
        file.write('{"step": 20, "val')
    made.selection.judge.examples = ("one row",)  # type: ignore[attr-defined]
    assert selection.read(tmp_path, made.selection) == made.measured
    assert read_jsonl(tmp_path / "log.jsonl")[1] == {
        "step": 10,
        "held_out/f1": 0.7,
        "held_out/f1/low": pytest.approx(0.6),
        "held_out/f1/high": pytest.approx(0.8),
    }
