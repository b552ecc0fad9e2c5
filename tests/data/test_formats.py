"""Annotations in other programs' formats: found by content, offsets exact, nothing left out uncounted."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docs_blocks import ROOT, named_files
from hypothesis import given
from hypothesis import strategies as st
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data.formats import FORMATS, WRITERS, Source, convert, detect
from adapters.data.formats.base import UNITS
from adapters.data_aug.ie.sentences import Entity, Options, Relation, Sentence
from adapters.errors import UserError
from adapters.plugins import registry

TEXT = "Mira Holt flew to Lima ."
GOLD = {"person": ["Mira Holt"], "place": ["Lima"]}


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["data", "convert", *map(str, arguments)])


def converted(path: Path, *arguments: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows that a file becomes, and what is said of it."""
    out = path.parent / "converted.jsonl"
    done = run(path, "-o", out, "--json", *arguments)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()], json.loads(done.stdout)


def read(name: str, path: Path, **options: Any) -> tuple[list[Sentence], Counter[str]]:
    left_out: Counter[str] = Counter()
    sentences = list(FORMATS[name].gives["ie"](Source(path), Options(**options), left_out))
    assert all(isinstance(s, Sentence) for s in sentences)
    return sentences, +left_out  # type: ignore[return-value]


def same(first: Sentence, second: Sentence) -> bool:
    return (first.text, set(first.entities), set(first.relations)) == (
        second.text, set(second.entities), set(second.relations)
    )  # fmt: skip


def span(start: int, end: int, label: str) -> dict[str, Any]:
    return {"start": start, "end": end, "label": label}


LABEL_STUDIO = [
    {"id": "a", "type": "labels", "value": {"start": 0, "end": 9, "text": "Mira Holt", "labels": ["person"]}},
    {"id": "b", "type": "labels", "value": {"start": 18, "end": 22, "text": "Lima", "labels": ["place"]}},
]
TASK = {"id": 1, "data": {"text": TEXT}, "annotations": [{"result": LABEL_STUDIO, "was_cancelled": False}]}
SAME_CORPUS: dict[str, tuple[str, Any]] = {
    "gliner": ("gliner", {"tokenized_text": TEXT.split(), "ner": [[0, 1, "person"], [4, 4, "place"]]}),
    "hf names": ("hf", {"tokens": TEXT.split(), "tags": ["B-person", "I-person", "O", "O", "B-place", "O"]}),
    "hf types": ("hf", {"tokens": TEXT.split(), "labels": ["person", "person", "O", "O", "place", "O"]}),
    "hf numbers": ("hf", {"tokens": TEXT.split(), "ner_tags": [1, 2, 0, 0, 3, 0]}),
    "hf words": ("hf", {"words": TEXT.split(), "ner": ["B-person", "L-person", "O", "O", "U-place", "O"]}),
    "doccano": ("doccano", {"id": 5, "text": TEXT, "label": [[0, 9, "person"], [18, 22, "place"]], "Comments": []}),
    "doccano before 1.6": ("doccano", {"data": TEXT, "labels": [[0, 9, "person"], [18, 22, "place"]]}),
    "doccano relations": (
        "doccano",
        {"text": TEXT, "relations": [], "entities": [
            {"id": 7, "label": "person", "start_offset": 0, "end_offset": 9},
            {"id": 8, "label": "place", "start_offset": 18, "end_offset": 22}]},
    ),
    "prodigy": ("prodigy", {"text": TEXT, "spans": [span(0, 9, "person"), span(18, 22, "place")], "answer": "accept"}),
    "spacy": ("prodigy", {"text": TEXT, "ents": [span(0, 9, "person"), span(18, 22, "place")]}),
    "spacy pairs": ("prodigy", [TEXT, {"entities": [[0, 9, "person"], [18, 22, "place"]]}]),
    "label studio": ("labelstudio", TASK),
    "label studio before 1.0": ("labelstudio", {"data": TASK["data"], "completions": TASK["annotations"]}),
    "label studio, JSON-MIN": ("labelstudio", {"id": 1, "text": TEXT, "ner": [r["value"] for r in LABEL_STUDIO]}),
    "spans": ("spans", {"text": TEXT, "spans": [[0, 9, "person"], [18, 22, "place"]]}),
}  # fmt: skip


@pytest.mark.parametrize("form", ["jsonl", "list", "pretty list", "with a byte-order mark"])
@pytest.mark.parametrize("name", SAME_CORPUS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, form: str) -> None:
    """Under a name that says nothing, as JSON lines and as one list."""
    kind, record = SAME_CORPUS[name]
    text = {
        "jsonl": f"{json.dumps(record)}\n",
        "list": json.dumps([record]),
        "pretty list": json.dumps([record], indent=2),
        "with a byte-order mark": f"\ufeff{json.dumps(record)}\r\n",
    }[form]
    path = tmp_path / "export.download"
    path.write_text(text, encoding="utf-8", newline="")
    labels = ["--labels", "O,B-person,I-person,B-place"] if name == "hf numbers" else []
    [row], said = converted(path, *labels)
    assert (said["format"], said["read"], said["to"]) == (kind, 1, "ie")
    assert (row["text"], row["gold"]) == (TEXT, GOLD)
    assert row["spans"] == [[0, 9, "person"], [18, 22, "place"]]
    assert said["left_out"] == {}


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "brat"])
def test_the_example_of_a_format_is_found_to_be_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file"
    path.write_text(FORMATS[name].example)
    assert detect(Source(path))[0] == name


