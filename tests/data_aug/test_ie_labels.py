"""Rows of `ie` asked for in another way, and made-up ones: gold stays right whatever the labels are called."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest

from adapters.data_aug.data_files import read_data
from adapters.data_aug.ie.made import BROADER, _sentences, synthesize, types
from adapters.data_aug.ie.vary import VARIATIONS, Varied, vary
from adapters.recipe.load import load_recipe

NEWS = {"person": ["Ada Bell"], "organization": ["Sample Institute"], "location": ["Peru", "Lima"]}
WORK = {
    "Work_For": [{"head": "Ada Bell", "tail": "Sample Institute"}],
    "Kill": [{"head": "Carl Weiss", "tail": "Ada Bell"}],
}
TEXT = "Ada Bell of the Sample Institute flew from Peru to Lima with Carl Weiss ."
SAID = dict.fromkeys([*NEWS, *WORK], "what it means")


def drawn(gold: Mapping[str, list[Any]], n: int = 200, kind: str = "NER", **options: Any) -> Iterator[Varied]:
    options = {"descriptions": SAID, **options}
    return (vary(TEXT, kind, gold, Random(f"draw {n}"), **options) for n in range(n))  # type: ignore[arg-type]


def test_without_variations_a_row_is_what_it_was() -> None:
    same = vary(TEXT, "NER", NEWS, Random(0), use=(), descriptions=SAID)
    assert (same.kind, same.gold) == ("NER", NEWS)
    assert list(same.gold) == list(NEWS)
    assert same.descriptions == dict.fromkeys(NEWS, "what it means")


def test_labels_change_names_order_and_number_and_keep_their_items() -> None:
    seen: Counter[str] = Counter()
    for said in drawn(NEWS, use=("rename", "drop", "order", "absent", "describe")):
        found = [tuple(items) for items in said.gold.values() if items]
        assert set(found) <= {tuple(items) for items in NEWS.values()}
        assert len(found) == len(set(found))
        assert len({name.casefold() for name in said.gold}) == len(said.gold) >= 1
        seen.update(name for name, items in said.gold.items() if "Ada Bell" in items)
        seen.update({"left out": not found or ("Ada Bell",) not in found, "absent": len(said.gold) > len(found)})
        seen.update({"plain": not said.descriptions})
    names = read_data("ie/labels.json")["types"]["person"]["names"]
    assert set(names) <= set(seen), "every name is drawn"
    assert all(10 < seen[what] < 190 for what in ("person", "left out", "absent", "plain"))


def test_absent_labels_are_of_fields_that_the_text_is_not_of() -> None:
    library = read_data("ie/labels.json")["absent"]["NER"]
    of_news = {name for name, _, occurs in library if "news" in occurs}
    added = {name for said in drawn(NEWS, use=("absent",)) for name in said.gold} - set(NEWS)
    assert len(added) > 10
    assert not added & of_news, "a song may well be in the news"
    assert all(said.gold == {"Gadget": ["Lima"]} for said in drawn({"Gadget": ["Lima"]}, 20, use=("absent",)))
    enzymes = [vary("An enzyme !", "NER", NEWS, Random(n), use=("absent",)) for n in range(100)]
    assert not any("enzyme" in said.gold for said in enzymes), "the text has the word"


def test_types_are_joined_and_split_in_two() -> None:
    joined = [said.gold for said in drawn(NEWS, use=("merge",)) if said.gold.keys() != NEWS.keys()]
    assert any(sorted(items) == ["Ada Bell", "Sample Institute"] for gold in joined for items in gold.values())
    split = [said.gold for said in drawn(NEWS, use=("split",)) if "location" not in said.gold or len(said.gold) > 3]
    assert split
    assert all({"Peru"} in (halves := [set(i) for i in gold.values()]) and {"Lima"} in halves for gold in split)
    sick = {"Disease": ["breast cancer", "gout"]}
    assert any(["gout"] in said.gold.values() for said in drawn(sick, use=("split",)))
    unsure = {"Disease": ["breast cancer", "HCC"]}
    assert all(said.gold == unsure for said in drawn(unsure, use=("split",))), "HCC is a cancer or is none"


def test_relations_are_turned_round_and_their_ends_are_entities() -> None:
    turned = [said.gold for said in drawn(WORK, kind="RE", use=("inverse",))]
    assert {"head": "Ada Bell", "tail": "Carl Weiss"} in [
        i for gold in turned for items in gold.values() for i in items
    ]
    roles = [said for said in drawn(WORK, kind="RE", use=("roles", "rename")) if said.kind == "NER"]
    assert roles
    assert {"killer", "victim", "employer"} <= {name for said in roles for name in said.gold}
    assert all(said.gold["victim"] == ["Ada Bell"] for said in roles if "victim" in said.gold)


def test_masked_names_need_descriptions() -> None:
    masked = [said for said in drawn(NEWS, use=("mask",)) if "type A" in said.gold]
    assert masked
    assert all(said.descriptions.keys() == said.gold.keys() for said in masked)
    assert all(said.gold == NEWS and not said.descriptions for said in drawn(NEWS, use=("mask",), descriptions={}))


def test_a_draw_is_a_function_of_its_seed() -> None:
    assert list(drawn(WORK, 30, kind="RE")) == list(drawn(WORK, 30, kind="RE"))
    assert len({repr(said) for said in drawn(NEWS, 50, use=VARIATIONS)}) > 40


def test_made_up_rows_have_all_that_they_ask_for() -> None:
    of_name = {name: kind for kind in types().values() for name in kind.names}
    rows = list(synthesize(400, seed=3))
    assert rows[:50] == list(synthesize(50, seed=3))
    assert len({row["text"] for row in rows}) == 400
    for row in rows:
        narrow = {name: of_name[name] for name in row["schema"] if name in of_name}
        for name, items in row["gold"].items():
            assert all(item in row["text"] for item in items)
            if name in narrow:
                assert items or not narrow[name].anywhere.search(row["text"])
                continue
            own = [kind for kind in types().values() if kind.broader == name]
            assert all(any(item in kind.examples for kind in own) for item in items)
            assert not any(item in kind.examples for item in items for kind in narrow.values()), "the narrower counts"
        assert row["descriptions"].keys() in ({}.keys(), row["gold"].keys())
    assert sum(len(row["schema"]) for row in rows) / 400 == pytest.approx(8.5, abs=1.5)


def test_no_example_stands_in_two_types_or_in_the_words_of_a_sentence() -> None:
    examples = Counter(item.casefold() for kind in types().values() for item in kind.examples)
    names = Counter(name for kind in types().values() for name in kind.names)
    assert max(examples.values()) == max(names.values()) == 1
    for sentence in _sentences():
        assert set(re.findall(r"\[([^]]+)]", sentence)) <= set(types())
        fixed = re.sub(r"\[[^]]+]", "|", sentence)
        assert not [kind.names[0] for kind in types().values() if kind.anywhere.search(fixed)], sentence


def test_labels_of_the_unseen_test_sets_are_not_trained() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes/ie_smollm2.yaml").recipe
    unseen = set(list(recipe.task.params["descriptions"])[-17:])
    assert {"algorithm", "writer", "poem"} <= unseen
    library = read_data("ie/labels.json")
    asked = {name.casefold() for kind in types().values() for name in kind.names} | set(BROADER)
    asked |= {name for name, *_ in [*library["absent"]["NER"], *library["absent"]["RE"]]}
    asked |= set(re.findall(r'"([^"]+)"', json.dumps([entry["names"] for entry in _entries(library)])))
    assert not asked & unseen


def _entries(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict) and "names" in value:
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _entries(inner)
