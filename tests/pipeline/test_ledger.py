"""What the data ledger warns of, at its limits."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.pipeline import ledger

SOURCE = {"source": "real", "license": "cc0-1.0", "generated": False}


def stage(near: float = 0.0, **changes: Any) -> dict[str, Any]:
    return {"sources": [SOURCE], "rows": 40, "duplicates": {"exact": 0.0, "near": near}, **changes}


def findings(**stages: dict[str, Any]) -> list[str]:
    return ledger.findings({"stages": stages, "tests": {}})


@pytest.mark.parametrize(("near", "warned"), [(0.1, False), (0.11, True), (0.5, True)])
def test_more_than_a_tenth_of_near_duplicates_is_warned_of(near: float, warned: bool) -> None:
    said = findings(sft=stage(near))
    assert said == ([f"sft: {near:.0%} of its rows nearly repeat another"] if warned else [])


@pytest.mark.parametrize("near", [0, 1])
def test_one_held_out_row_that_stands_in_the_training_rows_is_warned_of(near: int) -> None:
    validation = {"rows": 8, "also_in_training": {"exact": 0, "near": near}}
    said = findings(sft=stage(validation=validation))
    assert len(said) == near
    assert all("1 of 8 held-out rows" in line for line in said)


def test_a_licence_is_asked_for_of_rows_that_were_not_generated() -> None:
    unlicensed = {**SOURCE, "license": None}
    assert findings(sft=stage(sources=[{**unlicensed, "generated": True}])) == []
    [line] = findings(sft=stage(sources=[unlicensed, SOURCE]), grpo=stage(sources=[unlicensed]))
    assert line.startswith("no licence is stated for real (")


@pytest.mark.parametrize(
    ("texts", "bare"),
    [
        (["Say who: Anna paid. Thanks", "Say who: Anton paid. Thanks"], ["Anna ", "Anton "]),
        (["Anna paid", "Bert gave"], ["Anna paid", "Bert gave"]),
        (["the only prompt"], ["the only prompt"]),
        ([], []),
    ],
)
def test_words_that_all_prompts_share_are_stripped_and_no_half_word(texts: list[str], bare: list[str]) -> None:
    strip = ledger._StripSharedWords(texts)
    assert [strip(text) for text in texts] == bare
