"""Other people's corpora become rows, rows become the mix; nothing is lost unseen and no text stands on both sides."""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data_aug.ie import CARD_SOURCES, READERS, Mix, Options, from_iepile, mix, row_id
from adapters.data_aug.ie.batches import batches
from adapters.tasks.ie import IeTask

CONLL = """-DOCSTART- -X- O O

Ada NNP B-PER
Lovelace NNP I-PER
met NNP O
# NNP I-ORG
Babbage NNP I-PER
. . O

Nobody NN O

Nobody NN O
Ada NNP S-PER
Rome NNP B-LOC
Italy NNP B-LOC
"""
SPERT = [
    {
        "tokens": ["Ada", "Lovelace", "lived", "in", "London", "."],
        "entities": [{"type": "Peop", "start": 0, "end": 2}, {"type": "Loc", "start": 4, "end": 5}],
        "relations": [{"type": "Live_In", "head": 0, "tail": 1}],
        "orig_id": 7,
    },
    {"tokens": ["Rain", "."], "entities": [], "relations": []},
]
BRAT_TEXT = "Ada Lovelace lived\r\nin London.\nAda and Charles Babbage met in Turin."
BRAT = """T1\tPerson 0 12\tAda Lovelace
T2\tPlace 23 29\tLondon
T3\tPerson 31 34;47 54\tAda Babbage
T4\tPlace 62 67\tTurin
T5\tPerson 13 22\tlived in
R1\tLives Arg1:T1 Arg2:T2\t
R2\tBeen Arg1:T3 Arg2:T4\t
*\tEquiv T1 T3
#1\tAnnotatorNotes T1\tsure
"""


def iepile(gold: dict[str, Any], text: str, task: str = "NER", **more: Any) -> dict[str, Any]:
    instruction = {"instruction": "Extract.", "schema": list(gold), "input": text}
    return {"task": task, "source": "made", "instruction": json.dumps(instruction), "output": json.dumps(gold)} | more


def rows(n: int, source: str, *, labels: int = 3, every: int = 2) -> list[dict[str, Any]]:
    schema = [f"type{i}" for i in range(labels)]
    out = []
    for i in range(n):
        gold: dict[str, list[str]] = {label: [] for label in schema}
        if i % every:
            gold[schema[i % labels]] = [f"thing{i}"]
        text = f"The {source} has thing{i} ."
        out.append({"id": row_id(text), "task": "NER", "source": source, "schema": schema, "text": text, "gold": gold})
    return out


def read(kind: str, path: Path, **options: Any) -> list[dict[str, Any]]:
    return READERS[kind](path, Options(**options)).rows


def test_conll_columns(tmp_path: Path) -> None:
    path = tmp_path / "c.conll"
    path.write_text(CONLL)
    first, second, third = read("conll", path, source="news")
    assert first["text"] == "Ada Lovelace met # Babbage ."
    assert first["gold"] == {"PER": ["Ada Lovelace", "Babbage"], "ORG": ["#"], "LOC": []}
    assert first["spans"] == [[0, 12, "PER"], [17, 18, "ORG"], [19, 26, "PER"]]
    assert second["gold"] == {"PER": [], "ORG": [], "LOC": []}
    assert third["gold"]["LOC"] == ["Rome", "Italy"], "B- starts a new mention"
    for row in (first, second, third):
        assert {row["text"][start:end] for start, end, _ in row["spans"]} == {
            x for v in row["gold"].values() for x in v
        }
        example = IeTask().example(row)
        assert IeTask().counts(example.gold, example.completion or "")["labelled"]["entity"].f() == float(
            any(row["gold"].values())
        )
    kept = READERS["conll"](path, Options(drop_empty=True))
    assert (len(kept.rows), kept.left_out) == (2, {"without labels": 1})


def test_labels_are_renamed_dropped_and_ordered(tmp_path: Path) -> None:
    path = tmp_path / "c.conll"
    path.write_text(CONLL + "\n" + CONLL)
    options = Options(labels={"PER": "person", "ORG": ""}, schema=("LOC", "person", "extra"))
    corpus = READERS["conll"](path, options)
    assert [list(row["gold"]) for row in corpus.rows] == [["LOC", "person", "extra"]] * 3
    assert corpus.left_out == {"duplicate texts": 3}
    assert len(read("conll", path, keep_doubles=True)) == 6
    with pytest.raises(ValueError, match="the label 'ORG', which the given schema lacks"):
        read("conll", path, schema=("PER",))