def test_what_is_read_is_said_and_can_be_overruled(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [SAME_CORPUS["prodigy"][1]] * 2)
    done = run(path, "-o", tmp_path / "o.jsonl")
    assert "read as Prodigy or spaCy JSONL, 2 texts" in done.stdout
    assert "1 NER rows, 0 without labels; schema: person, place" in done.stdout
    assert "left out: 1 duplicate texts" in done.stdout
    for name in ("spacy", "Label-Studio"):
        done = run(path, "-o", tmp_path / "o2.jsonl", "--from", name)
        assert done.exit_code == (0 if name == "spacy" else 2), done.output
    assert "line 1: no task with data and annotations" in done.stderr
    assert not (tmp_path / "o3.jsonl").exists()


def test_number_tags_need_names(tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    names = ["O", "B-person", "I-person", "B-place"]
    record = SAME_CORPUS["hf numbers"][1]
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(datasets.ClassLabel(names=names))}
    )
    table = datasets.Dataset.from_list([record], features=features)
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "splits")
    (tmp_path / "data").mkdir()
    table.to_parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
    table.to_parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
    table.to_parquet(tmp_path / "one.parquet")
    assert b"huggingface" in pq.read_schema(tmp_path / "one.parquet").metadata
    for name in ("saved", "splits/train", "data", "one.parquet"):
        rows, said = converted(tmp_path / name)
        assert (said["format"], rows[0]["gold"]) == ("hf", GOLD), name
    assert said["read"] == 1
    done = run(tmp_path / "splits", "-o", tmp_path / "o")
    assert "has the splits train, test; name one" in done.stderr
    path = write_jsonl(tmp_path / "a.jsonl", [record])
    for arguments, wanted in (
        ((), "line 1: ner_tags are numbers; give their names in order, such as --labels O,B-person"),
        (("--labels", "O,B-x"), "line 1: ner_tags has the number 2, but there are 2 names: O, B-x"),
    ):
        done = run(path, "-o", tmp_path / "o", *arguments)
        assert (done.exit_code, wanted in done.stderr) == (2, True), done.output
    assert not (tmp_path / "o").exists()


def test_a_first_line_longer_than_what_is_looked_at(tmp_path: Path) -> None:
    long = {"text": TEXT + " word" * 300_000, "label": [[0, 9, "person"]]}
    rows, said = converted(write_jsonl(tmp_path / "a", [long, SAME_CORPUS["doccano"][1]]))
    assert (said["format"], [row["gold"]["person"] for row in rows]) == ("doccano", [["Mira Holt"]] * 2)


def test_csv_with_lists_in_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('tokens,ner_tags\n"[""Mira"", ""flew""]","[""B-person"", ""O""]"\n')
    [row], said = converted(path)
    assert (said["format"], row["gold"]) == ("hf", {"person": ["Mira"]})


