"""Rows on disk: what is in memory does not grow with them, and nothing else differs from rows in a list."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from adapters.backends import backend
from adapters.data import lengths, on_disk
from adapters.data.on_disk import Joined, Store, Taken, collect, settled, take
from adapters.data.text_keys import TextKeys, text_hash
from adapters.evaluation import evaluate
from adapters.files import read_jsonl, write_jsonl
from adapters.pipeline import ledger
from adapters.pipeline.check import _spread
from adapters.pipeline.fingerprint import digest, digest_of_rows
from adapters.pipeline.plan import Plan, make_plan
from adapters.pipeline.run import run_plan
from adapters.recipe.load import load_recipe
from adapters.types import Example

RECIPE = """
name: rows
task: funding
model: {{base: x}}
trainer: echo
run_dir: {folder}
max_bad_rows: 0.2
stages:
  - kind: sft
    data: [{{path: rows.jsonl, keep_empty: 0.4}}, {{path: two.jsonl, repeat: 2, max_rows: 40, where: {{lang: [en]}}}}]
    learning_rate: 1e-4
    max_length: 109
    max_too_long: 1.0
    validation: 0.1
  - kind: sft
    data: [{{path: rows.jsonl, split: {{name: a, key: part, seed: 3, fractions: {{a: 0.5, b: 0.5}}}}}}]
    noise: {{use: document}}
    epochs: 2
    learning_rate: 1e-4
  - kind: grpo
    data: [{{path: two.jsonl, columns: {{id: note}}}}]
    rewards: [funding]
    learning_rate: 1e-4
    batch_size: 4
evaluate:
  - {{name: test, data: [{{path: test.jsonl}}, {{path: two.jsonl, max_rows: 10}}]}}
"""


@pytest.fixture
def on_disk_from(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many items are held in memory."""

    def set_to(held: int) -> None:
        monkeypatch.setattr(on_disk, "HELD", held)
        monkeypatch.setattr(evaluate, "HELD", held)
        monkeypatch.setattr(ledger, "SORTED", held)

    return set_to


@pytest.fixture
def stored(on_disk_from: Callable[[int], None]) -> Callable[[list[Any]], Any]:
    on_disk_from(3)
    return lambda items: collect(iter(items))


def rows(n: int) -> list[dict[str, Any]]:
    rng = random.Random(1)
    made = []
    for i in range(n):
        name = f"{rng.choice(('Arctic', 'Ocean', 'Polar'))} Fund {rng.randrange(40)}"
        award = {"award_ids": [f"A{i}"], "funding_scheme": [], "award_title": []}
        text = f"We thank the {name} (grant A{i}) for {'é ' * (i % 4)}{rng.choice(('help', 'money'))}, row {i}."
        funders = [{"funder_name": name, "awards": [award]}] if i % 5 else []
        kept = {"lang": "en" if i % 3 else "de", "part": str(i % 20), "note": None if i % 4 else f"n{i}"}
        made.append({"id": f"r{i}", "funding_statement": text, "funders": funders, **kept})
    return made


def write_all(folder: Path) -> Path:
    made = rows(120)
    near = [
        {**row, "id": f"{row['id']}x", "funding_statement": f"{row['funding_statement'].upper()} !"} for row in made
    ]
    write_jsonl(folder / "rows.jsonl", [*made, *near[:20], *made[5:9], {"id": "bad"}])
    write_jsonl(folder / "two.jsonl", [{**row, "id": f"b{row['id']}"} for row in made[:60]])
    write_jsonl(folder / "test.jsonl", [*near[:30], *rows(150)[120:]])
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder / "runs"))
    return folder / "recipe.yaml"


def plan_of(recipe: Path) -> Plan:
    file = load_recipe(recipe)
    return make_plan(file, backend(file.recipe))


def seen(plan: Plan) -> list[Any]:
    """Everything in a plan that is made of rows."""
    out: list[Any] = [plan.notes, ledger.of_plan(plan)]
    for part in plan.stages_and_tests:
        texts = {name: list(texts) for name, texts in part.by_source.items()}
        out += [part.fingerprint, list(part.examples), texts, part.rejected, part.ledger, part.lengths]
    for job in plan.jobs:
        out += [job.steps, job.tokens, job.too_long, list(job.beyond), job.validation, set(job.texts)]
        out += [_spread(job.examples), job.longest_answer]
    return [*out, [(test.leaked, test.rows, test.max_new_tokens) for test in plan.evaluations]]


@pytest.mark.slow
def test_a_plan_of_rows_on_disk_is_that_of_rows_in_memory(tmp_path: Path, on_disk_from: Callable[[int], None]) -> None:
    recipe = write_all(tmp_path)
    held = plan_of(recipe)
    expected = seen(held)
    on_disk_from(10)
    plan = plan_of(recipe)
    assert seen(plan) == expected
    assert [type(job.examples) for job in (*held.jobs, *plan.jobs)] == [tuple] * 3 + [Taken] * 3
    assert len(held.jobs[0].validation) > 3
    assert held.jobs[0].too_long > 3, "so that selections of selections are tried"


@pytest.mark.slow
def test_a_run_of_rows_on_disk_has_the_same_results(tmp_path: Path, on_disk_from: Callable[[int], None]) -> None:
    answers, reports = [], []
    for held, name in ((10_000, "held"), (10, "stored")):
        folder = tmp_path / name
        folder.mkdir()
        on_disk_from(held)
        plan = plan_of(write_all(folder))
        report = run_plan(plan, backend(plan.recipe))
        sets = report["sets"]["test"]
        for figures in sets.values():
            figures.pop("cost", None)
        reports.append((sets, report["deltas"]))
        answers.append([read_jsonl(path) for path in sorted(folder.rglob("samples.jsonl"))])
    assert reports[0] == reports[1]
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == 70


