"""Which values of a reward count as a score, and what is said of a reward before a run."""

from __future__ import annotations

import functools
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from adapters.errors import UserError
from adapters.plugins import reward_probe
from adapters.plugins.attempts import RewardError, checked
from adapters.plugins.reward_probe import probe
from adapters.plugins.rewards import NamedReward, check_signature, resolve_all
from adapters.recipe.fields import RewardSpec
from adapters.testing import check_reward
from adapters.types import Example, Scored

EXAMPLE = Example("row-1", "", (), completion="gold", gold="gold")


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0, -1e-10, 1 + 1e-10])
def test_numbers_from_0_to_1_are_scores(value: float) -> None:
    assert checked("mine", value, EXAMPLE).score == value


class Scalar:
    """A number as numpy and torch have it."""

    shape = ()

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        return self.value


def test_what_stands_for_a_number_is_one_in_scores_and_parts() -> None:
    numpy = pytest.importorskip("numpy")
    wanted = Scored(1.0, {"part": 0.0})
    for one, zero in (
        (True, False),
        (numpy.float32(1), numpy.int64(0)),
        (numpy.bool_(True), numpy.float16(0)),
        (numpy.array(1.0), numpy.array(0)),
        (numpy.longdouble(1), numpy.uint8(0)),
        (Fraction(2, 2), Decimal(0)),
        (Scalar(1), Scalar(False)),
    ):
        found = checked("mine", Scored(one, {"part": zero}), EXAMPLE)  # type: ignore[arg-type, dict-item]
        assert found == wanted
        assert checked("mine", one, EXAMPLE) == Scored(1.0)
        assert {type(found.score), type(found.parts["part"])} <= {float, int}
    for none in (numpy.array([1.0]), numpy.str_("1"), numpy.float32("nan"), Scalar("1"), Decimal("sNaN"), 1j):
        with pytest.raises(RewardError, match="not a number in"):
            checked("mine", none, EXAMPLE)


def test_tensors_without_dimensions_are_numbers() -> None:
    torch = pytest.importorskip("torch")
    assert checked("mine", Scored(torch.tensor(0.5), {"a": torch.tensor(True)}), EXAMPLE) == Scored(0.5, {"a": 1.0})


@pytest.mark.parametrize("value", [{"score": 1.0}, (1.0, {"part": 0.5}), {}, ()])
def test_dicts_and_tuples_are_answered_with_what_to_return(value: object) -> None:
    with pytest.raises(RewardError, match=r"gave a (dict|tuple) .* return Scored\(score, parts\), of adapters\.types"):
        checked("mine", value, EXAMPLE)


def of_trl(prompts: object, completions: object, **columns: object) -> list[float]:
    return [1.0]


class OfTrl:
    def __call__(self, completions: object, **kwargs: object) -> list[float]:
        return [1.0]


def of_verl(data_source: str, solution_str: str, ground_truth: object, extra_info: object = None) -> float:
    return 1.0


def of_one(completion: str) -> float:
    return 1.0


def swapped(prompt: str, completion: str) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (swapped, r"mine takes \(prompt.*, which is not \(completion, example\)"),
        (of_trl, r"mine takes \(prompts.* as TRL's .* write `def mine\(completion, example\)`.*`example\.gold`"),
        (OfTrl(), r"as TRL's .* write `def __call__\(self, completion, example\)`"),
        (of_verl, r"as verl's .* solution_str is `completion`, ground_truth `example\.gold`"),
        (of_one, r"mine takes \(completion.*, which is not \(completion, example\)\. Here a reward scores one"),
    ],
)
def test_what_is_called_otherwise_is_refused_with_what_to_write(reward: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_signature(reward, "./file.py:mine")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="Here a reward scores one completion"):
        check_reward(reward, [EXAMPLE])  # type: ignore[arg-type]


