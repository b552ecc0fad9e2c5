"""The `records` task: schemas, rows, prompts, targets, and what is said of wrong ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny import write_jsonl
from typer.testing import CliRunner

from adapters.cli.main import app
from adapters.data.load import load_examples
from adapters.data_aug.noise import noise_row, preset
from adapters.data_aug.receipts import synthesize
from adapters.errors import UserError
from adapters.evaluation.alignment import align
from adapters.extraction import adapter_source
from adapters.plugins.registry import resolve
from adapters.recipe.fields import PathSource, PluginSpec
from adapters.recipe.load import load_recipe
from adapters.rewards.records import Records
from adapters.rewards.records_schema import RECEIPT, SchemaError, compiled
from adapters.tasks.records import MAX_SHOWN, RecordsTask
from adapters.types import Aligned, Extracting, Task

TASK = "adapters.tasks.records:RecordsTask"
INVOICE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "vendor": {"type": "string", "x-normalise": "name"},
        "vat_id": {"type": ["string", "null"], "x-normalise": "id", "description": "of the  vendor"},
        "date": {"$ref": "#/$defs/day"},
        "total": {"type": "number", "minimum": 0, "x-tolerance": 0.01},
        "paid": {"type": "boolean"},
        "kind": {"const": "invoice"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["vendor", "vat_id", "total"],
    "$defs": {
        "day": {"type": "string", "format": "date"},
        "line": {"type": "object", "properties": {"what": {"type": "string"}, "n": {"type": "integer"}},
                 "required": ["what"]},
    },
}  # fmt: skip
MODELS = """from datetime import date
from pydantic import BaseModel, Field


class Line(BaseModel):
    what: str
    price: float | None = None


class Invoice(BaseModel):
    vendor: str = Field(json_schema_extra={"x-normalise": "name"})
    day: date | None = None
    lines: list[Line] = []


class Odd:
    pass
"""
RECIPE = """name: invoices
task:
  use: adapters.tasks.records:RecordsTask
  schema: %s
model: {base: none}
trainer: echo
stages:
  - kind: sft
    data: [{path: rows.jsonl}]
    batch_size: 2
    learning_rate: 1e-4
  - kind: grpo
    data: [{path: rows.jsonl}]
    batch_size: 2
    learning_rate: 1e-5
    rewards: ["adapters.rewards.records:Records"]
evaluate:
  - {name: seen, data: [{path: rows.jsonl}]}