@pytest.mark.slow
def test_few_examples_are_in_memory_at_once(
    tmp_path: Path, on_disk_from: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_all(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", rows(1000))
    on_disk_from(50)
    monkeypatch.setattr(lengths, "BLOCK", 50)
    in_memory: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and info["generation"]:
            in_memory.append(sum(type(thing) is Example for thing in gc.get_objects(0) + gc.get_objects(1)))

    gc.collect()
    gc.callbacks.append(count)
    try:
        plan = plan_of(recipe)
    finally:
        gc.callbacks.remove(count)
    left = sum(type(thing) is Example for thing in gc.get_objects())
    assert sum(len(job.examples) for job in plan.jobs) > 1000
    assert len(in_memory) > 20, "it was looked often"
    assert max(in_memory) < 300
    assert left < 200, "those held out are in memory"


def test_items_are_chosen_sliced_and_read_again(stored: Callable[[list[Any]], Any]) -> None:
    items = [{"n": n, "text": "x" * (n % 7) * 300} for n in range(1000)]
    sequence = stored(items)
    assert isinstance(sequence, Taken)
    assert list(sequence) == items
    assert list(reversed(sequence)) == items[::-1]
    assert (sequence[0], sequence[-1], len(sequence)) == (items[0], items[-1], 1000)
    assert list(sequence[5:900:7][2:]) == items[5:900:7][2:]
    far = np.array([999, 0, 0, 500, 3])
    assert list(take(sequence, far)) == [items[n] for n in far]
    assert list(take(take(sequence, far), np.array([4, 0]))) == [items[3], items[999]]
    with pytest.raises(IndexError):
        sequence[1000]


def test_a_repeated_item_is_decoded_once_and_parts_are_joined(stored: Callable[[list[Any]], Any]) -> None:
    twice = take(stored([[n] for n in range(9)]), np.repeat(np.arange(9), 2))
    assert [one is other for one, other in zip(list(twice)[::2], list(twice)[1::2], strict=True)] == [False] * 9
    read = list(twice)
    assert [one is other for one, other in zip(read[::2], read[1::2], strict=True)] == [True] * 9
    both = Joined([twice, [["x"]]])
    assert (len(both), list(both), both[0], both[-1], both[17:]) == (19, [*read, ["x"]], [0], ["x"], [[8], ["x"]])


def test_few_items_are_a_list(stored: Callable[[list[Any]], Any]) -> None:
    assert stored([1, 2, 3]) == [1, 2, 3]
    assert settled(stored([1, 2, 3])) == (1, 2, 3)
    assert stored([]) == []
    assert isinstance(settled(stored([1, 2, 3, 4])), Taken)


def test_what_cannot_be_pickled_stays_in_memory(stored: Callable[[list[Any]], Any]) -> None:
    items: list[Any] = [1, 2, 3, 4, 5, MappingProxyType({}), 7, 8]
    assert stored(items) == items
    assert stored(items[::-1]) == items[::-1]
    assert stored([MappingProxyType({"a": 1}), *range(9)]) == [MappingProxyType({"a": 1}), *range(9)]


def test_a_store_is_read_while_it_grows_and_in_a_forked_process(on_disk_from: Callable[[int], None]) -> None:
    on_disk_from(3)
    store = Store[int]()
    for n in range(10):
        store.append(n)
    reading = store.read(np.arange(10))
    assert next(reading) == 0
    store.append(10)
    assert [*reading, store.item(10)] == list(range(1, 11))
    sequence = take(store, np.arange(11))
    child = os.fork()
    if not child:
        os._exit(0 if list(sequence) == list(range(11)) else 1)
    assert list(sequence) == list(range(11))
    assert os.waitpid(child, 0)[1] == 0


def test_another_process_gets_a_list(stored: Callable[[list[Any]], Any]) -> None:
    assert pickle.loads(pickle.dumps(stored([1, 2, 3, 4]))) == [1, 2, 3, 4]
    assert copy.deepcopy(stored([1, 2, 3, 4])) == [1, 2, 3, 4]


def test_no_file_is_left(tmp_path: Path, stored: Callable[[list[Any]], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sequence = stored(list(range(100)))
    assert list(tmp_path.iterdir()) == []
    assert sequence[99] == 99


def test_a_pickled_example_is_the_same() -> None:
    example = Example(
        "a", "s", ({"role": "user", "content": "x"},), "y", gold=[1], meta={"text": "x"}, masked=((0, 1),)
    )
    assert pickle.loads(pickle.dumps(example)) == example
    assert copy.copy(example) == example


def test_sets_of_texts_are_sets_of_their_hashes() -> None:
    one, other = (TextKeys(map(text_hash, texts)) for texts in (["a", "b", "b", "é"], ["b", "c"]))
    assert (len(one), len(one & other), len(TextKeys.union([one, other, set()]))) == (3, 1, 4)
    assert text_hash("a") in one
    assert text_hash("c") not in one
    assert "a" not in one
    assert one.among(["c", "é", "a"]).tolist() == [False, True, True]
    assert one & {text_hash("a")} == {text_hash("a")}


def test_the_digest_of_rows_is_that_of_their_list() -> None:
    made = [["é", {"b": 1, "a": None}], [1.5], []]
    for rows in (made, []):
        assert digest_of_rows({"a": 1, "z": {"rows": 2}}, iter(rows)) == digest(
            {"rows": rows, "a": 1, "z": {"rows": 2}}
        )