@pytest.mark.parametrize("tags", ["B-X I-X E-X O S-X", "B-X I-X I-X O B-X", "I-X I-X I-X O I-X", "B-X I-X L-X O U-X"])
def test_every_dialect_says_the_same(tmp_path: Path, tags: str) -> None:
    path = tmp_path / "c.conll"
    path.write_text("\n".join(f"w{n}\t{tag}" for n, tag in enumerate(tags.split())))
    assert read("conll", path)[0]["gold"] == {"X": ["w0 w1 w2", "w4"]}


@pytest.mark.parametrize(
    ("text", "gold", "comments"),
    [
        ("Dr.\tO\nMira\u00a0Holt\tB-PER\nvisited\tO\nNew York\tB-LOC\n", ["Mira\u00a0Holt", "New York"], 0),
        ("New York B-LOC O\n".replace(" York", "\u00a0York"), [], 0),
        ("# id 7f31-aa\tdomain=en\nthe _ _ O\nriver _ _ B-LOC\nbend _ _ I-LOC\n", ["river bend"], 1),
        ("#\thttp://x.example/a [2009-10-17]\n1\tUlm\tB-LOC\n2\tliegt\tO\n", ["Ulm"], 1),
        ("# sent_id = 1\n# text = x\n# O\n#Ulm B-LOC\n", ["#Ulm"], 2),
        ("#begin document (bc/1); part 000\nUlm B-LOC\n\n#end document\n", ["Ulm"], 2),
        ("Mira PER\nHolt PER\n# PER\nsaw O\nUlm LOC\nLima LOC\n", ["Mira Holt #", "Ulm Lima"], 0),
        ("% id 7\n// of news\n; and\n#lang=en\n## more\n% O\n; B-LOC\n#a=b I-LOC\nx O\n", ["; #a=b"], 5),
        ("Ulm B_LOC\nhat O\nNew B_LOC\nYork I_LOC\n", ["Ulm", "New York"], 0),
        ("Ulm LOC-B\nhat O\nNew LOC-B\nYork LOC-I\n", ["Ulm", "New York"], 0),
        ("Ulm B_LOC\nhat O\n", ["Ulm"], 0),
        ("Ulm\tB-LOC\t\nhat\tO\t\n", ["Ulm"], 0),
        ("1\tUlm\tB-LOC\n2\that\tO\n\n# sent_id = 2\n1\tLima\tO\n", ["Ulm"], 1),
        ("-DOCSTART- -X- O O\n\nUlm NNP B-NP B-LOC\r\n", ["Ulm"], 0),
    ],
)
def test_conll_files_as_people_have_them(tmp_path: Path, text: str, gold: list[str], comments: int) -> None:
    path = tmp_path / "c.conll"
    path.write_bytes(text.encode())
    options = Options(token_column=1 if "\n1\t" in text else 0)
    if not gold:  # the last column has no mention
        with pytest.raises(ValueError, match="no labels for NER"):
            READERS["conll"](path, options)
        return
    corpus = READERS["conll"](path, options)
    row = corpus.rows[0]
    assert [row["text"][start:end] for start, end, _ in row["spans"]] == gold
    assert sorted(x for v in row["gold"].values() for x in v) == sorted(gold)
    assert corpus.left_out.get("comment lines", 0) == comments


def test_running_numbers_are_no_tokens_and_nested_tags_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "germeval.tsv"
    second = "1\tLima\tB-LOCpart\tO\n"
    path.write_text("#\thttp://x.example [2009-10-17]\n1\tUlm\tB-LOC\tB-ORG\n2\tlag\tO\tO\n\n" + second)
    corpus = READERS["conll"](path, Options())
    assert [row["text"] for row in corpus.rows] == ["Ulm lag", "Lima"]
    assert corpus.rows[0]["gold"] == {"LOC": ["Ulm"], "LOCpart": []}
    nested = {"tags of nested mentions; --tag-column 3 reads these instead": 1}
    assert corpus.left_out == {"comment lines": 1, **nested}
    corpus = READERS["conll"](path, Options(tag_column=3))
    assert (corpus.rows[0]["gold"], corpus.left_out) == ({"ORG": ["Ulm"]}, {"comment lines": 1})
    path.write_text("1 B-LOC\n2 O\n")  # numbers are tokens where there is nothing else
    assert READERS["conll"](path, Options()).rows[0]["text"] == "1 2"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("counted", [False, True])
