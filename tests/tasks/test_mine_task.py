"""The task `mine`: rows, what is refused, and the figures of the project's vectors."""

from __future__ import annotations

import json
import re

import pytest

from adapters.data_aug.noise import Noise, noise_row
from adapters.evaluation.metrics import corpus
from adapters.plugins.task_bench import try_task
from adapters.plugins.task_calls import own_example
from adapters.tasks.mine import MineTask
from adapters.types import Counts

TEXT = "a b c d e f g h"  # words 0 to 7, each of one character
TASK = MineTask()


def row(gold: object, **more: object) -> dict:
    return {"id": "1", "text": TEXT, "kind": "span", "instruction": "letter", "gold": gold, **more}


def over(*positions: int) -> list[list[int]]:
    """One span over neighbouring words."""
    return [[2 * positions[0], 2 * positions[-1] + 1]] if positions else []


def answer(*positions: int) -> str:
    return json.dumps({"spans": [{"text": TEXT[a:b], "start": a, "end": b} for a, b in over(*positions)]})


def counted(pairs: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict:
    """Figures of (predicted, gold) word positions."""
    return corpus([TASK.counts({"spans": over(*g)}, answer(*p), TEXT) for p, g in pairs], intervals=False)["word"][
        "span"
    ]


def test_the_task_does_what_tasks_promise() -> None:
    rows = [*MineTask.example_rows, {"id": "n", "words": ["a", "b-c"], "ner": ["O", "B"]}]
    result = try_task(TASK, "mine", [(r, own_example(TASK, r, "mine")) for r in rows])
    assert (result.errors, result.warnings) == ([], [])


def test_word_figures_are_those_of_the_definition() -> None:
    figures = counted([((4, 5, 6), (3, 4, 5))])
    assert (figures["gold"], figures["pred"], figures["matched"]) == (3, 3, 2)
    assert figures["f1"] == pytest.approx(0.6667, abs=1e-4)
    figures = counted([((3, 4, 5), (3, 4, 5)), ((), ()), ((0,), ())])
    assert (figures["gold"], figures["pred"], figures["matched"]) == (3, 4, 3)
    assert figures["f1"] == pytest.approx(0.8571, abs=1e-4)
    figures = counted([((), ())])
    assert (figures["gold"], figures["pred"], figures["matched"], figures["f1"]) == (0, 0, 0, None)


def test_label_figures_count_the_true_class_and_accuracy() -> None:
    pairs = [(True, True), (True, False), (False, True)]
    counts = [TASK.counts({"label": gold}, json.dumps({"label": found}), TEXT) for gold, found in pairs]
    figures = corpus(counts, intervals=False)
    of = figures["word"]["label"]
    assert (of["gold"], of["pred"], of["matched"], of["f1"]) == (2, 2, 1, 0.5)
    assert figures["accuracy"]["accuracy"]["f1"] == pytest.approx(1 / 3)


def test_spans_of_a_chat_model_count_where_their_strings_stand_and_invented_ones_by_their_words() -> None:
    counts = TASK.counts({"spans": [[0, 1]]}, json.dumps({"spans": ["a", "no such thing"]}), TEXT)
    assert counts["word"]["span"] == Counts(1, 4, 1)
    assert counts["span"]["span"] == Counts(1, 2, 1)


def test_an_example_asks_in_two_messages_and_answers_in_json() -> None:
    example = TASK.example(row([[2, 3], [0, 1]]))
    assert [m["content"] for m in example.prompt] == ["span: letter", TEXT]
    assert json.loads(example.completion or "") == {
        "spans": [{"text": "a", "start": 0, "end": 1}, {"text": "b", "start": 2, "end": 3}]
    }
    assert TASK.example(row(True, kind="label")).completion == '{"label": true}'
    assert TASK.example(row(["a", "c"])).gold == {"spans": [[0, 1], [4, 5]]}


def test_a_published_row_of_words_and_tags_is_an_example() -> None:
    example = TASK.example({"id": "1", "words": ["GSK-3", "binds", "p53"], "ner": ["B", "O", "I"]})
    assert [m["content"] for m in example.prompt] == ["words", "GSK-3 binds p53"]
    assert example.gold == {"spans": [[0, 5], [12, 15]]}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row([[5, 3]], text="x" * 41), "gold: 5–3 is no stretch of the text (0 to 41)"),
        (row([[0, 42]], text="x" * 41), "gold: 0–42 is no stretch of the text (0 to 41)"),
        (row([[4, 9], [0, 8]]), "gold: 0–8 and 4–9 overlap"),
        (row([], instruction=" "), "instruction is missing or empty"),
        (row([], instruction="—?"[:0]), "instruction is missing or empty"),
        (row([[0, 1, "x"]]), "gold of a span must be a list of [start, end], not [0, 1, 'x']"),
        (row("yes", kind="label"), "gold of a label must be true or false, not 'yes'"),
        (row(["zebra"]), "gold: 'zebra' does not stand in the text"),
        (row([], kind="other"), "kind must be span or label, not 'other'"),
        (row([], text=""), "text is missing or empty"),
        ({"words": ["a b"], "ner": ["O"]}, "words must be a list of words without white space"),
        ({"words": ["a"], "ner": ["X"]}, "ner must name B, I or O for each of the 1 words"),
    ],
)
def test_bad_rows_say_what_is_wrong(bad: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        TASK.example(bad)


def test_noise_moves_the_gold_spans() -> None:
    given = row([[2, 3], [10, 11]])

    def longer(text: str, rng: object, spans: object) -> list:
        from adapters.data_aug.noise import Edit

        return [Edit(0, 1, "aaaa", "longer")]

    noised = noise_row(given, Noise((longer,), name="longer"), field="text", labels=TASK.labels)
    moved = TASK.moved(given, noised.row, noised.noised.to_noisy)
    assert [moved["text"][a:b] for a, b in moved["gold"]] == ["b", "f"]
    assert moved["gold"] != given["gold"]


def test_a_corpus_needs_a_question_for_each_row_or_for_all() -> None:
    with pytest.raises(ValueError, match="no column kind"):
        TASK.check_columns(["text"])
    asked = MineTask(kind="span", instruction="disease")
    asked.check_columns(["text"])
    assert asked.request({"text": "x"})[0]["content"] == "span: disease"
    assert TASK.record({"spans": ["x"]}) == [{"text": "x", "start": None, "end": None, "label": None, "score": None}]
    assert TASK.record({"label": True, "score": 0.5})[0]["score"] == 0.5