PACKED: dict[str, Callable[[str], bytes]] = {
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big end first": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "bzip2 of utf-16": lambda text: bz2.compress(text.encode("utf-16")),
    "xz": lambda text: lzma.compress(text.encode()),
}
TEXTS = {
    "conll": "Mira\tB-person\nHolt\tI-person\nflew\tO\nto\tO\nLima\tB-place\n.\tO\n",
    "labelstudio": json.dumps([TASK], indent=2),
    "doccano": json.dumps(SAME_CORPUS["doccano"][1]),
    "jats": '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE article>\n' + FORMATS["jats"].example,
    "tei": '<?xml version="1.0"?>\n' + FORMATS["tei"].example,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", TEXTS)
def test_packed_and_encoded_annotations(tmp_path: Path, name: str, packed: str) -> None:
    path = tmp_path / "export.conll.gz"  # the name says nothing of the content
    path.write_bytes(PACKED[packed](TEXTS[name]))
    [row], said = converted(path)
    assert said["format"] == name
    if name in ("jats", "tei"):
        assert row["funders"][0]["funder_name"] == "Sample Trust"
    else:
        assert (row["text"], row["gold"]) == (TEXT, GOLD)


def test_tables_of_annotations_in_every_dress(tmp_path: Path) -> None:
    cells = ["tokens,ner_tags", '"[""Mira"", ""flew""]","[""B-person"", ""O""]"']
    for name, data in (
        ("a.csv", "\n".join(cells).encode("utf-16")),
        ("a.csv.gz", gzip.compress("\n".join(cells).encode())),
        ("a.csv", "\n".join(cells).replace("s,n", "s;n").replace('","[', '";"[').encode()),
        ("a.tsv", "\n".join(cells).replace("s,n", "s\tn").replace('","[', '"\t"[').encode()),
    ):
        (tmp_path / name).write_bytes(data)
        [row], said = converted(tmp_path / name)
        assert (said["format"], row["gold"]) == ("hf", {"person": ["Mira"]})
    (tmp_path / "a.csv").write_text("\n".join([*cells, "[]"]))
    assert "a.csv, row 2: line 3: 1 cell, but the header has 2" in run(tmp_path / "a.csv", "-o", tmp_path / "o").stderr


def test_brat_files_in_other_encodings(tmp_path: Path) -> None:
    text, annotations = f"😀 {TEXT}\r\n", "T1\tperson 2 11\tMira Holt\r\nT2\tplace 20 24\tLima\r\n"
    for of_text, of_annotations in (("utf-8", "utf-8-sig"), ("utf-16", "utf-16"), ("utf-8", "utf-8")):
        (tmp_path / "a.txt").write_bytes(text.encode(of_text))
        (tmp_path / "a.ann").write_bytes(annotations.encode(of_annotations))
        [row], said = converted(tmp_path)
        assert (said["format"], row["gold"]) == ("brat", GOLD)
        (tmp_path / "converted.jsonl").unlink(missing_ok=True)
    (tmp_path / "a.ann").write_bytes(b"T1\tperson 2 11\tMira Holt\n#\t\xff\n")
    assert "a.ann, line 2 is not UTF-8: invalid start byte" in run(tmp_path, "-o", tmp_path.parent / "o").stderr


def test_xml_says_its_own_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(
        b'<?xml version="1.0" encoding="ISO-8859-1"?>'
        b"<fundings><funding>By <funder>Universit\xe9</funder></funding></fundings>"
    )
    [row], said = converted(path)
    assert (said["format"], row["funding_statement"]) == ("tei", "By Université")
    for encoding, name in (
        ("gbk", "国家"),
        ("windows-1252", "Z“ü”"),
        ("shift_jis", "国"),
        ("UTF-8", "é"),
        ("utf-16", "é"),
    ):
        whole = f"<fundings><funding>By <funder>{name}</funder> S-1</funding></fundings>"
        other = tmp_path / f"{encoding}.xml"
        other.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{whole}'.encode(encoding))
        [row], said = converted(other)
        assert (said["format"], row["funders"][0]["funder_name"]) == ("tei", name)
    (tmp_path / "bogus.xml").write_bytes(b'<?xml version="1.0" encoding="bogus"?><fundings/>')
    assert "line 1: is not XML: unknown encoding" in run(tmp_path / "bogus.xml", "-o", tmp_path / "o").stderr
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.xml.gz").write_bytes(gzip.compress(path.read_bytes()))
    [row], said = converted(tmp_path / "folder")
    assert (said["format"], row["funders"][0]["funder_name"]) == ("tei", "Université")
    path.write_bytes(b"<fundings>\n<funding>\xff</funding></fundings>")
    assert "line 2: is not XML" in run(path, "-o", tmp_path / "o").stderr


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Mira B-PER\nHolt I-PER\nflew\n", "line 3 has 1 columns, the first line of the file has 2: 'flew'"),
        ("Mira\tB-PER\nHolt I-PER\nflew\tO\n", "line 2 has 1 columns"),
        ("Mira B-PER\nflew 0\n", "line 2: '0' is no tag such as B-person"),
        ("Mira NNP B-PER\nHolt I-PER\nflew O\n", "line 2 has 2 columns, the first line of the file has 3"),
    ],
)
def test_a_faulty_line_of_columns_is_named_though_nobody_said_the_format(
    tmp_path: Path, text: str, wanted: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert wanted in run(tmp_path / "a.txt", "-o", tmp_path / "o").stderr


@pytest.mark.parametrize("text", ["Paid by the Sample Trust, B-1\n", "<a><b/> S-1</a>"])
def test_prose_and_xml_that_end_as_tags_do_are_no_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert "no known format" in run(tmp_path / "a.txt", "-o", tmp_path / "o").stderr


def test_columns_that_begin_as_xml_does(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<user> O\nMira B-PER\n")
    assert converted(tmp_path / "a.txt")[1]["format"] == "conll"


def test_spert_as_json_lines(tmp_path: Path) -> None:
    record = json.loads(FORMATS["spert"].example)[0]
    rows, said = converted(write_jsonl(tmp_path / "a", [record, {**record, "tokens": ["Ada", "ran"]}]))
    assert (said["format"], said["read"], [row["gold"]["person"] for row in rows]) == ("spert", 2, [["Mira"], ["Ada"]])
    path = write_jsonl(tmp_path / "b", [record, {**record, "tokens": []}])
    assert "line 2 is not SpERT's: IndexError" in run(path, "-o", tmp_path / "o").stderr


# -------------------------------------------------------------------------------------------------------------- counts


def test_label_studio_counts_what_it_leaves_out(tmp_path: Path) -> None:
    def task(*annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"data": {"body": f"{len(tasks)} {TEXT}", "url": "http://x"}, "annotations": list(annotations), **more}

    def region(start: int, *labels: str, **more: Any) -> dict[str, Any]:
        value = {"start": start, "end": start + 4, "text": "Mira", "labels": list(labels)}
        return {"id": "".join(labels), "from_name": "l", "to_name": "t", "type": "labels", "value": value, **more}

    tasks: list[dict[str, Any]] = []
    choices = {"type": "choices", "value": {"choices": ["yes"]}}
    relations = [
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "left", "labels": ["knows"]},
        {"type": "relation", "from_id": "a", "to_id": "b", "direction": "bi", "labels": ["likes"]},
        {"type": "relation", "from_id": "a", "to_id": "gone", "labels": ["likes"]},
        {"type": "relation", "from_id": "a", "to_id": "b"},
    ]
    later = {**region(7, "b"), "value": {"start": 7, "end": 11, "text": "Holt", "labels": ["b", "c"]}}
    tasks.append(task({"result": [choices, region(2, "a"), later, *relations]}))
    tasks.append(task({"result": [region(2, "a")], "was_cancelled": True}, predictions=[{"result": [region(2, "a")]}]))
    tasks.append(task({"result": [], "updated_at": "2024"}, {"result": [region(2, "new")], "updated_at": "2025"}))
    tasks.append(task({"result": [region(2, "truth")], "ground_truth": True}, {"result": [], "updated_at": "2026"}))
    html = {"type": "hypertextlabels", "value": {"start": "/p[1]/text()[1]", "end": "/p", "hypertextlabels": ["x"]}}
    tasks.append(task({"result": [html]}))
    tasks.append(task())
    path = tmp_path / "a.json"
    path.write_text(json.dumps(tasks))
    sentences, left_out = read("labelstudio", path)
    first = sentences[0]
    assert {(e.label, e.surface(first.text)) for e in first.entities} == {("a", "Mira"), ("b", "Holt"), ("c", "Holt")}
    assert {(r.label, r.head.label, r.tail.label) for r in first.relations} == {
        ("knows", "b", "a"), ("likes", "a", "b"), ("likes", "b", "a")
    }  # fmt: skip
    assert [[e.label for e in s.entities] for s in sentences[1:]] == [["new"], ["truth"], []]
    assert left_out == {
        "results of the type choices": 1,
        "relations without their mentions": 1,
        "relations without a label": 1,
        "cancelled annotations": 1,
        "tasks that have only predictions": 1,
        "tasks without annotations": 1,
        "further annotations of a task": 2,
        "regions of HTML, which have no offsets in the text": 1,
    }


def test_prodigy_and_doccano_count_what_they_leave_out(tmp_path: Path) -> None:
    prodigy = [
        {"text": TEXT, "spans": [span(0, 9, "a"), span(18, 22, "b"), span(18, 22, "b"), span(9, 10, "b")],
         "relations": [{"head_span": span(0, 9, "a"), "child_span": span(18, 22, "b"), "label": "r"},
                       {"head": 2, "child": 3, "label": "s"}], "answer": "accept", "note": "sure"},
        {"text": "no", "spans": [], "answer": "reject"},
        {"text": "no idea", "spans": [], "answer": "ignore"},
        {"text": "nothing to find", "answer": "accept"},
        {"text": " ", "spans": []},
        {"text": "\ud83d!", "spans": [span(0, 1, "a")]},
    ]  # fmt: skip
    sentences, left_out = read("prodigy", write_jsonl(tmp_path / "p.jsonl", prodigy[:5]))
    assert [(r.label, r.head.label) for r in sentences[0].relations] == [("r", "a")]
    assert [s.text for s in sentences] == [TEXT, "nothing to find"]
    assert left_out == {
        "texts with the answer reject": 1, "texts with the answer ignore": 1, "texts without words": 1,
        "repeated mentions": 1, "empty mentions": 1, "relations without their mentions": 1, "values of note": 1,
    }  # fmt: skip
    (tmp_path / "s.jsonl").write_text(json.dumps(prodigy[5]))
    assert read("prodigy", tmp_path / "s.jsonl")[1] == {"texts with a lone surrogate, which were decoded wrongly": 1}
    entities = [{"id": n, "label": label, "start_offset": a, "end_offset": b, "user": 1}
                for n, (label, a, b) in enumerate((("a", 0, 10), ("b", 18, 22)))]  # fmt: skip
    relations = [{"id": 0, "from_id": 0, "to_id": 1, "type": "went"}, {"id": 0, "from_id": 0, "to_id": 9, "type": "x"}]
    record = {"text": TEXT, "entities": entities, "relations": relations, "Comments": ["?"], "split": "dev"}
    [sentence], left_out = read("doccano", write_jsonl(tmp_path / "d.jsonl", [record]))
    assert [(r.label, r.head.surface(TEXT), r.tail.surface(TEXT)) for r in sentence.relations] == [
        ("went", "Mira Holt", "Lima")
    ]
    assert left_out == {
        "comments": 1, "values of split": 1, "blanks at the ends of mentions": 1, "relations without their mentions": 1
    }  # fmt: skip


def test_a_mention_inside_a_word_is_noted(tmp_path: Path) -> None:
    """Offsets of JavaScript after an emoji, in a format that does not repeat the mentions' texts."""
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": f"😀 {TEXT}", "label": [[3, 12, "person"]]}])
    rows, said = converted(path)
    assert said["notes"] == {"mentions that begin or end inside a word": 1, "blanks at the ends of mentions": 1}
    rows, said = converted(path, "--offsets", "utf16")
    assert (rows[0]["gold"], said["notes"]) == ({"person": ["Mira Holt"]}, {})


# --------------------------------------------------------------------------------------------------------- round trips

LETTERS = (
    "Mira",
    "a",
    "1",
    "é",
    "e\u0301",
    "\u0301",
    "😀",
    "👩🏽\u200d🚒",
    "🇵🇪",
    "ß",
    "語",
    "𝒳",
    "-",
    ".",
    "#",
    "_",
    "\\n",
)
BLANKS = (" ", "  ", "\n", "\r\n", "\u00a0", "\t", "\ufeff", "\u2028", "\u200b")
PIECES = st.sampled_from(LETTERS + BLANKS)


@st.composite
def documents(draw: st.DrawFn) -> Sentence:
    text = "Z" + "".join(draw(st.lists(PIECES, max_size=14)))
    bounds = st.integers(0, len(text))
    entities = {}
    for a, b in draw(st.lists(st.tuples(bounds, bounds), max_size=5)):
        start, end = min(a, b), max(a, b)
        inside = text[start:end]
        if inside and inside == inside.strip("\ufeff").strip():
            entities[Entity(draw(st.sampled_from(["person", "a place", "Ü-x", "x_B", "x_I"])), ((start, end),))] = None
    pairs = st.tuples(st.sampled_from(list(entities)), st.sampled_from(list(entities))) if entities else st.nothing()
    relations = [Relation("knows", a, b) for a, b in draw(st.lists(pairs, max_size=2, unique=True))] if entities else []
    return Sentence(text, list(entities), relations)


def doccano_of(s: Sentence) -> Any:
    ids = {e: n + 3 for n, e in enumerate(s.entities)}
    entities = [{"id": n, "label": e.label, "start_offset": e.ranges[0][0], "end_offset": e.ranges[0][1]}
                for e, n in ids.items()]  # fmt: skip
    relations = [{"id": 1, "from_id": ids[r.head], "to_id": ids[r.tail], "type": r.label} for r in s.relations]
    return {"text": s.text, "entities": entities, "relations": relations}


def prodigy_of(s: Sentence) -> Any:
    # A relation of Prodigy names its ends by their bounds, so one mention stands at a place.
    places = {e.ranges[0]: e for e in s.entities}
    spans = {e: span(*e.ranges[0], e.label) for e in places.values()}
    relations = [{"head_span": spans[places[r.head.ranges[0]]], "child_span": spans[places[r.tail.ranges[0]]],
                  "label": r.label} for r in s.relations]  # fmt: skip
    return {"text": s.text, "spans": list(spans.values()), "relations": relations}


def label_studio_of(s: Sentence, unit: str) -> Any:
    """What somebody exports who corrected the predictions that we wrote; in older versions offsets count otherwise."""
    [task] = list(WRITERS["labelstudio"]([s], Counter()))
    result = task.pop("predictions")[0]["result"]
    for value in (region["value"] for region in result if region["type"] == "labels"):
        for key in ("start", "end"):
            value[key] = sum(map(UNITS[unit], s.text[: value[key]]))
    return {**task, "id": 3, "annotations": [{"id": 4, "result": result, "ground_truth": False}], "drafts": []}


WRITTEN: dict[str, tuple[str, Callable[[Sentence], Any]]] = {
    "spans": ("spans", lambda s: next(iter(WRITERS["spans"]([s], Counter())))),
    "doccano": ("doccano", doccano_of),
    "Label Studio": ("labelstudio", lambda s: label_studio_of(s, "characters")),
    "Label Studio before 2022": ("labelstudio", lambda s: label_studio_of(s, "utf16")),
    "bytes": ("labelstudio", lambda s: label_studio_of(s, "utf8")),
}


@pytest.mark.parametrize("name", WRITTEN)
@given(sentence=documents())
def test_offsets_survive_emoji_line_breaks_and_marks(
    tmp_path_factory: pytest.TempPathFactory, name: str, sentence: Sentence
) -> None:
    kind, write = WRITTEN[name]
    path = write_jsonl(tmp_path_factory.mktemp("f") / "a.jsonl", [write(sentence)])
    [back], left_out = read(kind, path)
    assert {r for r in left_out if r.startswith(("relations", "empty", "repeated", "texts"))} == set()
    surfaces = [e.surface(sentence.text) for e in sentence.entities]
    if name in ("Label Studio before 2022", "bytes") and not same(back, sentence):
        # Where the mentions' texts fit two ways of counting, the present one is taken: a text that comes twice.
        assert any(sentence.text.count(surface) > 1 for surface in surfaces)
        assert sorted(e.surface(back.text) for e in back.entities) == sorted(surfaces)
    else:
        assert same(back, sentence)


@given(sentence=documents())
def test_prodigy_round_trip(tmp_path_factory: pytest.TempPathFactory, sentence: Sentence) -> None:
    places = {e.ranges: e for e in sentence.entities}
    one_each = Sentence(
        sentence.text, list(places.values()), [r for r in sentence.relations if {r.head, r.tail} <= {*places.values()}]
    )
    path = write_jsonl(tmp_path_factory.mktemp("f") / "a.jsonl", [prodigy_of(one_each)])
    assert same(read("prodigy", path)[0][0], one_each)


@given(sentence=documents())
def test_conll_round_trip(tmp_path_factory: pytest.TempPathFactory, sentence: Sentence) -> None:
    """Up to white space: every mention that overlaps no longer one comes back with its text."""
    left_out: Counter[str] = Counter()
    path = tmp_path_factory.mktemp("f") / "a.conll"
    path.write_text("".join(WRITERS["conll"]([sentence], left_out)), encoding="utf-8", newline="")
    [back], _ = read("conll", path)

    def letters(text: str) -> str:
        return "".join(text.replace("\ufeff", "").split())

    assert letters(back.text) == letters(sentence.text)
    lost = left_out["mentions that overlap a longer one"]
    assert len(back.entities) == len(sentence.entities) - lost
    ours = Counter((e.label, letters(e.surface(sentence.text))) for e in sentence.entities)
    assert not Counter((e.label, letters(e.surface(back.text))) for e in back.entities) - ours


TOKENS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff"), min_size=1, max_size=4
).filter(str.strip)


