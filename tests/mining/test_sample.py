"""The sample of a corpus depends on its texts and the seed alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from adapters.errors import UserError
from adapters.mining.sample import balanced, draw, order, size


def corpus(folder: Path, texts: list[object]) -> Path:
    lines = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(texts, 1)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    return folder / "corpus.jsonl"


@pytest.mark.parametrize(("seed", "first"), [(0, [17, 13, 18, 7, 6, 2]), (1, [4, 5, 16, 11, 13, 18])])
def test_the_order_of_a_seed(tmp_path: Path, seed: int, first: list[int]) -> None:
    texts = [f"text {n}" for n in range(1, 21)]
    drawn = draw(corpus(tmp_path, texts), "text", seed=seed, n=6)
    assert [text.row for text in drawn.texts] == first
    assert [text.text for text in drawn.texts] == [f"text {n}" for n in first]
    random.Random(seed).shuffle(texts)
    shuffled = draw(corpus(tmp_path, texts), "text", seed=seed, share=0.5)
    assert [text.text for text in shuffled.texts[:6]] == [f"text {n}" for n in first]


def test_the_size_of_a_share() -> None:
    assert [size(n, 0.05, None) for n in (20, 21, 1)] == [1, 2, 1]
    assert size(100, 0.07, None) == 7, "0.07 * 100 is above 7 in floating point"
    assert size(5, None, 64) == 5
    for share in (0.0, 1.5, -1.0, float("nan")):
        with pytest.raises(UserError, match="a share is above 0 and at most 1"):
            size(20, share, None)


def test_doubles_and_rows_without_text_are_left_out(tmp_path: Path) -> None:
    drawn = draw(corpus(tmp_path, ["b", "a", "a", "", " ", None, 3, "b", "\ud800\0"]), "text", share=1)
    assert sorted((text.row, text.id, text.text) for text in drawn.texts) == [
        (1, "d1", "b"), (2, "d2", "a"), (9, "d9", "\ud800\0")
    ]  # fmt: skip
    assert (drawn.rows, drawn.distinct, drawn.without_text) == (9, 3, 4)


def test_half_of_a_balanced_sample_is_predicted_true() -> None:
    pool = sorted((f"t{n}" for n in range(1, 13)), key=lambda text: order(text, 0))
    assert pool == [f"t{n}" for n in (10, 1, 2, 3, 11, 7, 8, 5, 9, 12, 6, 4)]
    answers = [text in ("t1", "t4", "t7") for text in pool]
    wanted = {
        4: ("t1 t7", "t10 t2", ""),
        7: ("t1 t7 t4", "t10 t2 t3", "t11"),
        8: ("t1 t7 t4", "t10 t2 t3 t11", "t8"),
    }
    for n, (true, false, filled) in wanted.items():
        found = balanced(pool, answers, n)
        assert (found.true, found.false, found.filled) == (true.split(), false.split(), filled.split())
        assert len(found.chosen) == n
    assert len(balanced(pool, answers, 40).chosen) == 12