"""


def row(**values: Any) -> dict[str, Any]:
    return {"id": "a", "text": "Bolt, 3.50", "object": {"vendor": "Bolt", "vat_id": None, "total": 3.5, **values}}


def test_it_is_a_task_that_extracts() -> None:
    assert isinstance(RecordsTask(), Task)
    assert isinstance(RecordsTask(), Extracting)


def test_a_row_becomes_a_prompt_with_the_schema_and_a_target_that_fits_it() -> None:
    task = RecordsTask(schema=INVOICE)
    made = row(lines=[{"n": 2.0, "what": "nut"}], date="2024-03-12", paid=None, kind="")
    example = task.example(made, id="a")
    assert task.node.shown() == (
        '{"vendor": text, "vat_id"?: text (of the vendor), "date"?: YYYY-MM-DD, "total": number, '
        '"paid"?: true | false, "kind"?: "invoice", "lines"?: [{"what": text, "n"?: integer}]}'
    )
    assert example.prompt[0]["content"].endswith(task.node.shown())
    assert example.prompt[1] == {"role": "user", "content": "Bolt, 3.50"}
    # The order of the schema; null where a field is required, nothing where it is not.
    wanted = '{"vendor":"Bolt","vat_id":null,"date":"2024-03-12","total":3.5,"lines":[{"what":"nut","n":2}]}'
    assert example.completion == wanted
    jsonschema.validate(json.loads(wanted), task.answer_schema())
    assert task.counts(example.gold, wanted)["values"]["(all)"] == (5, 5, 5)
    assert task.counts(example.gold, wanted)["objects"]["object"] == (1, 1, 1)
    short = RecordsTask(schema=INVOICE, system="", user="Read {schema}: {text}")
    [message] = short.prompt("{schema} {text}")
    assert message["content"] == f"Read {task.node.shown()}: {{schema}} {{text}}"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"vendor": None}, "vendor: None is not of type 'string'"),
        ({"total": "3.50"}, "total: '3.50' is not of type 'number'"),
        ({"total": -1}, "total: -1 is less than the minimum of 0"),
        ({"date": "12 March"}, "date: '12 March' is not a 'date'"),
        ({"date": "2024-W10-2"}, "date: '2024-W10-2' is not a 'date'"),
        ({"vat_id": 7}, "vat_id: 7 is not of type 'string'"),
        ({"lines": [{"what": "a"}, {"n": 1}]}, r"lines\[1\]: 'what' is a required property"),
        ({"lines": [{"what": "a", "size": 1}]}, r"lines\[0\].size: the schema has no such field \(it has what, n\)"),
        ({"colour": "red"}, "colour: the schema has no such field"),
        ({"kind": "bill"}, "kind: 'bill' is not one of"),
        ({"lines": {"what": "a"}}, "lines: .* is not of type 'array'"),
    ],
)
def test_an_object_that_does_not_fit_is_refused_with_its_place(values: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=f"the object does not fit the schema: {reason}"):
        RecordsTask(schema=INVOICE).gold(row(**values))


@pytest.mark.parametrize(("field", "value"), [("total", float("nan")), ("total", 10**400), ("at", "yesterday")])
def test_gold_that_no_answer_could_match_is_refused(field: str, value: Any) -> None:
    schema = json.loads(json.dumps(INVOICE))
    schema["properties"]["at"] = {"type": "string", "format": "date-time"}
    with pytest.raises(ValueError, match=f"a value that no answer could match: {field}: "):
        RecordsTask(schema=schema).gold(row(**{field: value}))


def test_fields_may_be_named_as_the_figures_are() -> None:
    names = ("all", "readable", "precision", "object", "gold", "values")
    task = RecordsTask(schema={"type": "object", "properties": {name: {"type": "string"} for name in names}})
    example = task.example({"text": "x", **dict.fromkeys(names, "x")}, id="a")
    assert example.gold == dict.fromkeys(names, "x")
    assert task.counts(example.gold, '{"all": "x", "gold": "y"}')["values"]["(all)"] == (6, 2, 1)
    parts = Records()('{"precision": "x", "gold": "y"}', example).parts
    assert (parts["precision"], parts["readable"], parts["precision f1"]) == (0.5, 1, 1)
    assert [label.path for label in task.labels({"text": "x", "gold": "x"})] == [("gold",)]


def test_a_forgotten_schema_is_said() -> None:
    with pytest.raises(ValueError, match="schema of receipts, which the task reads without the parameter schema: "):
        RecordsTask().gold(row())


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"id": "a"}, "neither a column object"),
        ({"object": "{"}, "object is text, but not JSON"),
        ({"object": [1]}, "object must be an object"),
        ({"gold": 3}, "gold must be an object"),
        ({"object": {}}, "'vendor' is a required property"),
        ({"vendor": "a", "total": "many"}, "total: 'many' is not of type 'number'"),
        ({"vendor": "a", "total": "1", "lines": "none"}, "lines is text, but not JSON"),
    ],
)
def test_a_row_without_an_object_says_what_it_lacks(given: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RecordsTask(schema=INVOICE).gold(given)


def test_a_table_may_hold_json_or_a_column_for_each_field(tmp_path: Path) -> None:
    wanted = {"vendor": "Bolt", "vat_id": None, "date": "2024-03-12", "total": 1200.5, "paid": True,
              "kind": "invoice", "lines": [{"what": "nut", "n": 2}]}  # fmt: skip
    flat = {"vendor": "Bolt", "vat_id": "", "date": "12.03.2024", "total": "1,200.50", "paid": "TRUE",
            "kind": "invoice", "lines": '[{"what": "nut", "n": 2}]'}  # fmt: skip
    for name, cells in (
        ("flat", flat),
        ("json", {"object": json.dumps(wanted)}),
        ("gold", {"gold": json.dumps(wanted)}),
    ):
        path = tmp_path / f"{name}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "text", *cells])
            writer.writeheader()
            writer.writerow({"id": "a", "text": "Bolt", **cells})
        task = RecordsTask(schema={**INVOICE, "required": ["vendor", "vat_id"]})
        [example] = load_examples([PathSource(path=path.name)], task, root=tmp_path, seed=0).examples
        assert example.gold == wanted, name


def test_a_bad_row_is_named_with_its_line_and_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [row(), row(lines=[{"what": 7}])])
    with pytest.raises(
        UserError, match=r"row 2: the object does not fit the schema: lines\[0\].what: 7 is not of type"
    ):
        load_examples([PathSource(path="rows.jsonl")], RecordsTask(schema=INVOICE), root=tmp_path, seed=0)


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ((), {"type": "array", "items": {"type": "string"}}, "a record is an object, and this schema describes an arr"),
        (
            (),
            {"type": ["object", "null"], "properties": {"a": {"type": "string"}}},
            "a record is an object, never null",
        ),
        ((), {"type": "object"}, "it names no field; give properties"),
        (("type",), "objekt", "type: 'objekt' is not valid under any of the given schemas"),
        (("properties", "date"), {"$ref": "other.json#/day"}, r"properties.date.\$ref: other.json#/day is not in this"),
        (("properties", "date"), {"$ref": "#/$defs/nought"}, r"#/\$defs/nought is not in this schema"),
        (("properties", "date"), {"oneOf": []}, "oneOf: .* (non-empty|too short)"),
        (("properties", "date"), {"oneOf": [{"type": "string"}]}, "properties.date.oneOf: the keyword oneOf is not"),
        (("properties", "date"), {"anyOf": [{"type": "string"}, {"type": "number"}]}, "only one beside null"),
        (("properties", "date"), {"type": ["string", "number"]}, "properties.date.type: of several types only one"),
        (("properties", "date"), {}, "properties.date: it needs a type"),
        (("properties", "date"), {"type": "null"}, "properties.date: it needs a type"),
        (("properties", "date"), True, "properties.date: a schema is an object, not True"),
        (("properties", "date"), {"enum": [["a"]]}, "lists and objects are not supported as values of an enum"),
        (("properties", "date"), {"enum": [None]}, "it allows no value but null"),
        (("properties", "lines"), {"type": "array"}, "properties.lines: a list needs items"),
        (
            ("properties", "lines"),
            {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            "lists is",
        ),
        (("properties", "vendor", "x-normalise"), "loose", "x-normalise: must be one of exact, text, name, id"),
        (("properties", "vendor", "x-normalize"), "id", "the keyword is not x-normalize, but x-normalise or x-toler"),
        (("properties", "total", "x-tolerance"), -1, "x-tolerance: must be a number from 0 on"),
        (("additionalProperties",), {"type": "string"}, "additionalProperties: fields without a name"),
        (("required",), ["vendor", "sum"], "required: 'sum' is not among the properties"),
        (("$defs", "day"), {"$ref": "#/$defs/day"}, r"#/\$defs/day leads to itself"),
        (("$defs", "line", "properties", "n"), {"$ref": "#/$defs/line"}, "leads to itself"),
    ],
)
def test_a_wrong_schema_is_named_with_its_place(place: tuple, value: Any, fault: str) -> None:
    schema = json.loads(json.dumps(INVOICE))
    node = schema
    for part in place[:-1]:
        node = node[part]
    if place:
        node[place[-1]] = value
    else:
        schema = value
    with pytest.raises(SchemaError, match=fault) as caught:
        RecordsTask(schema=schema)
    assert caught.value.at[: 1 + len(place)] == ("schema", *place) or "$defs" in place


def test_a_schema_is_bounded() -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(20):
        deep = {"type": "object", "properties": {"a": deep}}
    with pytest.raises(SchemaError, match="more than 16 levels"):
        compiled(deep)
    with pytest.raises(SchemaError, match="600 fields; the limit is 500"):
        compiled({"type": "object", "properties": {f"f{n}": {"type": "string"} for n in range(600)}})
    wide = {f"field_{n}": {"type": "string", "description": "x" * 100} for n in range(80)}
    with pytest.raises(ValueError, match=rf"characters in the prompt; the limit is {MAX_SHOWN:,}"):
        RecordsTask(schema={"type": "object", "properties": wide})
    assert RecordsTask(schema={"type": "object", "properties": wide}, system="Read.").node.fields


def spec(schema: Any) -> PluginSpec:
    return PluginSpec.model_validate({"use": TASK, "schema": schema})


def test_a_schema_may_be_a_file_a_class_or_itself(tmp_path: Path) -> None:
    (tmp_path / "invoice.schema.json").write_text(json.dumps(INVOICE))
    (tmp_path / "models.py").write_text(MODELS)
    assert resolve("tasks", spec("invoice.schema.json"), folder=tmp_path).schema == INVOICE
    assert resolve("tasks", spec(INVOICE)).schema == INVOICE
    of_class = resolve("tasks", spec("./models.py:Invoice"), folder=tmp_path)
    assert of_class.node.shown() == (
        '{"vendor": text, "day"?: YYYY-MM-DD, "lines"?: [{"what": text, "price"?: number}]}'
    )
    assert of_class.node.fields["vendor"].normaliser == "name"
    assert Records(schema=of_class.schema)('{"vendor": "x"}', of_class.example({"text": "x", "vendor": "X"})).score == 1


@pytest.mark.parametrize(
    ("given", "text", "fault"),
    [
        ("nought.json", None, "there is no file .*nought.json. Known: invoice.schema.json"),
        ("invoice.schema.json", '{"type": "object",\n  oops}', "invoice.schema.json, line 2: not valid JSON"),
        ("invoice.schema.json", "[]", "input should be a valid"),
        ("invoice.schema.json", "\x80", "cannot be read|not valid JSON"),
        (
            "invoice.schema.json",
            '{"type": "object",\n "properties": {\n  "a": {"type": "string"},\n  "b": {"oneOf": [{"type": "null"}]}}}',
            "invoice.schema.json, line 4: properties.b.oneOf: the keyword oneOf is not supported",
        ),
        ("./models.py:Nought", None, "models.py has no Nought"),
        ("./models.py:Odd", None, "./models.py:Odd has no JSON Schema"),
    ],
)
def test_a_wrong_schema_file_is_named_with_its_line(tmp_path: Path, given: str, text: str | None, fault: str) -> None:
    (tmp_path / "invoice.schema.json").write_text(text or json.dumps(INVOICE), encoding="latin-1")
    (tmp_path / "models.py").write_text(MODELS)
    with pytest.raises(UserError, match=fault) as caught:
        resolve("tasks", spec(given), folder=tmp_path, at=("task",))
    assert caught.value.at == ("task", "schema")


def test_a_wrong_schema_in_the_recipe_is_named_with_the_recipes_line(tmp_path: Path) -> None:
    path = tmp_path / "invoices.yaml"
    path.write_text(
        RECIPE % "\n    type: object\n    properties:\n      total: {type: number}\n      tax: {allOf: [{}]}"
    )
    file = load_recipe(path)
    with pytest.raises(UserError) as caught:
        resolve("tasks", file.recipe.task, folder=file.folder, at=("task",))
    assert file.locate(caught.value).startswith(f"{path}:8: task.schema.properties.tax.allOf: ")


@pytest.mark.slow
def test_a_run_keeps_its_schema_and_check_names_unfilled_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "invoice.schema.json").write_text(json.dumps(INVOICE))
    (tmp_path / "invoices.yaml").write_text(RECIPE % "invoice.schema.json")
    write_jsonl(
        tmp_path / "rows.jsonl",
        [{**row(paid=True, kind="invoice", date="2024-01-02"), "id": str(n), "text": f"Bolt {n}"} for n in range(4)],
    )
    checked = json.loads(CliRunner().invoke(app, ["check", "invoices.yaml", "--json"]).stdout)
    assert checked["errors"] == []
    place = "invoices.yaml:4: task.schema.properties."
    for field, inside in {"vat_id": "vat_id", "lines[].n": "lines.items.properties.n"}.items():
        assert f"{place}{inside}: the field {field} is filled in none of 8 training rows" in checked["warnings"]
    assert not [w for w in checked["warnings"] if "the field date" in w]
    result = CliRunner().invoke(app, ["run", "invoices.yaml", "stages.1.rewards.0.schema=invoice.schema.json"])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "runs/invoices/report.json").read_text())["sets"]["seen"]
    assert report["2-grpo"]["metrics"]["values"]["(all)"]["f1"] == 1
    assert report["2-grpo"]["rewards"]["Records"]["mean"] == 1
    assert report["base"]["metrics"]["values"]["(all)"]["f1"] == 0
    (tmp_path / "invoice.schema.json").write_text("{}")  # the run goes on with the schema that it was trained with
    kept = json.loads((tmp_path / "runs/invoices/recipe.json").read_text())
    assert kept["task"]["schema"] == kept["stages"][1]["rewards"][0]["schema"] == INVOICE
    manifest = json.loads((tmp_path / "runs/invoices/1-sft/manifest.json").read_text())
    assert manifest["task"]["schema"] == INVOICE
    assert adapter_source.find("runs/invoices").task.answer_schema() == RecordsTask(schema=INVOICE).answer_schema()


def test_what_an_engine_is_constrained_by_is_plain_and_closed() -> None:
    schema = RecordsTask(schema=INVOICE).answer_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "$ref" not in json.dumps(schema)
    assert "x-" not in json.dumps(schema)
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == list(INVOICE["properties"])
    assert schema["properties"]["vat_id"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert schema["properties"]["total"] == {"type": "number", "minimum": 0}


def test_an_extracted_answer_is_read_as_it_is_scored() -> None:
    task = RecordsTask(schema=INVOICE)
    found = task.record(task.decode('Sure:\n```json\n{"total": 2, "vat_id": null, "vendor": "a", "lines": []}\n```'))
    assert found == {"vendor": "a", "vat_id": None, "total": 2}
    spelled = '{"vendor": 7, "vat_id": "", "total": "1,200.50", "date": "12 March 2024", "lines": [{"what": 1.5}]}'
    wanted = {"vendor": "7", "vat_id": "", "date": "2024-03-12", "total": 1200.5, "lines": [{"what": "1.5"}]}
    assert task.record(task.decode(spelled)) == wanted
    for text, fault in (
        ('{"vendor": "a"', "not JSON"),
        ("[]", "not JSON: there is no object"),
        ('{"vendor": "a"}', "wrong shape: 'vat_id' is a required"),
        ('{"vendor": "a", "vat_id": "", "total": "two"}', "wrong shape: total: 'two' is not of type 'number'"),
        ('{"vendor": {"a": 1}, "vat_id": "", "total": [2]}', "wrong shape: total: "),
    ):
        with pytest.raises(ValueError, match=fault):
            task.record(task.decode(text))
    with pytest.raises(ValueError, match="no text: text is missing or empty"):
        task.request({"text": " "})
    assert task.request({"text": "a"}) == task.prompt("a")


def test_values_are_aligned_as_they_are_counted() -> None:
    task = RecordsTask(schema=INVOICE)
    gold = task.gold(row(lines=[{"what": "nut", "n": 1}, {"what": "bolt"}]))
    said = '{"vendor": "BOLT", "total": "3,51", "lines": [{"what": "bolts"}, {"n": 1, "what": "screw"}], "x": {"y": 1}}'
    rows = align(task, gold, said)
    assert rows == [
        Aligned("vendor", "Bolt", "BOLT", True),
        Aligned("total", "3.5", "3,51", True),
        Aligned("lines[].what", "nut", "screw", False),
        Aligned("lines[].n", "1", "1", True),
        Aligned("lines[].what", "bolt", None),
        Aligned("lines[].what", None, "bolts"),
        Aligned("(not in the schema)", None, "1"),
    ]
    whole = task.counts(gold, said)["values"]["(all)"]
    assert (whole.gold, whole.pred, whole.matched) == (5, 6, sum(r.matched for r in rows))
    assert task.counts(gold, said)["objects"]["object"] == (1, 1, 0)
    assert task.counts([], said)["objects"]["object"] == (0, 1, 0), "a prediction without gold"


def test_wrong_objects_earn_less_than_gold() -> None:
    task, tried = RecordsTask(), set()
    for made in synthesize(20, 3):
        example = task.example(made, id="x")
        assert Records()(example.completion or "", example).score == 1
        for name, text in task.adversarial(example).items():
            tried.add(name)
            assert Records()(text, example).score < 1, (name, text)  # type: ignore[operator]
    wanted = {"invented field", "one field missing", "an item twice", "one item missing", "wrong number", "wrong text"}
    assert tried == wanted


def test_noise_spares_values_and_rewrites_strings() -> None:
    task, noise = RecordsTask(), preset("ocr", level="heavy")
    changed = 0
    for made in synthesize(40, 4):
        spared = noise_row(made, noise, seed=1, policy="protect", field="text", labels=task.labels).row
        changed += spared["text"] != made["text"]
        assert spared["object"] == made["object"]
        for item in made["object"]["items"]:
            forms = {f"{item['price']:,.2f}", f"{item['price']:,.2f}".translate(str.maketrans(",.", ".,"))}
            assert any(form in spared["text"] for form in forms), spared["text"]
        followed = noise_row(made, noise, seed=1, policy="follow", field="text", labels=task.labels).row
        assert task.gold(followed)["total"] == made["object"]["total"]
    assert changed > 30


def test_receipts_depend_on_seed_and_row_alone() -> None:
    rows = list(synthesize(30, 7))
    assert rows[:10] == list(synthesize(10, 7))
    assert rows != list(synthesize(30, 8))
    task = RecordsTask()
    for made in rows:
        gold = task.gold(made)
        assert gold == made["object"], "labels fit the schema and stand in its order"
        folded = made["text"].casefold()
        assert all(str(item["name"]).casefold() in folded for item in gold["items"])
        assert ("number" in gold) == (gold.get("number", "?") in made["text"])
    texts = [made["text"] for made in rows]
    assert len(set(texts)) == len(texts)
    assert not set(texts) & {made["text"] for made in synthesize(200, 1000)}


def test_the_recipe_has_the_schema_of_the_receipts() -> None:
    file = load_recipe(Path(__file__).parents[2] / "recipes" / "records_smollm2.yaml")
    assert file.recipe.task.params["schema"] == RECEIPT


def test_a_reward_is_tried_and_scored_on_rows_of_its_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoice.schema.json").write_text(json.dumps(INVOICE))
    rows = [{**row(), "id": str(n), "text": f"Bolt {n}", "completion": '{"vendor": "bolt"}'} for n in range(3)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    given = ["adapters.rewards.records:Records", "--task", TASK, "--set", "schema=invoice.schema.json"]
    tried = CliRunner().invoke(app, ["rewards", "test", *given, "--data", "rows.jsonl", "--json"])
    assert tried.exit_code == 0, tried.output
    assert json.loads(tried.stdout)["variants"]["gold"]["mean"] == 1
    scored = CliRunner().invoke(app, ["rewards", "score", given[0], "rows.jsonl", *given[1:]])
    assert json.loads(scored.stdout.splitlines()[0])["reward"] == pytest.approx(2 / 3)
    without = CliRunner().invoke(app, ["rewards", "test", *given])
    assert without.exit_code == 2
    assert "Give rows of your own: --data FILE" in without.stderr


def test_the_file_of_a_schemas_class_is_listed_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.py").write_text("raise SystemExit('imported')")
    (tmp_path / "invoices.yaml").write_text(RECIPE % "./models.py:Invoice")
    shown = CliRunner().invoke(app, ["check", "invoices.yaml", "--no-import"])
    assert shown.exit_code == 0, shown.output
    assert f"imports for its schema\n  {tmp_path / 'models.py'}" in shown.stdout