@given(data=st.data())
def test_token_formats_round_trip(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    tokens = data.draw(st.lists(TOKENS, min_size=1, max_size=8))
    ner, tags, at = [], ["O"] * len(tokens), 0
    while at < len(tokens):
        length = data.draw(st.integers(0, 3))
        if length and at + length <= len(tokens):
            label = data.draw(st.sampled_from(["person", "a place"]))
            ner.append([at, at + length - 1, label])
            tags[at : at + length] = [f"B-{label}", *[f"I-{label}"] * (length - 1)]
        at += max(length, 1)
    names = list(dict.fromkeys(["O", *tags]))
    wanted = [(label, " ".join(tokens[a : b + 1])) for a, b, label in ner]
    folder = tmp_path_factory.mktemp("f")
    for kind, record, options in (
        ("gliner", {"tokenized_text": tokens, "ner": ner}, {}),
        ("hf", {"tokens": tokens, "ner_tags": tags}, {}),
        ("hf", {"tokens": tokens, "tags": [names.index(tag) for tag in tags]}, {"tag_names": tuple(names)}),
    ):
        [back], left_out = read(kind, write_jsonl(folder / "a.jsonl", [record]), **options)
        assert back.text == " ".join(tokens)
        assert [(e.label, e.surface(back.text)) for e in back.entities] == wanted
        assert left_out == {}


def test_a_byte_order_mark_before_a_text_is_dropped_and_offsets_move(tmp_path: Path) -> None:
    for unit in ("characters", "without the mark"):
        at = 1 if unit == "characters" else 0
        value = {"start": at, "end": at + 9, "text": "Mira Holt", "labels": ["person"]}
        task = {"data": {"text": f"\ufeff{TEXT}"}, "annotations": [{"result": [{"type": "labels", "value": value}]}]}
        [sentence], _ = read("labelstudio", write_jsonl(tmp_path / "a.jsonl", [task]))
        assert same(sentence, Sentence(TEXT, [Entity("person", ((0, 9),))]))
    [sentence], _ = read(
        "doccano", write_jsonl(tmp_path / "b.jsonl", [{"text": f"\ufeff{TEXT}", "label": [[1, 10, "p"]]}])
    )
    assert same(sentence, Sentence(TEXT, [Entity("p", ((0, 9),))]))


def test_a_browser_counts_a_line_break_once(tmp_path: Path) -> None:
    value = {"start": 3, "end": 7, "text": "Mira", "labels": ["person"]}
    task = {"data": {"text": "😀\r\n\r\nMira"}, "annotations": [{"result": [{"type": "labels", "value": value}]}]}
    [sentence], _ = read("labelstudio", write_jsonl(tmp_path / "a.jsonl", [task]))
    assert [e.surface(sentence.text) for e in sentence.entities] == ["Mira"]


@pytest.mark.parametrize("to", WRITERS)
def test_written_files_are_found_to_be_what_they_are_and_read_back(tmp_path: Path, to: str) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [SAME_CORPUS["doccano"][1], {"text": "Nothing here .", "label": []}])
    rows, _ = converted(source)
    done = run(source, "-o", tmp_path / "out", "--to", to, "--json")
    assert done.exit_code == 0, done.output
    if to == "labelstudio":
        config = json.loads(done.stdout)["config"]
        assert '<Label value="person"/><Label value="place"/>' in config
        tasks = json.loads((tmp_path / "out").read_text())
        refused = run(tmp_path / "out", "-o", tmp_path / "again")
        assert refused.exit_code == 2, "predictions alone are nobody's labels"
        assert "has no labels for NER or RE; left out: 2 tasks that have only predictions." in refused.stderr
        for task in tasks:
            task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
        (tmp_path / "out").write_text(json.dumps(tasks))
    back, said = converted(tmp_path / "out")
    assert said["format"] == to
    assert [{**row, "source": ""} for row in back] == [{**row, "source": ""} for row in rows]


