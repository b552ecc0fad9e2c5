"""`adapters extract` with entities and relations: where the labels come from, and what the records are."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
from tiny import ie_rows, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.cli import main
from adapters.data.examples import prompt_key
from adapters.files import sha256, write_json
from adapters.tasks.ie import IeTask

COMPACT = {"use": "ie", "target": "compact", "missing_answer": "whole"}


def echo_adapter(folder: Path, rows: list[dict], task: dict) -> Path:
    """A published folder, without recipe or manifest of a run, of the backend that remembers its rows."""
    folder.mkdir(parents=True)
    reader = IeTask(**{k: v for k, v in task.items() if k != "use"})
    examples = [reader.example(row, id=row["id"]) for row in rows]
    (folder / adapter_folder.WEIGHTS).write_text(json.dumps({prompt_key(e): e.completion for e in examples}))
    (folder / adapter_folder.CONFIG).write_text(json.dumps({"peft_type": "ECHO", "base_model_name_or_path": "me/base"}))
    files = {name: sha256(folder / name) for name in (adapter_folder.WEIGHTS, adapter_folder.CONFIG)}
    told = {"task": task, "thinking": False, "model": {"base": "me/base"}}
    write_json(folder / adapter_folder.MANIFEST, {**told, "files": files})
    return folder


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, ["extract", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def expected(row: dict) -> list[dict]:
    found = [(label, text) for label, texts in row["gold"].items() for text in texts]
    return [{"label": label, "text": text, "head": None, "tail": None} for label, text in sorted(found)]


@pytest.mark.parametrize("task", [{"use": "ie"}, COMPACT])
def test_each_row_s_own_labels(tmp_path: Path, task: dict) -> None:
    rows = ie_rows(12)
    known = echo_adapter(tmp_path / "bundle", rows, task)
    corpus = write_jsonl(tmp_path / "in.jsonl", [{k: r[k] for k in ("id", "text", "schema")} for r in rows])
    code, said = invoke(known, corpus, "-o", tmp_path / "out.jsonl")
    assert code == 0, said
    out = lines(tmp_path / "out.jsonl")
    assert [r["record"] for r in out] == [expected(row) for row in rows]
    for r in out:
        jsonschema.validate(r["record"], IeTask().record_schema())
    assert "12 records (2 of them empty)" in said


def test_labels_for_all_rows_and_parquet(tmp_path: Path) -> None:
    rows = ie_rows(12)
    known = echo_adapter(tmp_path / "bundle", rows, COMPACT)
    corpus = tmp_path / "in.csv"
    corpus.write_text("id,passage\n" + "".join(f"{r['id']},{r['text']}\n" for r in rows))
    labels = ("--set", "schema=[person, place, thing]")
    code, said = invoke(known, corpus, "-o", tmp_path / "out.parquet", "--text", "passage", *labels)
    assert code == 0, said
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["record"].to_pylist() == [expected(row) for row in rows]
    again = (known, corpus, "-o", tmp_path / "out.parquet", "--text", "passage", "--set", "schema=[person]")
    code, said = invoke(*again)
    assert (code, "with other settings: task was" in said) == (2, True)


def test_relations(tmp_path: Path) -> None:
    row = {"id": "r", "task": "RE", "text": "Ada moved to Turin .", "schema": ["lives in", "works for"]}
    row["gold"] = {"lives in": [{"head": "Ada", "tail": "Turin"}]}
    known = echo_adapter(tmp_path / "bundle", [row], COMPACT)
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"text": row["text"]}])
    code, said = invoke(
        known, corpus, "-o", tmp_path / "o.jsonl", "--set", f"schema={row['schema']}", "--set", "kind=RE"
    )
    assert code == 0, said
    assert lines(tmp_path / "o.jsonl")[0]["record"] == [
        {"label": "lives in", "text": None, "head": "Ada", "tail": "Turin"}
    ]


def test_a_corpus_without_labels_is_refused_at_once(tmp_path: Path) -> None:
    known = echo_adapter(tmp_path / "bundle", ie_rows(2), COMPACT)
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"text": "A b"}])
    code, said = invoke(known, corpus, "-o", tmp_path / "o.jsonl")
    assert code == 2
    assert "no column schema" in said
    assert "--set 'schema=[person, place]'" in said
    code, said = invoke(known, corpus, "-o", tmp_path / "o.jsonl", "--set", "schema=[person, person]")
    assert (code, "names a label twice" in said) == (2, True)
    code, said = invoke(known, corpus, "-o", tmp_path / "o.jsonl", "--set", "schema=person")
    assert code == 2, said
    assert not (tmp_path / "o.jsonl").exists()


def test_a_row_without_labels_says_so(tmp_path: Path) -> None:
    rows = ie_rows(1)
    known = echo_adapter(tmp_path / "bundle", rows, COMPACT)
    bad: list[dict] = [{"schema": None}, {"schema": "person"}, {"schema": []}, {"schema": ["a"], "task": "QA"}]
    corpus = write_jsonl(tmp_path / "in.jsonl", [{"text": rows[0]["text"], **b} for b in bad])
    assert invoke(known, corpus, "-o", tmp_path / "o.jsonl")[0] == 0
    assert [r["error"].partition(":")[0] for r in lines(tmp_path / "o.jsonl")] == ["no schema"] * 4


@pytest.mark.parametrize(
    ("task", "text", "record", "error"),
    [
        ({}, '<think>x</think><answer>{"p": ["A", "A "]}</answer>', [("p", "A")], None),
        ({}, '{"p": ["A"]}', None, "no answer"),
        ({}, "<answer>[1]</answer>", None, "wrong shape"),
        ({}, "<answer>{'p': []}</answer>", None, "not JSON"),
        ({"missing_answer": "whole"}, '{"p": [1, null, "A"]}', [("p", "A")], None),
        ({"missing_answer": "whole"}, "", None, "not JSON"),
        ({"missing_answer": "whole"}, "[" * 100_000, None, "no answer"),
        ({"casefold": True}, '<answer>{"P": ["A"]}</answer>', [("P", "A")], None),
    ],
)
def test_an_answer_is_read_as_the_scorer_reads_it(task: dict, text: str, record: object, error: str | None) -> None:
    reader = IeTask(**task)
    if error:
        with pytest.raises(ValueError, match=error):
            reader.decode(text)
    else:
        assert [(r["label"], r["text"]) for r in reader.record(reader.decode(text))] == record


def test_what_a_model_writes_fits_the_schema_it_may_be_held_to() -> None:
    assert IeTask().answer_schema() is None, "it thinks first"
    for target in ("bare", "compact"):
        task = IeTask(target=target, missing_answer="whole")
        for row in ie_rows(10):
            jsonschema.validate(json.loads(task.example(row).completion), task.answer_schema())


def test_training_rows_may_leave_their_schema_to_the_task() -> None:
    row = {"text": "Ada came .", "gold": {}}
    example = IeTask(schema=("person", "place"), kind="NER").example(row)
    assert '["person", "place"]' in example.prompt[-1]["content"]
    assert example.gold == {"person": [], "place": []}
    with pytest.raises(ValueError, match="not in the schema"):
        IeTask(schema=("person",), kind="NER").example({"text": "Ada", "gold": {"place": ["Ada"]}})


def test_an_agent_does_not_extract(tmp_path: Path) -> None:
    known = echo_adapter(tmp_path / "bundle", ie_rows(1), {"use": "ie"})
    code, said = invoke(known, write_jsonl(tmp_path / "i.jsonl", [{}]), "-o", tmp_path / "o.jsonl", "--task", "agent")
    assert code == 2
    assert "'agent' does not extract from texts" in said
    assert "adapters eval" in said
