"""Labels described in the prompt of `ie`, by the recipe, a file or a row; and its `vary`."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from adapters.errors import UserError
from adapters.plugins.registry import resolve, self_contained
from adapters.plugins.task_bench import try_task
from adapters.recipe.fields import PluginSpec
from adapters.tasks.ie import IeTask

ROW = {"task": "NER", "text": "Ada moved to Turin .", "schema": ["person", "place"], "gold": {"person": ["Ada"]}}
SHORT = {"target": "compact", "missing_answer": "whole", "ner_user": "{labels} {text}", "system": ""}
TASK = IeTask(descriptions={"person": 'people, "by name"', "song": "music"}, **SHORT)  # type: ignore[arg-type]
PROMPT = '{"person": "people, \\"by name\\"", "place": ""} Ada moved to Turin .'


def text(task: IeTask, row: dict) -> str:  # type: ignore[type-arg]
    return task.example(row).prompt[-1]["content"]


def test_descriptions_stand_behind_the_names_in_training_and_extraction() -> None:
    assert text(TASK, ROW) == PROMPT
    [message] = TASK.request({"text": ROW["text"], "schema": ROW["schema"]})
    assert message["content"] == PROMPT
    [message] = TASK.request({"text": ROW["text"], "schema": '["place"]'})
    assert message["content"] == '["place"] Ada moved to Turin .', "nothing to say of any label: names alone"
    assert json.loads(text(TASK.rephrase(1), ROW).split("} ")[0] + "}").keys() == {"person", "place"}


@pytest.mark.parametrize("own", [{"place": "cities"}, '{"place": "cities"}', {"place": "cities", "person": None}])
def test_a_row_may_describe_its_own_labels(own: object) -> None:
    row = {**ROW, "descriptions": own}
    assert text(TASK, row) == '{"person": "", "place": "cities"} Ada moved to Turin .'
    assert text(TASK, {**ROW, "descriptions": {}}).startswith('["person", "place"]')
    assert text(TASK, {**ROW, "descriptions": "a column of another kind"}) == PROMPT


@pytest.mark.parametrize("wrong", [["people"], {"person": 3}])
def test_descriptions_that_are_none_are_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="descriptions must be an object from labels to texts"):
        TASK.example({**ROW, "descriptions": wrong})
    with pytest.raises(UserError, match=r"descriptions|dictionary|mapping"):
        resolve("tasks", PluginSpec.model_validate({"use": "ie", "descriptions": wrong}))


def test_a_file_of_descriptions_goes_into_what_is_published(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"person": "people"}')
    plug = {"use": "ie", "descriptions": "labels.json"}
    task = resolve("tasks", PluginSpec.model_validate(plug), folder=tmp_path)
    assert task.descriptions == {"person": "people"}
    assert self_contained(plug, task)["descriptions"] == {"person": "people"}
    with pytest.raises(UserError, match="there is no file"):
        resolve("tasks", PluginSpec.model_validate({**plug, "descriptions": "nope.json"}), folder=tmp_path)
    with pytest.raises(UserError, match="'order'"):
        resolve("tasks", PluginSpec.model_validate({"use": "ie", "variations": ["shuffle"]}))


def test_varied_rows_are_rows() -> None:
    row = {**ROW, "spans": [[0, 3, "person"]], "source": "news"}
    varied = [TASK.vary(row, Random(n)) for n in range(60)]
    assert all(TASK.example(new).gold == new["gold"] and "spans" not in new for new in varied)
    assert all(new["source"] == "news" and new["text"] == row["text"] for new in varied)
    assert len({TASK.example(new).prompt[-1]["content"] for new in varied}) > 20
    assert not try_task(TASK, "ie", [(row, TASK.example(row, id="a"))]).errors


def test_rows_with_meanings_or_reasoning_of_their_own_keep_their_labels() -> None:
    row = {**ROW, "descriptions": {"person": "people", "place": "cities"}, "gold": {**ROW["gold"], "place": ["Turin"]}}
    for n in range(60):
        new = TASK.vary(row, Random(n))
        assert sorted(new["gold"].values()) == [["Ada"], ["Turin"]]
        assert set(new["descriptions"].values()) == {"people", "cities"}
        assert TASK.vary({**ROW, "reasoning": "A person."}, Random(n))["gold"] == {"person": ["Ada"], "place": []}