def test_predictions_without_offsets_are_marked_for_correction(tmp_path: Path) -> None:
    row = {"text": "Lima, and Lima again; Limassol", "task": "NER", "gold": {"place": ["Lima", "Rome"], "person": []}}
    relations = {"text": "x", "task": "RE", "gold": {"in": []}}
    path = write_jsonl(tmp_path / "a.jsonl", [row, relations])
    done = run(path, "-o", tmp_path / "o.jsonl", "--to", "spans", "--json")
    said = json.loads(done.stdout)
    assert said["left_out"] == {
        "entries that the text does not hold": 1, "rows of relations, which have no offsets": 1
    }  # fmt: skip
    [written] = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert written["spans"] == [[0, 4, "place"], [10, 14, "place"]]
    done = run(path, "-o", tmp_path / "o2.jsonl")
    assert (done.exit_code, "holds rows for the task ie already" in done.stderr) == (2, True)
    row["schema"] = ["place", "person"]
    done = run(write_jsonl(path, [row]), "-o", tmp_path / "o.json", "--to", "labelstudio")
    assert '<Label value="place"/><Label value="person"/>' in done.stdout, "labels that nothing has yet, too"
    done = run(write_jsonl(path, [relations]), "-o", tmp_path / "o2.json", "--to", "labelstudio")
    assert "has no mentions to write; left out: 1 rows of relations, which have no offsets." in done.stderr


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("kind", "text", "wanted"),
    [
        ("doccano", '{"text": "ab", "label": [[0, 9, "x"]]}', "the mention of 'x' at 0 to 9 is no range of its text"),
        ("doccano", '{"text": "ab", "label": ["positive"]}', "line 1: no text with label"),
        ("doccano", '\n{"text": "ab", "label": []}\n{"text": 3, "label": []}', "line 3: no text with label"),
        ("doccano", '{"text": "ab", "label": []}\n{"text": "a', "line 2: not valid JSON"),
        ("doccano", '{"text": "ab", "text": "b", "label": []}', "line 1: the key 'text' stands in one object twice"),
        ("prodigy", '{"text": "ab", "spans": [{"start": 0, "end": 1}]}', "line 1: {'start': 0, 'end': 1} is no"),
        ("prodigy", '{"text": "ab", "spans": [{"start": 1, "end": 0, "label": "x"}]}', "at 1 to 0 is no range"),
        ("gliner", '{"tokenized_text": ["a"], "ner": [[0, 1, "x"]]}', "line 1: [0, 1, \"x\"] is no mention of"),
        ("gliner", '{"tokenized_text": "a b", "ner": []}', "line 1: no tokenized_text") ,
        ("hf", '{"tokens": ["a", "b"], "ner_tags": ["O"]}', "line 1: 2 tokens, but 1 ner_tags"),
        ("hf", '{"tokens": ["a"], "ner_tags": ["NN"]}', "line 1: 'NN' is no tag"),
        ("hf", '{"tokens": [1], "ner_tags": ["O"]}', "line 1: [1] is no list of tokens"),
        ("labelstudio", '[{"data": {"text": "ab"}, "annotations": [{"result": [{"type": "labels", "value": '
         '{"start": 0, "end": 1, "text": "b", "labels": ["x"]}}]}]}]', "record 1: 'b' does not stand at 0 to 1"),
        ("labelstudio", '[{"data": {"a": "x", "b": "y"}, "annotations": [{"result": []}]}]',
         "record 1: which key of data is the text? It has a, b"),
        ("spans", '{"text": "ab", "spans": [[0, 1, "x"]], "relations": [3]}', "line 1: relations must be lists"),
        ("rows", '{"text": "ab", "gold": {"x": [3]}}', "line 1: gold of 'x' is 3, not a text"),
        ("rows", '{"text": "ab", "gold": {"x": []}, "spans": [[0, 9, "x"]]}', "line 1: a span is no range"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_with_its_line(tmp_path: Path, kind: str, text: str, wanted: str) -> None:
    path = tmp_path / "a.dat"
    path.write_text(text)
    done = run(path, "-o", tmp_path / "o", "--from", kind, *(["--to", "spans"] if kind == "rows" else []))
    assert (done.exit_code, wanted in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "o").exists()


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.just(1.5) | st.sampled_from(["", "a", "Mira Holt", "person"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["start", "id", "text"]), inner, max_size=2)
    ),
    max_leaves=4,
)
RECORDS = {
    name: json.loads(example.splitlines()[0])
    for name, example in ((name, known.example) for name, known in FORMATS.items())
    if example.startswith(("{", "["))
} | {name: record for name, (_, record) in SAME_CORPUS.items()}