def test_a_byte_order_mark_of_a_brat_text(tmp_path: Path, mark: str, counted: bool) -> None:
    text = f"{mark}😀 Mira Holt flew.\r\nTo e\u0301 Lima."
    at = [text.removeprefix("" if counted else mark).index(name) for name in ("Mira Holt", "Lima")]
    lines = [f"T{n}\tX {a} {a + len(s)}\t{s}" for n, (a, s) in enumerate(zip(at, ("Mira Holt", "Lima"), strict=True))]
    (tmp_path / "a.txt").write_text(text, newline="")
    (tmp_path / "a.ann").write_text("\n".join(lines))
    rows = read("brat", tmp_path)
    assert [row["text"] for row in rows] == ["😀 Mira Holt flew.", "To e\u0301 Lima."]
    assert [row["text"][a:b] for row in rows for a, b, _ in row["spans"]] == ["Mira Holt", "Lima"]
    (tmp_path / "a.ann").write_text(f"{lines[0]}\n{lines[0]}")
    with pytest.raises(ValueError, match="line 2: a second mention is called T0"):
        read("brat", tmp_path)
    (tmp_path / "a.ann").write_text("T1\tX 0 4\tMira\n")
    with pytest.raises(ValueError, match="line 1: 'Mira' does not stand at 0 4"):
        read("brat", tmp_path)


def test_spert_json(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(SPERT))
    ner, empty, relation, without = read("spert", path, source="news")
    assert ner["gold"] == {"Peop": ["Ada Lovelace"], "Loc": ["London"]}
    assert ner["spans"] == [[0, 12, "Peop"], [22, 28, "Loc"]]
    assert relation["gold"] == {"Live_In": [{"head": "Ada Lovelace", "tail": "London"}]}
    assert (relation["task"], relation["text"]) == ("RE", ner["text"])
    assert empty["gold"] == {"Peop": [], "Loc": []}
    assert without["gold"] == {"Live_In": []}
    assert "spans" not in relation
    assert [row["task"] for row in read("spert", path, tasks=("RE",), schema=("Live_In", "Kill"))] == ["RE", "RE"]
    with pytest.raises(ValueError, match="choose the task"):
        read("spert", path, schema=("Live_In",))