def test_usual_signatures_pass(tmp_path: Path) -> None:
    for reward in (
        lambda completion, example: 1.0,
        lambda a, b, scale=2: 1.0,
        lambda *values: 1.0,
        functools.partial(lambda scale, completion, example: scale, 1.0),
        max,
    ):
        check_signature(reward, "mine")
    (tmp_path / "trl.py").write_text("def batch(completions, **kwargs):\n    return [1.0]\n")
    with pytest.raises(UserError, match="as TRL's reward functions do") as raised:
        resolve_all([RewardSpec(use="./trl.py:batch")], folder=tmp_path, at=("stages", 0, "rewards"))
    assert raised.value.at == ("stages", 0, "rewards", 0)


@pytest.mark.parametrize("value", [-1e-6, -0.25, 1 + 1e-6, 1.25, 2])
def test_numbers_outside_0_to_1_are_named_with_their_row(value: float) -> None:
    with pytest.raises(RewardError, match=r"mine gave .* for row 'row-1', outside \[0, 1\]"):
        checked("mine", value, EXAMPLE)


@pytest.mark.parametrize("value", ["1", float("nan"), float("inf"), [1.0], object()])
def test_what_is_no_number_is_no_score(value: object) -> None:
    with pytest.raises(RewardError, match="not a number"):
        checked("mine", value, EXAMPLE)  # type: ignore[arg-type]


def test_parts_must_be_numbers() -> None:
    assert checked("mine", Scored(None, {"a": 1}), EXAMPLE).score is None
    with pytest.raises(RewardError, match="a part 'x'"):
        checked("mine", Scored(1.0, {"a": "x"}), EXAMPLE)  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("gold", "broken", "said"),
    [
        (1.0, 0.0, []),
        (0.5, 0.5, ["the reward mine scores broken text as high as gold on 1 of"]),
        (0.0, 0.0, []),  # a row on which nothing can be earned says nothing
    ],
)
def test_a_reward_that_pays_broken_text_like_gold_is_noted(gold: float, broken: float, said: list[str]) -> None:
    reward = NamedReward("mine", lambda completion, example: gold if completion == "gold" else broken)
    notes = probe(reward, [EXAMPLE], ("stages", 0))
    assert [note[: len(expected)] for note, expected in zip(notes, said, strict=True)] == said


def test_a_reward_that_prefers_broken_text_to_gold_is_refused() -> None:
    reward = NamedReward("mine", lambda completion, example: 0.5 if completion == "gold" else 0.51)
    with pytest.raises(UserError, match=r"scores empty or broken text \(0.510\) higher than the gold answer \(0.500\)"):
        probe(reward, [EXAMPLE], ("stages", 0))


def slow(completion: str, example: Example) -> float:
    time.sleep(0.05)
    return float(completion == example.completion)


@pytest.mark.slow
def test_a_slow_reward_is_tried_on_fewer_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_probe, "PROBE_SECONDS", 0.28)
    rows = [Example(str(n), "", (), completion="gold", gold="gold") for n in range(30)]
    began = time.monotonic()
    [note] = probe(NamedReward("slow", slow, use="./slow.py:slow"), rows, ())
    assert time.monotonic() - began < 0.5
    assert "the reward slow was tried on 2 of 20 rows, because a call takes 0.05" in note
    assert note.endswith("for more: adapters rewards test ./slow.py:slow")
    at_once = probe(NamedReward("slow", slow, parallel=20, use="./slow.py:slow"), rows, ())
    assert at_once == [], "20 at a time: all rows in time"
    monkeypatch.setattr(reward_probe, "PROBE_SECONDS", 0.0)
    assert "on 1 of 20 rows" in probe(NamedReward("slow", slow), rows, ())[0], "one row at least"


def test_a_slow_reward_that_prefers_broken_text_is_refused_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_probe, "PROBE_SECONDS", 0.0)
    reward = NamedReward("mine", lambda completion, example: 0.5 if completion == "gold" else 0.51)
    with pytest.raises(UserError, match="higher than the gold answer"):
        probe(reward, [EXAMPLE] * 5, ())