@pytest.mark.parametrize("name", RECORDS)
@given(data=st.data())
def test_a_broken_record_is_named_or_counted(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    """Any value of a good record replaced by any other: a row, a count or one sentence, never a traceback."""
    record = json.loads(json.dumps(RECORDS[name]))
    places = list(_places(record))
    owner, key = data.draw(st.sampled_from(places))
    owner[key] = data.draw(JSON_VALUES)
    path = tmp_path_factory.mktemp("f") / "a"
    path.write_text(json.dumps(record if isinstance(record, list) else [record]))
    kind = SAME_CORPUS[name][0] if name in SAME_CORPUS else name
    for to in ("spans", None) if "ie" in FORMATS[kind].gives else (None,):
        try:
            done = convert(path, Options(tag_names=("O", "B-x", "I-x")), name=kind, to=to)
            written = [json.loads(json.dumps(row)) for row in done.rows]
        except (ValueError, UserError) as error:
            assert str(error)
        else:
            assert written or done.left_out
            assert all(row["text"][a:b].strip() for row in written for a, b, _ in row.get("spans", ()))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (
            b'{"words": ["a"], "ner_tag": ["O"]}\n',
            ["has the keys words (list of text), ner_tag (list of text)", "hf (Hugg"],
        ),
        (b'{"sentence": "a", "entitys": [{"start": 0}]}', ["entitys (list of object with start)", "doccano"]),
        (
            b"Some prose that nobody tagged.\nAnd more of it, longer.\n",
            ["its first line is 'Some prose", "conll (CoNLL"],
        ),
        (b"<svg><text/></svg>", ["its first line is '<svg>", "jats (JATS"]),
        (b"<!doctype html>\n<html><body/></html>", ["it is a web page, not the data"]),
        (b'{"funding_statement": "a", "funders": []}', ["holds rows for the task funding already"]),
        (b"[1, 2]", ["its first record is number: 1"]),
        (b'{"quest": "a", "reply": "b"}', ["Near to it:\n  spans", "\n  openai"]),
        (b"", ["it is empty"]),
        ("Grüße".encode("latin-1"), ["is not UTF-8, probably Windows-1252 (cp1252); convert it with: iconv"]),
        (b"\x1f\x8b\x08\x00", ["Compressed file ended before the end"]),
        (b"\x28\xb5\x2f\xfd....", ["is compressed with Zstandard; unpack it"]),
        (b"PK\x03\x04", ["is a ZIP archive"]),
        ('{"text": "a"}'.encode("utf-16")[2:], ["is UTF-16 without a byte-order mark; convert it with: iconv"]),
        (b"x\x9c\x00\x00", ["holds NUL bytes, so that it is no text"]),
        (b"a\0b", ["holds NUL bytes"]),
        (b'[{"text": "a"}, ', ["line 1: not valid JSON"]),
    ],
)
def test_an_unknown_file_is_described(tmp_path: Path, data: bytes, wanted: list[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    done = run(path, "-o", tmp_path / "o")
    assert done.exit_code == 2
    assert not [text for text in wanted if text not in done.stderr], done.stderr
    if "no known format" in done.stderr:
        assert "Near to it:" in done.stderr
        assert "--from names one of gliner, hf, conll" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--to", "bio"], "--to is ie, funding, chat, spans, conll, labelstudio, not 'bio'"),
        (["--to", "funding"], "doccano JSONL gives rows for ie, not for funding"),
        (["--offsets", "utf32"], "--offsets is characters, utf16, utf8"),
        (["--from", "docanno"], "Did you mean doccano?"),
        (["--from", "nothing.py:read"], "there is no file"),
        (["-o", "a.jsonl"], "is the file that is read"),
        (["--to", "conll", "--rename", "person=a\tb"], "cannot hold; rename it"),
        (["--to", "spans", "--rename", "person=", "--rename", "place="], "has no mentions to write"),
    ],
)
def test_mistakes_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", [SAME_CORPUS["doccano"][1]])
    done = run("a.jsonl", *(["-o", "o"] if "-o" not in arguments else []), *arguments)
    assert (done.exit_code, wanted in done.stderr) == (2, True), done.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


