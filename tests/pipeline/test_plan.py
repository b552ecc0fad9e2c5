"""How a plan divides rows: those held out for validation, and those on which `check` tries a reward."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.data.examples import copy_key
from adapters.pipeline.check import _spread
from adapters.pipeline.fingerprint import _lora_settings
from adapters.pipeline.stage_rows import hold_out
from adapters.recipe.recipe import Recipe
from adapters.types import COPY_OF, Example


def examples(n: int, copies: int = 1, question: str = "") -> list[Example]:
    """Rows of as many ids, and copies of each whose answers differ, as noisy ones do."""
    first = [
        Example(f"r{i}", "", ({"role": "user", "content": f"text {i} {question}"},), completion="0", gold=[])
        for i in range(n)
    ]
    return [replace(e, completion=f"{copy}", meta={COPY_OF: copy_key(e)}) for copy in range(copies) for e in first]


@pytest.mark.parametrize(
    ("rows", "share", "held_out"), [(100, 0.05, 5), (39, 0.05, 1), (19, 0.05, 0), (5000, 0.1, 200)]
)
def test_a_share_of_the_rows_and_at_most_200_are_held_out(rows: int, share: float, held_out: int) -> None:
    training, validation = hold_out(examples(rows), share, seed=1)
    assert (len(training), len(validation)) == (rows - held_out, held_out)


def test_repeats_of_a_row_are_on_one_side() -> None:
    training, validation = hold_out(examples(40, copies=3), 0.25, seed=1)
    assert (len(training), len(validation)) == (90, 10)
    assert not {e.id for e in training} & {e.id for e in validation}
    assert {e.completion for e in validation} == {"0"}, "the first copy of each"
    assert [e.id for e in validation] != [e.id for e in hold_out(examples(40), 0.25, seed=2)[1]]


def test_all_questions_about_a_text_are_held_out_together() -> None:
    asked = [e for q in ("a", "b", "c") for e in examples(40, copies=2, question=q)]
    training, validation = hold_out(asked, 0.25, seed=1)
    assert (len(training), len(validation)) == (180, 30)
    assert {e.prompt[0]["content"][-1] for e in validation} == {"a", "b", "c"}
    assert not {e.id for e in training} & {e.id for e in validation}
    training, validation = hold_out(asked, 0.25, seed=1, most=20)
    assert (len(training), len(validation)) == (240 - 6 * 6, 18), "at most 20 rows, whole ids"
    many = examples(20) + [e for n in range(100) for e in examples(1, question=f"{n}")]
    for seed in range(12):
        _, validation = hold_out(many, 0.5, seed=seed, most=20)
        assert len(validation) <= 20 or {e.id for e in validation} == {"r0"}, "one id at least"


@pytest.mark.parametrize(("rows", "tried"), [(3, 3), (60, 60), (61, 60), (1000, 60)])
def test_check_tries_a_reward_on_at_most_60_rows_from_everywhere(rows: int, tried: int) -> None:
    chosen = _spread(examples(rows, copies=2))
    assert len(chosen) == len({e.id for e in chosen}) == tried
    assert int(chosen[-1].id[1:]) >= rows * 0.9 - 1


def test_keys_of_the_adapter_that_came_later_change_no_older_fingerprint() -> None:
    def settings(**lora: object) -> dict:
        stage = {"kind": "sft", "data": ["a.jsonl"], "learning_rate": 1}
        made = {"name": "a", "task": "funding", "model": {"base": "b"}, "stages": [stage], "lora": lora}
        return _lora_settings(Recipe.model_validate(made))

    old = {"rank": 4, "alpha": 64, "dropout": 0.0, "target_modules": "all-linear", "rslora": False}
    assert settings(rank=4) == old
    one, other = {"q_proj": 8, ".*_proj": 2}, {".*_proj": 2, "q_proj": 8}
    assert settings(rank=4, rank_pattern=one)["rank_pattern"] != settings(rank=4, rank_pattern=other)["rank_pattern"]
    assert settings(rank=4, exclude_modules=["a"]) == {**old, "exclude_modules": ("a",)}