def test_brat_standoff(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(BRAT_TEXT.encode())
    (tmp_path / "a.ann").write_text(BRAT)
    corpus = READERS["brat"](tmp_path, Options())
    by_task = {task: [row for row in corpus.rows if row["task"] == task] for task in ("NER", "RE")}
    assert [row["text"] for row in by_task["NER"]] == [
        "Ada Lovelace lived", "in London.", "Ada and Charles Babbage met in Turin."
    ]  # fmt: skip
    assert [row["gold"] for row in by_task["NER"]] == [
        {"Person": ["Ada Lovelace"], "Place": []},
        {"Person": [], "Place": ["London"]},
        {"Person": ["Ada Babbage"], "Place": ["Turin"]},
    ]
    assert by_task["NER"][2]["spans"] == [[31, 36, "Place"]], "a mention in pieces has no span"
    assert by_task["RE"][2]["gold"] == {"Been": [{"head": "Ada Babbage", "tail": "Turin"}]}
    assert corpus.left_out == {
        "mentions across lines": 1, "relations across lines": 1, "events, attributes, equivalences and notes": 2
    }  # fmt: skip


def test_iepile_records(tmp_path: Path) -> None:
    relation = {"founder": [{"subject": "Ada", "object": "Club"}, {"head": "A", "tail": "B"}], "other": []}
    path = write_jsonl(
        tmp_path / "i.jsonl", [iepile({"person": ["Ada"], "place": []}, "Ada ."), iepile(relation, "x", "RE")]
    )
    first, second = read("iepile", path)
    assert first == {
        "id": row_id("Ada ."), "task": "NER", "source": "made", "language": "en", "schema": ["person", "place"],
        "text": "Ada .", "gold": {"person": ["Ada"], "place": []},
    }  # fmt: skip
    assert second["gold"]["founder"] == [{"head": "Ada", "tail": "Club"}, {"head": "A", "tail": "B"}]
    label = [{"entity": "Ada", "entity_type": "person"}, {"entity": "Rome", "entity_type": "place"}]
    test = {"instruction": iepile({"person": []}, "Ada .")["instruction"], "label": json.dumps(label), "task": "NER"}
    assert from_iepile(test)["gold"] == {"person": ["Ada"]}, "the labels of other batches are left to them"
    chinese = json.dumps({"instruction": "你是", "schema": ["a"], "input": "x"})
    assert from_iepile({"instruction": chinese, "output": "{}"})["language"] == "other"


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("conll", "Ada PER\n", "line 1: 'PER' is no tag"),
        ("conll", "Ada\n", "line 1: 'Ada' is no tag"),
        ("conll", "a O\n", "no labels for NER"),
        ("conll", "a NN\nb VB\n", "line 1: 'NN' is no tag"),
        ("conll", "a O\nb X B-PER\n", "line 2 has 3 columns, the first line of the file has 2"),
        ("conll", "a O\nb B-PER\nc PER\n", "line 3: 'PER' is no tag"),
        ("conll", "a\tO\n\tB-PER\n", "line 2: the token is empty"),
        ("spert", "{", "is not JSON"),
        ("spert", "{}", "no list of sentences"),
        (
            "spert",
            '[{"tokens": ["a"], "entities": [{"type": "X", "start": 0, "end": 9}]}]',
            "sentence 1 is not SpERT's",
        ),
        ("brat", "", "no folder with pairs"),
        ("iepile", "{}\n", "line 1: instruction holds no input text"),
        ("iepile", "[]\n", "line 1"),
        ("iepile", json.dumps(iepile({"a": "x"}, "x")), "no object from labels to lists"),
        ("iepile", '{"instruction": "{", "output": ""}', "instruction is not JSON"),
        ("iepile", json.dumps(iepile({"a": [3]}, "x")), "3 is neither a text nor a pair"),
        ("iepile", json.dumps(iepile({"a": []}, "x", output='{"b": ["x"]}')), "'b', which is not in the schema"),
    ],
)
def test_broken_corpora_are_named(tmp_path: Path, kind: str, text: str, wanted: str) -> None:
    path = tmp_path / "broken"
    path.write_text(text)
    with pytest.raises(ValueError, match=wanted):
        READERS[kind](path, Options())


# ---------------------------------------------------------------------------------------------------------- batches