# ------------------------------------------------------------------------------------------------------------ plug-ins

PLUGIN = '''
def read(path):
    """Lines of label, tab and text; the whole text is the mention."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        label, tab, text = line.partition("\\t")
        if label == "skip":
            yield "lines that say skip"
        elif not tab:
            raise ValueError(f"line {number} has no tab")
        elif label == "crash":
            {}["x"]
        elif label == "odd":
            yield {"what": text}
        else:
            yield {"text": text, "spans": [[0, len(text), label]]}

def funding(path):
    yield {"id": "a", "funding_statement": path.read_text(), "funders": []}
'''


def test_a_format_of_ones_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(PLUGIN)
    Path("a.txt").write_text("place\tLima\nskip\t\n")
    [row], said = converted(tmp_path / "a.txt", "--from", "./mine.py:read")
    assert (row["gold"], said["left_out"]) == ({"place": ["Lima"]}, {"lines that say skip": 1})
    run("a.txt", "-o", "o.conll", "--from", "./mine.py:read", "--to", "conll")
    assert Path("o.conll").read_text() == "Lima\tB-place\n\n"
    [row], said = converted(tmp_path / "a.txt", "--from", "./mine.py:funding")
    assert (said["to"], row["funders"]) == ("funding", [])
    for text, wanted in (
        ("no", "a.txt: line 1 has no tab."),
        ("crash\tx", "the format ./mine.py:read failed: KeyError: 'x'"),
        ("odd\tx", "a reader gives rows of text and spans, funding_statement and funders"),
    ):
        Path("a.txt").write_text(text)
        done = run("a.txt", "-o", "o", "--from", "./mine.py:read")
        assert (done.exit_code, wanted in done.stderr) == (2, True), done.output
    done = run("a.txt", "-o", "o", "--from", "./mine.py:funding", "--to", "chat")
    assert "gives rows for funding, not for chat" in done.stderr


