"""Words, windows, tags and decoding of proxies: the published formats and the project's vectors."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from adapters.data_aug.mine.windows import read_in, windows
from adapters.data_aug.mine.words import (
    Question,
    around,
    label_score,
    occurrences,
    prompt_of,
    question_of,
    runs,
    spans_of,
    tags_of,
    words,
)

SENTENCE = "GSK-3beta (p53), don't 北京2024年 a_b"


def test_words_are_runs_single_characters_and_chinese_characters() -> None:
    found = words(SENTENCE)
    assert [w.text for w in found] == [
        "GSK",
        "-",
        "3beta",
        "(",
        "p53",
        ")",
        ",",
        "don",
        "'",
        "t",
        "北",
        "京",
        "2024",
        "年",
        "a_b",
    ]
    assert len(found) == 15
    assert all(SENTENCE[w.start : w.end] == w.text for w in found)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B I O", [(1, 3)]),
        ("B B I I", [(0, 1), (1, 4)]),
        ("O I I O", [(1, 3)]),
        ("B O B I", [(0, 1), (2, 4)]),
        ("I B I O", [(0, 1), (1, 3)]),
        ("B I I B", [(0, 3), (3, 4)]),
        ("O O", []),
    ],
)
def test_tags_are_decoded(tags: str, spans: list[tuple[int, int]]) -> None:
    assert runs(tags.split()) == spans
    assert runs(["BIO".index(tag) for tag in tags.split()]) == spans


def test_a_label_is_true_where_yes_is_likelier_and_a_tie_is_false() -> None:
    assert not label_score(0.2, 0.2) > 0.5
    assert label_score(0.06, 0.02) == pytest.approx(0.75)
    assert label_score(0.0, 0.0) == 0.5


def test_windows_overlap_and_each_word_is_read_where_it_is_farthest_from_the_edges() -> None:
    spread = windows([1] * 10, capacity=6, stride=2)
    assert spread == [(0, 6), (4, 10)]
    assert read_in(spread, 10) == [0] * 5 + [1] * 5


@pytest.mark.parametrize(("capacity", "stride"), [(6, 2), (6, 0), (7, 6), (1, 0), (16, 64)])
def test_windows_hold_whole_words_and_leave_out_none(capacity: int, stride: int) -> None:
    sizes = [1, 3, 1, 1, 9, 2, 1, 30, 1, 1, 2, 2, 5]
    spread = windows(sizes, capacity, stride)
    assert spread[0][0] == 0
    assert spread[-1][1] == len(sizes)
    for (first, end), (later, _) in pairwise(spread):
        assert first < later <= end
    assert all(end == first + 1 or sum(sizes[first:end]) <= capacity for first, end in spread)
    assert all(spread[n][0] <= word < spread[n][1] for word, n in enumerate(read_in(spread, len(sizes))))


def test_a_text_without_words_has_one_empty_window() -> None:
    assert windows([], 10, 2) == [(0, 0)]


def test_the_words_around_a_text_are_the_published_prompts() -> None:
    before, after = around("span", "disease")
    assert " ".join(before) == "User :"
    assert " ".join(after) == "Question : What is the disease mentioned ? Assistant : Answer : The disease is"
    assert " ".join(around("span", "Who came?")[1]) == "Question : Who came ? Assistant : Answer :"
    before, after = around("label", "health")
    assert before == ["Choice", ":", "Yes", "No"]
    assert " ".join(after) == (
        "Question : Based on the above sentence , is the following sentence true or not ? This text is about health"
    )
    assert " ".join(around("label", "This review is positive")[1]).endswith("or not ? This review is positive")
    assert " ".join(around("label", "public health")[1]).endswith("This text is about public health")


def test_gold_that_starts_inside_a_word_takes_the_whole_word() -> None:
    text = "the p53gene acts"
    tags = tags_of([(7, 16)], words(text))  # "gene acts"
    assert tags == [2, 0, 1]
    assert [s.text for s in spans_of(tags, words(text), text)] == ["p53gene acts"]


def test_strings_are_found_free_standing_and_the_longest_first() -> None:
    text = "BRCA1 and BRCA; BRCA1 again, notBRCA"
    places, missing = occurrences(text, ["BRCA", "BRCA1", "p53"])
    assert [text[a:b] for a, b in places] == ["BRCA1", "BRCA", "BRCA1"]
    assert missing == ["p53"]


def test_scripts_without_capitals_do_not_join_words() -> None:
    text = "在北京的大学 v2 v22"
    assert [text[a:b] for a, b in occurrences(text, ["北京", "v2"])[0]] == ["北京", "v2"]


def test_a_question_survives_its_prompt() -> None:
    for question in (Question("span", "a: b", "x: y"), Question("label", "health", "t"), Question("words", "", "a b")):
        assert question_of(prompt_of(question)) == question
    with pytest.raises(ValueError, match="none of the task mine"):
        question_of(({"role": "system", "content": "Extract."}, {"role": "user", "content": "x"}))


@pytest.mark.slow
def test_words_and_spans_need_no_torch() -> None:
    code = "import sys, adapters.tasks.mine, adapters.data_aug.mine.words; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
