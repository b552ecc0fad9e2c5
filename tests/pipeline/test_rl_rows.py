"""What `check` says of a GRPO stage's rows, at its limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import funding_rows, write_jsonl

from adapters.backends.echo import EchoBackend
from adapters.pipeline import rl_rows, selecting
from adapters.pipeline.plan import make_plan
from adapters.recipe.load import load_recipe

RECIPE = """name: rl
task: {use: funding, target: compact}
model: {base: none}
trainer: echo
stages:
  - {kind: sft, data: [{path: sft.jsonl}], learning_rate: 1e-4, validation: 0}
  - {kind: grpo, data: [{path: rl.jsonl}], batch_size: 4, learning_rate: 1e-5, rewards: [funding], max_too_long: 1}
"""
WORDS = ("Wellcome", "Simons", "Volkswagen", "Sloan", "Nuffield", "Carnegie", "Ford", "Kresge", "Packard")


def row(n: int, funders: int) -> dict:
    """A statement whose answer has two words for each funder."""
    names = [f"{word} {chr(97 + n)}{word[::-1]}" for word in WORDS[:funders]]
    awards = [{"funding_scheme": [], "award_ids": [], "award_title": []}]
    text = f"Row {n}: we thank {', '.join(names) or 'nobody'}."
    listed = [{"funder_name": name, "awards": awards} for name in names]
    return {"id": f"n{n}", "funding_statement": text, "funders": listed}


def findings(folder: Path, sft: list[dict], rl: list[dict], *overrides: str) -> list[tuple[str, tuple]]:
    write_jsonl(folder / "sft.jsonl", sft)
    write_jsonl(folder / "rl.jsonl", rl)
    (folder / "rl.yaml").write_text(RECIPE)
    file = load_recipe(folder / "rl.yaml", overrides)
    plan = make_plan(file, EchoBackend(file.recipe))
    return [*rl_rows.findings(plan.task, plan.jobs, plan.evaluations), *selecting.findings(plan.jobs)]


@pytest.mark.parametrize(("flat", "said"), [(5, 0), (6, 1), (20, 1)])
def test_more_than_a_quarter_of_rows_without_anything_to_find(tmp_path: Path, flat: int, said: int) -> None:
    found = findings(tmp_path, funding_rows(8), [row(n, int(n >= flat)) for n in range(20 + (flat == 20))])
    assert len(found) == said
    for sentence, at in found:
        assert sentence.startswith(f"{flat / (20 + (flat == 20)):.0%} of the stage's rows have nothing to find")
        assert at == ("stages", 1, "data")


@pytest.mark.parametrize(("stage", "test", "said"), [(0, 2, 0), (0, 3, 1), (1, 3, 0)])
def test_no_row_without_anything_to_find_where_the_test_rows_have_some(
    tmp_path: Path, stage: int, test: int, said: int
) -> None:
    write_jsonl(tmp_path / "test.jsonl", [row(20 + n, int(n >= test)) for n in range(20)])
    rows = [row(n, int(n >= stage)) for n in range(20)]
    found = findings(tmp_path, funding_rows(8), rows, "evaluate=[{name: test, data: [{path: test.jsonl}]}]")
    assert len(found) == said
    for sentence, at in found:
        assert sentence.startswith("none of the stage's rows has nothing to find, as 15% of the test rows have")
        assert at == ("stages", 1, "data")


def test_gold_values_in_rows_that_are_dropped(tmp_path: Path) -> None:
    rows = [*(row(n, 1) for n in range(18)), row(18, 9), row(19, 9)]
    assert not findings(tmp_path, funding_rows(8), rows)
    [(sentence, at)] = findings(tmp_path, funding_rows(8), rows, "stages.1.max_completion_length=10")
    assert sentence == (
        "10% of the stage's rows have a longer gold answer and are dropped, and 50% of the gold values with them; "
        "raise it, to 32 for all"
    )
    assert at == ("stages", 1, "max_completion_length")


@pytest.mark.parametrize(("shared", "said"), [(2, 0), (3, 1), (20, 1)])
def test_texts_that_an_sft_stage_has_too(tmp_path: Path, shared: int, said: int) -> None:
    rows = [row(n, 1) for n in range(20)]
    found = findings(tmp_path, [*rows[:shared], *funding_rows(8)], rows)
    assert len(found) == said
    for sentence, at in found:
        assert sentence.startswith(f"{shared / 20:.0%} of the stage's texts are also those of 1-sft")
        assert at == ("stages", 1, "data")


@pytest.mark.slow
def test_held_out_rows_that_the_stage_before_trains_on(tmp_path: Path) -> None:
    rows = [row(n, 1) for n in range(20)]
    select = "stages.1.select={}"
    sentences = [sentence for sentence, _ in findings(tmp_path, rows, rows, select)]
    assert any(s.startswith("2 of 2 held-out texts are among those that 1-sft trains on") for s in sentences)
    sentences = [s for s, _ in findings(tmp_path, rows, rows, select, "stages.0.validation=0.2")]
    assert not any("held-out" in s for s in sentences), "the same share of the same rows"