def test_the_example_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in named_files(ROOT / "docs" / "formats.md").items():
        Path(name).write_text(text)
    [row], said = converted(tmp_path / "titles.bib", "--from", "./bibfile.py:read")
    assert (row["text"], row["gold"]) == ("The harbour of Lima.", {"place": ["Lima"]})
    assert said["left_out"] == {"titles without their place": 1}


def test_the_page_and_the_help_name_every_format() -> None:
    page = (ROOT / "docs" / "formats.md").read_text()
    shown = CliRunner().invoke(app, ["data", "convert", "--help"]).stdout
    for name in (*FORMATS, *WRITERS):
        assert f"`{name}`" in page
        assert re.search(rf"\b{name}\b", shown), name


class Installed:
    """A plug-in as a package installs it: it is found by its records."""

    title = "the colours of somebody"

    def __call__(self, path: Path) -> Iterator[dict[str, Any]]:
        for record in json.loads(path.read_text()):
            yield {"messages": [{"role": "user", "content": record["colour"]}, {"role": "assistant", "content": "?"}]}

    def recognises(self, record: Any) -> bool:
        return isinstance(record, dict) and "colour" in record


def test_an_installed_format_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer = registry.Offer("paints", "1.0", "colours", f"{__name__}:Installed")
    monkeypatch.setattr(registry, "_offers", lambda kind, path: (offer,) if kind == "formats" else ())
    (tmp_path / "a").write_text('[{"colour": "red"}]')
    [row], said = converted(tmp_path / "a")
    assert (said["format"], said["to"], row["messages"][0]["content"]) == ("colours", "chat", "red")
    assert "read as the colours of somebody, 1 rows" in run(tmp_path / "a", "-o", tmp_path / "o").stdout


def test_iepile_records_keep_their_sources(tmp_path: Path) -> None:
    record = {**json.loads(FORMATS["iepile"].example), "task": "NER", "source": "news"}
    for form, arguments in ((json.dumps(record), []), (json.dumps([record]), ["--from", "iepile"])):
        (tmp_path / "a.json").write_text(form)
        [row], said = converted(tmp_path / "a.json", *arguments)
        assert (said["format"], row["source"], row["gold"]) == ("iepile", "news", {"person": ["Mira"]})
    assert converted(tmp_path / "a.json", "--source", "mine")[0][0]["source"] == "mine"
    done = run(tmp_path / "a.json", "-o", tmp_path / "o", "--to", "conll")
    assert (done.exit_code, (tmp_path / "o").read_text()) == (0, "Mira\tB-person\nflew\tO\n.\tO\n\n")
