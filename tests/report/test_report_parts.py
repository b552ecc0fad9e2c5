"""What the report is made of: comparisons as the scorer makes them, curves, charts, choices."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import UserError
from adapters.evaluation import metrics
from adapters.evaluation.alignment import align, compare_values, read_value
from adapters.pipeline.run_folder import EvaluatedModel, RunFolder
from adapters.report import charts, curves, pipeline, results, rollouts, samples
from adapters.report.reward_weights import reward_weights, weighted
from adapters.rewards import funding_alignment
from adapters.rewards.funding_matching import MODES, SCORERS, counts, parse, read_funders
from adapters.tasks.funding import FundingTask
from adapters.types import Aligned, Counts

names = st.sampled_from(
    ["NSF", "National Science Foundation", "Wellcome Trust", "Wellcome trust", "The Wellcome", "", "*"]
)
award_ids = st.sampled_from(["AB-123456", "AB 123456", "AB-123457", "ab123456", "X1", "-", "AB\u2013123456", ""])
texts = st.sampled_from(["Marie Curie", "Marie Curie Actions", "Horizon 2020", "*"])
awards = st.fixed_dictionaries(
    {
        "award_ids": st.lists(award_ids, max_size=3),
        "funding_scheme": st.lists(texts, max_size=2),
        "award_title": st.lists(texts, max_size=1),
    }
)
funders = st.lists(
    st.fixed_dictionaries({"funder_name": st.none() | names, "awards": st.lists(awards, max_size=2)}), max_size=4
)


@given(funders, funders, st.sampled_from(MODES), st.sampled_from(SCORERS))
def test_the_funding_comparison_is_the_scorers(gold: list, pred: list, mode: str, scorer: str) -> None:
    left, right = read_funders(gold), read_funders(pred)
    rows = funding_alignment.align(left, right, mode, scorer)
    for field, counted in counts(left, right, mode, scorer).items():
        mine = [r for r in rows if r.field == field]
        assert sum(r.gold is not None for r in mine) == counted.gold
        assert sum(r.pred is not None for r in mine) == counted.pred
        assert sum(r.matched for r in mine) == counted.matched
    assert not [r for r in rows if r.matched and None in (r.gold, r.pred)]


@given(funders, funders, funders)
def test_gold_stands_in_one_order_whatever_is_predicted(gold: list, one: list, two: list) -> None:
    task = FundingTask()
    sides = [task.align(gold, json.dumps(pred)) for pred in (one, two)]
    assert [r.gold for r in sides[0] if r.gold is not None] == [r.gold for r in sides[1] if r.gold is not None]
    merged = samples.merge(sides)
    assert sum(line.gold is not None for line in merged) == sum(r.gold is not None for r in sides[0])
    for n, rows in enumerate(sides):
        assert sorted(map(repr, rows)) == sorted(repr(line.preds[n]) for line in merged if line.preds[n])


def test_near_ids_stand_side_by_side_unmatched() -> None:
    gold, pred = ([{"funder_name": "NSF", "award_ids": [i]}] for i in ("AB-123456", "AB-123457"))
    rows = funding_alignment.align(read_funders(gold), read_funders(pred))
    assert rows == [Aligned("funder", "NSF", "NSF", True), Aligned("award_id", "AB-123456", "AB-123457", False, 1)]


def test_ids_under_the_wrong_funder_are_missed_and_extra() -> None:
    gold = [{"funder_name": "NSF", "award_ids": ["1"]}, {"funder_name": "Wellcome Trust"}]
    pred = [{"funder_name": "NSF"}, {"funder_name": "Wellcome Trust", "award_ids": ["1"]}]
    rows = funding_alignment.align(read_funders(gold), parse(json.dumps(pred)).funders)
    assert [(r.gold, r.pred) for r in rows if r.field == "award_id"] == [("1", None), (None, "1")]


def test_json_is_compared_by_key_and_value_in_any_order() -> None:
    gold = {"person": ["Ada Lovelace", "Marie Curie"], "place": ["Paris"], "empty": [], "n": 3}
    pred = {"place": ["London", "Paris"], "person": ["Marie Curie", "Ada Lovelace?"], "n": 4, "new": True}
    assert compare_values(gold, pred) == [
        Aligned("person", "Ada Lovelace", "Ada Lovelace?", False),
        Aligned("person", "Marie Curie", "Marie Curie", True),
        Aligned("place", "Paris", "Paris", True),
        Aligned("n", "3", "4", False),
        Aligned("place", None, "London"),
        Aligned("new", None, "true"),
    ]
    assert compare_values(["a", "a"], ["a"]) == [Aligned("answer", "a", "a", True), Aligned("answer", "a", None)]
    assert compare_values([], []) == []
    assert compare_values("yes", "no") == [Aligned("answer", "yes", "no", False)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Sure:\n```json\n{"a": 1}\n```', {"a": 1}),
        ('<think>{"b": 2}</think><answer>{"a": 1}</answer>', {"a": 1}),
        ("no JSON at all ", "no JSON at all"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_reading_a_completion(text: str, value: object) -> None:
    assert read_value(text) == value


@given(st.text())
def test_any_completion_can_be_compared(text: str) -> None:
    for task in (None, FundingTask()):
        rows = align(task, [{"funder_name": "NSF"}], text)
        assert [r.gold for r in rows if r.gold is not None] == ["NSF"]


def test_a_tasks_failing_comparison_costs_no_report() -> None:
    class Broken:
        def align(self, gold: object, completion: str) -> list[Aligned]:
            raise RuntimeError

    assert align(Broken(), ["a"], '["a"]') == [Aligned("answer", "a", "a", True)]


def test_dpo_and_unknown_figures_have_panels() -> None:
    keys = ("loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen")
    log = [{"step": float(n), **dict.fromkeys(keys, n / 4), "my_own": 1.0, "epoch": 1.0} for n in range(4)]
    found = curves.panels(log)
    titles = [p.title for p in found]
    for wanted in ("Loss", "Preference margin", "Preference accuracy", "rewards: chosen and rejected", "my own"):
        assert wanted in titles
    [pair] = [p for p in found if p.title == "rewards: chosen and rejected"]
    assert [line.name for line in pair.lines] == ["chosen", "rejected"]
    assert "epoch" not in titles
    assert curves.panels([]) == []


def test_one_rewards_curve_is_not_drawn_twice() -> None:
    log = [{"step": float(n), "reward": n / 4, "rewards/a/mean": n / 4, "rewards/a/std": 0.1} for n in range(4)]
    assert [p.title for p in curves.panels(log)] == ["Reward"]
    two = [{**entry, "rewards/b/mean": 0.5, "rewards/b/std": 0.1} for entry in log]
    assert [p.title for p in curves.panels(two)] == ["Reward", "Reward b"]


values = st.floats(-1e100, 1e100, allow_nan=False)


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=50), st.booleans())
def test_any_curve_can_be_drawn(ys: list[float], share: bool) -> None:
    line = curves.Line("y", [(float(n), y) for n, y in enumerate(ys)], [])
    svg = str(charts.line_chart(curves.Panel("y", (line,), share=share)))
    numbers = re.findall(r"-?\d[\d.]*(?:e[+-]?\d+)?", re.sub(r'aria-label="[^"]*"', "", svg))
    assert all(math.isfinite(float(n)) for n in numbers)
    assert "nan" not in svg
    assert "inf" not in svg
    assert 2 <= svg.count('class="grid"') <= 12
    assert 'role="img"' in svg


def test_ticks_can_be_told_apart() -> None:
    for low, high in ((5.981, 5.984), (0, 1), (-1e-7, 3e-7), (1500.0, 1500.4), (123456.0, 123459.0)):
        line = curves.Line("y", [(1, low), (2, high)], [])
        labels = re.findall(r'text-anchor="end">([^<]+)<', str(charts.line_chart(curves.Panel("y", (line,)))))
        assert labels.pop(0) == "step"
        assert len(set(labels)) == len(labels) >= 3


def test_a_chart_says_its_numbers_in_words() -> None:
    line = curves.Line("Loss", [(1, 2.0), (2, 0.25), (3, 0.5)], [])
    said = charts.summary(curves.Panel("Loss", (line,)))
    assert said == "Loss. Loss: 2 at step 1, 0.5 at step 3, lowest 0.25, highest 2."


def test_long_curves_are_thinned_and_averaged() -> None:
    points = [(float(n), float(n % 2)) for n in range(100_000)]
    svg = str(charts.line_chart(curves.Panel("y", (curves.Line("y", points, []),))))
    assert len(svg) < 30_000
    assert "average" in svg
    average = charts.moving_average(points)
    assert len(average) == len(points)
    assert all(abs(y - 0.5) < 0.01 for _, y in average[5000:-5000])
    assert charts.moving_average([(0, 3.0), (1, 3.0)]) == [(0, 3.0), (1, 3.0)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.12345, "0.123"),
        (8e-5, "8e-5"),
        (1234567, "1.23e6"),
        (12345, "12,345"),
        (1500, "1,500"),
        (-2.5, "-2.5"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert charts.short(value) == text


def sample(name: str, gold: int, pred: int, matched: int, reward: float | None = None) -> dict:
    return {
        "id": name,
        "gold": ["x"],
        "completion": '["x"]',
        "rewards": {} if reward is None else {"r": reward},
        "counts": {"balanced": {"a": [gold, pred, matched]}},
    }


def evaluated(model: str, rows: list[dict]) -> EvaluatedModel:
    counts = [
        {"balanced": {"a": Counts(*row.get("counts", {"balanced": {"a": (0, 0, 0)}})["balanced"]["a"])}} for row in rows
    ]
    made = EvaluatedModel(model, {"metrics": metrics.corpus(counts)}, False, Path("nowhere"))
    vars(made)["samples"] = tuple(rows)  # in place of the file's
    return made


def test_the_worst_and_the_most_changed() -> None:
    before = evaluated("1", [sample("a", 1, 1, 1), sample("b", 1, 1, 0), sample("c", 4, 0, 0), sample("d", 0, 0, 0)])
    after = evaluated("2", [sample("a", 1, 1, 0), sample("b", 1, 1, 1), sample("c", 4, 0, 0), sample("d", 0, 0, 0)])
    assert [c.id for c in samples.worst([before, after], None, {})] == ["c", "a"]
    lost, gained = samples.most_changed([before, after], None, {})
    assert [(c.id, c.change) for c in lost] == [("a", -1)]
    assert [(c.id, c.change) for c in gained] == [("b", 1)]
    assert samples.moved([before, after], {}) == (1, 2, 1)
    assert samples.most_changed([after], None, {}) == ([], [])
    assert samples.score(sample("a", 1, 1, 1, reward=0.25), {}) == 0.25
    assert samples.score({"id": "a"}, {}) is None


def test_the_questions_about_a_text_are_samples_of_their_own() -> None:
    asked = [{**sample("t", 1, 1, n), "question": f"span: {n}", "gold": n} for n in (0, 1)]
    again = evaluated("2", [asked[1], asked[0]])
    assert samples.moved([evaluated("1", asked), again], {}) == (0, 2, 0)
    [card] = samples.worst([evaluated("1", asked), again], None, {})
    assert (card.question, card.gold, [a["gold"] for a in card.answers]) == ("span: 0", 0, [0, 0])
    variants = [sample("v", 1, 1, 1), sample("v", 1, 1, 0)]
    assert samples.moved([evaluated("1", variants), evaluated("2", variants)], {}) == (0, 2, 0)


def test_equal_additions_of_two_models_share_a_line() -> None:
    one = [Aligned("f", "g", "g", True), Aligned("f", None, "new")]
    two = [Aligned("f", "g", None), Aligned("f", None, "new"), Aligned("f", None, "other")]
    lines = samples.merge([one, two, None])
    assert [(line.gold, [p.pred if p else p for p in line.preds]) for line in lines] == [
        ("g", ["g", None, None]),
        (None, ["new", "new", None]),
        (None, [None, "other", None]),
    ]


def test_changes_are_paired() -> None:
    right = [sample(str(n), 1, 1, 1) for n in range(40)]
    wrong = [sample(str(n), 1, 1, n % 2) for n in range(40)]
    [(_, _, same)] = results.changes([evaluated("1", wrong), evaluated("2", wrong)], "balanced")
    assert (same.delta, same.interval, same.clear) == (0, [0, 0], False)
    [(before, after, better)] = results.changes([evaluated("1", wrong), evaluated("2", right)], "balanced")
    assert (before, after) == ("1", "2")
    assert better.delta == pytest.approx(0.5)
    assert better.interval[0] < 0.5 < better.interval[1]
    assert better.clear
    other = [{**s, "id": f"{s['id']}x"} for s in right]
    assert results.changes([evaluated("1", wrong), evaluated("2", other)], "balanced") == []


def test_a_punishing_reward_punishes(tmp_path: Path) -> None:
    plugs = ["funding", {"use": "./mine.py:Long", "weight": -0.5}, {"use": "m:funding", "weight": 2}]
    (tmp_path / "recipe.json").write_text(json.dumps({"stages": [{"kind": "grpo", "rewards": plugs}]}))
    weights = reward_weights(RunFolder.open(tmp_path).stages)
    assert weights == {"funding": 1.0, "Long": -0.5, "funding#2": 2.0}
    assert weighted({"funding": 1.0, "Long": 1.0}, weights) == pytest.approx(1 / 3)
    assert weighted({"funding": None}, weights) is None
    long, brief = ({"id": i, "rewards": {"Long": v}} for i, v in (("long", 1.0), ("brief", 0.0)))
    assert [c.id for c in samples.worst([evaluated("1", [brief, long])], None, weights)] == ["long", "brief"]


def rollout(step: int, name: str, score: float, text: str) -> str:
    entry = {"step": step, "id": name, "reward": "r", "score": score, "parts": {}, "completion": text}
    return json.dumps(entry) + "\n"


def test_rollouts_of_prompts_that_came_back(tmp_path: Path) -> None:
    lines = [rollout(step, "back", step / 20, f"v{step}") for step in range(20) for _ in range(4)]
    lines += [rollout(3, "once", 0.5, "same"), "broken\n", rollout(3, "once", 0.5, "same")]
    (tmp_path / "rollouts-0.jsonl").write_text("".join(lines))
    first, second = rollouts.prompts(tmp_path, {})
    assert (first.id, first.steps) == ("back", 20)
    assert [g.step for g in first.groups][0::5] == [0, 19]
    assert len(first.groups) == rollouts.COLUMNS
    assert [(a.completion, a.times) for a in second.groups[0].answers] == [("same", 2)]
    assert rollouts.prompts(tmp_path / "none", {}) == []


def test_of_prompts_drawn_once_those_that_vary_are_shown_over_time(tmp_path: Path) -> None:
    lines = [rollout(n, f"p{n}", float(k and n % 5 == 0), str(k)) for n in range(60) for k in range(2)]
    (tmp_path / "rollouts-0.jsonl").write_text("".join(lines))
    shown = rollouts.prompts(tmp_path, {})
    assert [p.groups[0].step for p in shown] == [0, 10, 20, 30, 40, 50]


def test_a_restarted_log_keeps_the_last_value_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps({"name": "x", "stages": [{"kind": "sft"}]}))
    entries = [
        '{"step": 1, "loss": 3.0}',
        '{"step": 2, "loss": 2.0}',
        '{"step": 2, "loss": 1.5, "grad_norm": NaN}',
        '{"step": 3, "loss": 1e400}',
        '{"step": 3, "train_runtime": 9, "mean_token_accuracy": 1.0}',
        "[]",
        '{"step": 4, "lo',
    ]
    (tmp_path / "1-sft.partial").mkdir()
    (tmp_path / "1-sft.partial/log.jsonl").write_text("\n".join(entries))
    [stage] = RunFolder.open(tmp_path).stages
    assert stage.state == "in progress"
    assert [dict(e) for e in stage.log] == [{"step": 1, "loss": 3}, {"step": 2, "loss": 1.5}, {"step": 3}]
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path / "missing" / "deeper")


def test_durations() -> None:
    assert [pipeline.minutes(s) for s in (5, 600, 7200, None)] == ["5 s", "10 min", "2.0 h", None]