@given(st.integers(1, 20), st.integers(1, 8), st.data())
def test_batches(n: int, size: int, data: st.DataObject) -> None:
    schema = [f"l{i}" for i in range(n)]
    present = data.draw(st.sets(st.sampled_from(schema)))
    hard = data.draw(st.dictionaries(st.sampled_from(schema), st.lists(st.sampled_from([*schema, "stranger"]))))
    cut = batches(schema, present, hard, size, random.Random(0))
    flat = [label for batch in cut for label in batch]
    assert len(flat) == len(set(flat)), "no label twice"
    assert present <= set(flat) <= set(schema), "every label that is there, none that the corpus does not annotate"
    assert {h for label in present for h in hard.get(label, ())} & set(schema) <= set(flat)
    assert all(1 <= len(batch) < size + max(1, size // 2) for batch in cut)
    assert cut == batches(schema, present, hard, size, random.Random(0))


def test_a_short_remainder_joins_the_batch_before() -> None:
    five = [f"l{i}" for i in range(5)]
    assert [len(b) for b in batches(five, set(five), {}, 4, random.Random(0))] == [5]
    six = [f"l{i}" for i in range(6)]
    assert [len(b) for b in batches(six, set(six), {}, 4, random.Random(0))] == [4, 2]


# ------------------------------------------------------------------------------------------------------------- the mix


def test_the_cards_shares_and_no_text_on_both_sides() -> None:
    data = [*rows(900, "large"), *rows(300, "middle"), *rows(40, "small", every=1_000)]
    mixed = mix(data, Mix(total=600), {})
    both = [*mixed.train, *mixed.validation]
    assert (len(mixed.train), len(mixed.validation)) == (540, 60)
    assert sum(not any(row["gold"].values()) for row in both) == 180
    assert {row["text"] for row in mixed.train}.isdisjoint(row["text"] for row in mixed.validation)
    sources = Counter(row["source"] for row in both)
    assert sources["small"] == 40, "a source that has less gives all of it"
    assert abs(mixed.ledger["large"]["with labels"] - mixed.ledger["middle"]["with labels"]) <= 120
    assert sum(mixed.ledger.values(), Counter())["train"] == 540
    assert mixed.notes == []
    assert mix(data, Mix(total=600), {}).train == mixed.train
    assert mix(data, Mix(total=600, seed=1), {}).train != mixed.train


def test_records_of_one_text_stay_together() -> None:
    data = [{**row, "schema": [f"type{i}" for i in range(30)]} for row in rows(200, "wide")]
    every = {f"type{i}": [f"type{j}" for j in range(30)] for i in range(3)}
    mixed = mix(data, Mix(total=300, empty=0.7), {"NER": {"WIDE": every}})
    assert len(mixed.train) + len(mixed.validation) == 300
    assert max(Counter(row["text"] for row in mixed.train).values()) > 1, "a text is asked about in several batches"
    assert {row["text"] for row in mixed.train}.isdisjoint(row["text"] for row in mixed.validation)
    assert max(len(row["schema"]) for row in mixed.train) <= 8
    assert all(IeTask().example(row) for row in mixed.train)


def test_too_little_data_keeps_the_shares_and_says_so() -> None:
    mixed = mix(rows(100, "few", every=4), Mix(), {})
    both = [*mixed.train, *mixed.validation]
    assert len(both) == 83
    assert sum(not any(row["gold"].values()) for row in both) == 25
    assert mixed.notes == [
        "83 records instead of 16,000: 75 have labels and 25 are empty; the shares are kept"
    ]  # fmt: skip


def test_filters_and_what_they_left_out() -> None:
    data = [
        *rows(50, "bc5cdr"),
        *rows(50, "mine"),
        iepile({"a": ["x"]}, "x", source="ncbi"),
        iepile({"a": ["x"]}, "x", source="ncbi"),
        iepile({"a": ["x"]}, "y", "EE", source="ncbi"),
        iepile(
            {"a": []}, "z", source="ncbi", instruction=json.dumps({"instruction": "你", "schema": ["a"], "input": "z"})
        ),
    ]
    mixed = mix(data, Mix(sources=CARD_SOURCES), {}, exclude=["the BC5CDR has thing1!", "nothing"])
    assert mixed.ledger["mine"] == Counter({"read": 50, "filtered": 50})
    assert mixed.ledger["bc5cdr"]["in test sets"] == 1
    assert {k: mixed.ledger["ncbi"][k] for k in ("read", "filtered", "doubles", "records")} == {
        "read": 4, "filtered": 2, "doubles": 1, "records": 1
    }  # fmt: skip
    assert len(CARD_SOURCES) == 22
    capped = mix(data, Mix(cap=10, total=100), {})
    assert max(Counter(row["source"] for row in [*capped.train, *capped.validation]).values()) <= 10


@pytest.mark.parametrize(
    ("records", "options", "text"),
    [
        ([{**rows(1, "s")[0], "gold": {"type0": "x"}}], {}, "gold an object from labels to lists"),
        ([{"task": "NER", "source": "s"}], {}, r"record 1 \(s\): a plain row has a text and gold"),
        ([{**rows(1, "s")[0], "gold": {"alien": ["x"]}}], {}, "'alien', which is not in the schema"),
        (rows(3, "s"), {"tasks": ("RE",)}, "no record is left"),
        ([], {"empty": 1.0}, "empty is a share"),
        ([], {"sizes": {"NER": 0}}, "NER must be at least 1"),
    ],
)
def test_mistakes_in_the_mix_are_named(records: list[Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mix(records, Mix(**options), {})


# ------------------------------------------------------------------------------------------------------- the commands


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_from_a_corpus_to_span_scores(tmp_path: Path) -> None:
    pytest.importorskip("nervaluate", reason="pip install -e '.[ie]'")
    (tmp_path / "news.conll").write_text(CONLL)
    out = tmp_path / "news.jsonl"
    result = invoke("convert", tmp_path / "news.conll", "--from", "conll", "-o", out, "--rename", "PER=person")
    assert result.exit_code == 0, result.output
    assert "3 NER rows, 1 without labels; schema: person, ORG, LOC" in result.stdout
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["source"] for row in made} == {"news"}

    def score(answers: list[dict[str, Any]]) -> dict[str, Any]:
        lines = [{"id": row["id"], "completion": json.dumps(a)} for row, a in zip(made, answers, strict=True)]
        predictions = write_jsonl(tmp_path / "p.jsonl", lines)
        done = invoke("score-spans", predictions, out, "--set", "missing_answer=whole", "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    perfect = score([row["gold"] for row in made])
    assert perfect["overall"]["strict"]["f1"] == 1.0
    assert perfect["overall"]["strict"]["possible"] == 6
    cut = score([{**made[0]["gold"], "person": ["Ada", "Babbage"]}, *(row["gold"] for row in made[1:])])
    assert cut["overall"]["strict"]["correct"] == 5
    assert cut["overall"]["partial"]["partial"] == 1
    invented = score([{**made[0]["gold"], "LOC": ["Paris", "Bath"]}, *(row["gold"] for row in made[1:])])
    assert (invented["overall"]["strict"]["actual"], invented["overall"]["strict"]["correct"]) == (8, 6)
    assert score([{}, {"ORG": ["Nobody"]}, {}])["overall"]["strict"]["f1"] == 0.0
    assert "F1" in invoke("score-spans", tmp_path / "p.jsonl", out, "--set", "missing_answer=whole").stdout


@pytest.mark.parametrize("policy", ["protect", "follow"])
def test_perfect_answers_score_1_after_noise(tmp_path: Path, policy: str) -> None:
    pytest.importorskip("nervaluate", reason="pip install -e '.[ie]'")
    text = "Mira Holt flew from Zu\u0308rich to Lima ."
    clean = [{"id": str(n), "task": "NER", "schema": ["PER", "LOC"], "text": f"{n} {text}"} for n in range(30)]
    for row in clean:
        row["gold"] = {"PER": ["Mira Holt"], "LOC": ["Zu\u0308rich", "Lima"]}
        names = [("PER", "Mira Holt"), ("LOC", "Zu\u0308rich"), ("LOC", "Lima")]
        row["spans"] = [[(at := row["text"].index(name)), at + len(name), label] for label, name in names]
    rows_file, noisy = write_jsonl(tmp_path / "rows.jsonl", clean), tmp_path / "noisy.jsonl"
    done = invoke("noise", rows_file, "--task", "ie", "--policy", policy, "--level", "heavy", "-o", noisy)
    assert done.exit_code == 0, done.output
    made = [json.loads(line) for line in noisy.read_text().splitlines()]
    assert [row["text"] for row in made] != [row["text"] for row in clean]
    made = write_jsonl(tmp_path / "gold.jsonl", [row for row in made if "spans" in row]), made
    composed = [{"id": r["id"], "completion": unicodedata.normalize("NFC", json.dumps(r["gold"], ensure_ascii=False))}
                for r in made[1]]  # fmt: skip
    arguments = ("score-spans", write_jsonl(tmp_path / "p.jsonl", composed), made[0], "--set", "missing_answer=whole")
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["overall"]["strict"]["f1"] == 1.0


def test_blanks_at_the_ends_of_a_span_cost_nothing(tmp_path: Path) -> None:
    pytest.importorskip("nervaluate", reason="pip install -e '.[ie]'")
    row = {"id": "a", "task": "NER", "schema": ["PER"], "text": "So Mira\u00a0 flew .", "gold": {"PER": ["Mira"]}}
    gold = write_jsonl(tmp_path / "g.jsonl", [{**row, "spans": [[2, 9, "PER"]]}])
    predictions = write_jsonl(tmp_path / "p.jsonl", [{"id": "a", "completion": '{"PER": ["Mira"]}'}])
    done = invoke("score-spans", predictions, gold, "--set", "missing_answer=whole", "--json")
    assert json.loads(done.stdout)["overall"]["strict"]["f1"] == 1.0


def test_variants_of_a_text_are_scored_each_by_its_own_answer(tmp_path: Path) -> None:
    pytest.importorskip("nervaluate", reason="pip install -e '.[ie]'")
    row = {"id": "a", "task": "NER", "schema": ["PER"], "text": "Mira flew .", "gold": {"PER": ["Mira"]}}
    first = {**row, "spans": [[0, 4, "PER"]], "variant": 0}
    second = {**first, "text": "M1ra, not Mira, flew .", "gold": {"PER": ["M1ra"]}, "variant": 1}
    answers = [{**r, "completion": json.dumps(r["gold"])} for r in (first, second)]
    gold, predictions = tmp_path / "g.jsonl", write_jsonl(tmp_path / "p.jsonl", answers)
    score = ("score-spans", predictions, write_jsonl(gold, [first, second]), "--set", "missing_answer=whole", "--json")
    assert json.loads(invoke(*score).stdout)["overall"]["strict"]["f1"] == 1.0
    write_jsonl(gold, [{k: v for k, v in r.items() if k != "variant"} for r in (first, second)])
    assert "g.jsonl, line 2: a second text with the id 'a'; give each an id of its own" in invoke(*score).stderr


def test_spans_of_another_text_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("nervaluate", reason="pip install -e '.[ie]'")
    row = {"id": "a", "task": "NER", "schema": ["PER"], "text": "Mira flew .", "gold": {"PER": ["Mira"]}}
    predictions = write_jsonl(tmp_path / "p.jsonl", [{"id": "a", "completion": "{}"}])
    for spans, wanted in (([[2, 6, "PER"]], "'ra f', which gold does not name as PER"), ([["a"]], "A span is [start")):
        gold = write_jsonl(tmp_path / "g.jsonl", [{**row, "spans": spans}])
        done = invoke("score-spans", predictions, gold)
        assert done.exit_code == 2
        assert "line 1: spans: " in done.stderr
        assert wanted in done.stderr


def test_building_the_mix(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", rows(200, "a"))
    test = write_jsonl(tmp_path / "t.jsonl", rows(5, "a"))
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"NER": {"a": {"type0": ["type1"]}}, "RE": {}}))
    arguments = [data, "-o", tmp_path / "mix", "--total", 100, "--label-names", names, "--exclude", test]
    result = invoke("build-ie", *arguments, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["train"], figures["validation"]) == (90, 10)
    assert figures["ledger"]["a"]["in test sets"] == 5
    assert len((tmp_path / "mix/train.jsonl").read_text().splitlines()) == 90
    table = invoke("build-ie", *arguments).stdout
    assert "records by source" in table
    assert "90 rows to train on, 10 held out" in table


DATA = os.environ.get("ADAPTERS_DATA")


@pytest.mark.skipif(not DATA, reason="ADAPTERS_DATA is unset: it names the folder that holds ie/ncbi.train.jsonl …")
def test_the_published_sizes(tmp_path: Path) -> None:
    folder = Path(DATA or "") / "ie"
    names = ("btc", "ncbi", "bc5cdr", "conll04_re", "scierc_re", "scierc_ner")
    arguments = [*(folder / f"{name}.train.jsonl" for name in names), "-o", tmp_path, "--json"]
    arguments += ["--label-names", folder / "iepile_label_names.json", "--exclude", folder / "conll04_re.test.jsonl"]
    result = invoke("build-ie", *arguments)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert (figures["train"], figures["validation"], figures["notes"]) == (14_400, 1_600, [])
    assert sum(source["with labels"] for source in figures["ledger"].values()) == 11_200
    assert sum(source.get("empty", 0) for source in figures["ledger"].values()) == 4_800
    assert figures["ledger"]["conll04"]["in test sets"] > 0
    made = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    scierc = [len(row["schema"]) for row in made if (row["source"], row["task"]) == ("SciERC", "RE")]
    assert max(scierc) <= 5
    assert [IeTask().example(row).gold for row in made] == [row["gold"] for row in made]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["convert", "x", "--from", "conl", "-o", "y"], "Did you mean conll?"),
        (["convert", "x", "--from", "conll", "-o", "y"], "x cannot be read: No such file"),
        (["convert", "x", "--from", "conll", "-o", "y", "--rename", "PER"], "'PER' is not KEY=VALUE"),
        (["convert", "x", "--from", "conll", "-o", "y", "--task", "EE"], "NER or RE"),
        (["build-ie", "x.jsonl", "-o", "y"], "there is no file x.jsonl"),
        (["build-ie", "x.jsonl", "-o", "y", "--empty", "1"], "empty is a share"),
        (["build-ie", "x.jsonl", "-o", "y", "--label-names", "z"], "--label-names z cannot be read"),
        (["build-ie", "x.jsonl", "-o", "y", "--exclude", "z.jsonl"], "there is no file z.jsonl"),
        (["score-spans", "x.jsonl", "y.jsonl", "--set", "missing_anser=whole"], "Did you mean missing_answer?"),
    ],
)
def test_mistakes_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert list(tmp_path.iterdir()) == []
