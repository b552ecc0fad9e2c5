"""Confidence: calibrated on labelled rows, kept with the adapter, added to extractions, used to leave values out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import test_engines
from test_engines import Server, said
from test_extract import TASK, echo_adapter, lines
from tiny import echo_recipe, funding_rows, store_calibration, write_jsonl
from typer.testing import CliRunner

from adapters.backends import adapter_folder
from adapters.backends.constraint import Constraint
from adapters.cli.main import app
from adapters.data.examples import prompt_key
from adapters.errors import UserError
from adapters.evaluation import calibration
from adapters.extraction import adapter_source, calibrating, engines, session
from adapters.extraction.confidence import Confidence, told
from adapters.extraction.engine import Answer, Options
from adapters.extraction.sure_record import without
from adapters.files import read_json, write_json
from adapters.pipeline.run_folder import RunFolder
from adapters.report import write_view
from adapters.report.page import render
from adapters.types import TokenScores


def call(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def invented(row: dict) -> str:
    """An answer with a funder, and an id, that are not in the text, beside what is right."""
    more = {"funder_name": "Agency for Unfounded Claims", "awards": [{"award_ids": ["ZZ-0"]}]}
    return TASK.answer(TASK.gold({"funders": [*row["funders"], more]}))


def half_wrong(folder: Path, rows: list[dict]) -> Path:
    """An adapter that invents a funder in every second answer."""
    adapter = echo_adapter(folder, rows)
    known = json.loads((adapter / adapter_folder.WEIGHTS).read_text())
    known |= {prompt_key(TASK.example(row)): invented(row) for row in rows[::2]}
    (adapter / adapter_folder.WEIGHTS).write_text(json.dumps(known))
    (adapter / adapter_folder.MANIFEST).unlink()
    (adapter / "recipe.yaml").write_text("task: {use: funding, target: compact}\nmodel: {base: me/base}\n")
    return adapter


server = test_engines.server


@pytest.fixture
def rows() -> list[dict]:
    return funding_rows(80)


@pytest.fixture
def adapter(tmp_path: Path, rows: list[dict]) -> Path:
    return half_wrong(tmp_path / "adapter", rows)


@pytest.fixture
def given(tmp_path: Path, rows: list[dict]) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", rows)


def calibrated(adapter: Path, given: Path, *options: object) -> dict[str, Any]:
    code, said = call("calibrate", adapter, given, "--json", *options)
    assert code == 0, said
    return json.loads(said.splitlines()[-1])


@pytest.mark.slow
def test_an_adapter_is_calibrated_and_says_how_sure_it_is(tmp_path: Path, adapter: Path, given: Path) -> None:
    counts = calibrated(adapter, given)
    values = counts["figures"]["values"]
    assert (counts["rows"], counts["way"], values["rows"]) == (80, "tokens", 64 + 8)
    assert 0.5 < values["precision"] < 0.9
    assert values["auroc"]["value"] > 0.95 > values["auroc_before"]["value"], "what is not in the text is wrong"
    assert values["ece"]["value"] < 0.1 < values["ece_before"]["value"]
    assert values["drop_tenth"]["ci"][0] > 0
    assert values["at_precision"]["0.95"]["kept"] > 0.95
    stored = read_json(adapter / "calibration.json")
    assert list(stored["ways"]) == ["tokens"]
    assert stored["ways"]["tokens"]["figures"] == counts["figures"]
    again = calibrated(adapter, given)
    assert again == counts, "stored"
    (adapter / "calibration.json").unlink()
    assert {**calibrated(adapter, given), "seconds": counts["seconds"]} == counts, "fitted again from the evidence"
    assert read_json(adapter / "calibration.json") == stored

    code, said = call("extract", adapter, given, "-o", tmp_path / "out.jsonl")
    assert code == 0, said
    out = lines(tmp_path / "out.jsonl")
    sure = {
        match: [s["confidence"] for row in out for s in row["spans"] if (s["match"] == "absent") == match]
        for match in (True, False)
    }
    assert max(sure[True]) < 0.3 < 0.7 < min(sure[False])
    assert out[0]["confidence"] < 0.5 < out[1]["confidence"]
    assert "unsure" not in out[0]
    page = write_view(tmp_path / "out.jsonl").read_text()
    assert '"sure": "confidence"' in page or '"sure":"confidence"' in page


@pytest.mark.slow
def test_values_that_are_not_sure_enough_are_left_out(
    tmp_path: Path, adapter: Path, given: Path, rows: list[dict]
) -> None:
    calibrated(adapter, given)
    only = {**rows[0], "funders": [], "id": "alone", "funding_statement": "Thanks to nobody in particular."}
    known = json.loads((adapter / adapter_folder.WEIGHTS).read_text())
    known[prompt_key(TASK.example(only))] = invented(only)
    (adapter / adapter_folder.WEIGHTS).write_text(json.dumps(known))
    code, said = call("extract", adapter, given, "-o", tmp_path / "x.jsonl", "--min-confidence", "0.5")
    assert (code, "is of other weights than the adapter's" in said) == (2, True)
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*rows, only])
    calibrated(adapter, given, "--fresh")
    code, said = call("extract", adapter, corpus, "-o", tmp_path / "out.jsonl", "--min-confidence", "0.5")
    assert code == 0, said
    assert "left out as unsure: 82 values" in said
    *out, last = lines(tmp_path / "out.jsonl")
    some = [(row, line) for row, line in zip(rows, out, strict=True) if row["funders"]]
    assert all(line["record"] == TASK.gold(row) for row, line in some)
    assert [value["value"] for value in out[0]["unsure"]] == ["Agency for Unfounded Claims", "ZZ-0"]
    assert all(span["confidence"] >= 0.5 for line in out for span in line["spans"] or ())
    assert (last["record"], last["spans"], len(last["unsure"])) == (None, None, 2)
    assert last["error"].startswith("unsure: none of its values has a confidence of 0.5 (the highest: 0.")
    assert last["completion"] == invented(only)
    code, said = call("extract", adapter, corpus, "-o", tmp_path / "out.parquet", "--min-confidence", "0.5")
    assert code == 0, said
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["unsure"] for row in table] == [row["unsure"] for row in (*out, last)]
    assert [row["confidence"] for row in table] == [row["confidence"] for row in (*out, last)]
    code, said = call("extract", adapter, corpus, "-o", tmp_path / "out.jsonl", "--min-confidence", "0.6")
    assert (code, "confidence was" in said) == (2, True)


@pytest.mark.slow
def test_a_vote_has_a_calibration_of_its_own(
    tmp_path: Path, adapter: Path, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrated(adapter, given)
    counts = calibrated(adapter, given, "--samples", "3")
    assert counts["way"] == "vote of 3 at 0.8"
    assert list(read_json(adapter / "calibration.json")["ways"]) == ["tokens", "vote of 3 at 0.8"]
    evidence = lines(adapter / "calibration-vote-of-3-at-0.8.jsonl")
    assert {value["raw"] for line in evidence for value in line["values"]} == {1.0}, "the echo is of one mind"
    code, said = call(
        "extract", adapter, given, "-o", tmp_path / "o.jsonl", "--samples", "3", "--min-confidence", "0.5"
    )
    assert code == 0, said
    assert lines(tmp_path / "o.jsonl")[0]["confidence"] is not None
    code, said = call(
        "extract", adapter, given, "-o", tmp_path / "p.jsonl", "--samples", "4", "--min-confidence", "0.5"
    )
    assert (code, "no calibration for answers by vote of 4 at 0.8 (it has one for: tokens, vote of 3" in said) == (
        2,
        True,
    )


@pytest.mark.slow
def test_other_rows_are_only_measured(tmp_path: Path) -> None:
    # Statements of a few patterns nearly repeat each other; these do not.
    rows = [
        {**row, "funding_statement": f"{row['funding_statement']} {random.Random(n).randbytes(80).hex()}."}
        for n, row in enumerate(funding_rows(120))
    ]
    adapter = half_wrong(tmp_path / "adapter", rows)
    given, test = write_jsonl(tmp_path / "a.jsonl", rows[:70]), write_jsonl(tmp_path / "t.jsonl", rows[65:])
    counts = calibrated(adapter, given, "--test", test)
    assert (counts["rows"], counts["measured"]) == (70, 50)
    assert counts["left_out"]["test rows among the rows"] == 5
    assert list(counts["figures"]) == ["values", "records", "test values", "test records"]
    measured = counts["figures"]["test values"]
    assert measured["rows"] < 50
    assert measured["auroc"]["value"] > 0.95
    assert measured["drop_tenth"]["ci"][0] > 0
    code, said = call("calibrate", adapter, given, "--test", test)
    assert code == 0
    of_test = said[said.index("test values: ") :]
    assert "  at 95 % precision            recall 1.000, 100.0% of the right ones, from confidence 0." in of_test
    assert "left out: 5 test rows among the rows" in said
    assert read_json(adapter / "calibration.json")["ways"]["tokens"]["test"] == "t.jsonl"


def test_interrupted_work_goes_on(adapter: Path, given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, asked = engines.make, []

    def failing(*arguments: Any) -> Any:
        engine = make(*arguments)

        def answer(requests: Any) -> Any:
            for n, one in enumerate(engine(requests)):
                asked.append(one.row)
                if n == 30 and len(asked) == 31:
                    raise RuntimeError("the machine went away")
                yield one

        return answer

    monkeypatch.setattr(engines, "make", failing)
    code, said = call("calibrate", adapter, given)
    assert (code, "the machine went away" in said) == (1, True)
    counts = calibrated(adapter, given)
    assert counts["rows"] == 80
    assert len(asked) == 81
    assert [line["row"] for line in lines(adapter / "calibration-tokens.jsonl")] == list(range(1, 81))


def test_a_constraint_to_the_text_knows_the_text(
    adapter: Path, given: Path, rows: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, texts = engines.make, []

    def reading(name: str, source: Any, options: Any, note: Any) -> Any:
        assert (options.constrain, options.scored) == ("source", True)
        engine = make(name, source, options, note)
        return lambda requests: engine(texts.append(one.text) or one for one in requests)

    monkeypatch.setattr(engines, "make", reading)
    monkeypatch.setattr(session, "constraint_of", lambda *_, **__: Constraint("source", TASK.answer_schema()))
    counts = calibrated(adapter, given, "--constrain", "source")
    assert texts == [row["funding_statement"] for row in rows]
    assert counts["way"] == "tokens, words of the text"
    assert (adapter / "calibration-tokens-words-of-the-text.jsonl").is_file()
    assert list(read_json(adapter / "calibration.json")["ways"]) == ["tokens, words of the text"]


@pytest.mark.slow
def test_a_server_without_grammars_is_calibrated_as_it_answers(
    tmp_path: Path, adapter: Path, given: Path, server: Server, rows: list[dict]
) -> None:
    known = json.loads((adapter / adapter_folder.WEIGHTS).read_text())
    prompts = {json.dumps(TASK.example(row).prompt): known[prompt_key(TASK.example(row))] for row in rows}
    server.answer = lambda body: said(prompts.get(json.dumps(body["messages"]), "[]"))
    asked = ("--endpoint", server.url, "--samples", "2", "--constrain", "source")
    assert calibrated(adapter, given, *asked)["way"] == "vote of 2 at 0.8"
    assert list(read_json(adapter / "calibration.json")["ways"]) == ["vote of 2 at 0.8"]
    assert (adapter / "calibration-vote-of-2-at-0.8.jsonl").is_file()
    code, told = call("extract", adapter, given, "-o", tmp_path / "o.jsonl", *asked, "--min-confidence", "0.5")
    assert code == 0, told
    assert json.loads((tmp_path / "o.jsonl.manifest.json").read_text())["settings"]["confidence"]["way"] == (
        "vote of 2 at 0.8"
    )
    source = adapter_source.find(str(adapter))
    (adapter / "calibration.json").unlink()
    gone = session.Session.open(source, "x", Options(endpoint="http://127.0.0.1:9/v1", constrain="source"), samples=2)
    assert gone.confidence(None, grounded=True) is None, "a server is asked only where there is a calibration"


def test_rows_too_long_for_one_prompt_are_left_out(
    tmp_path: Path, adapter: Path, given: Path, server: Server, rows: list[dict]
) -> None:
    server.models = [{"id": "tiny", "max_model_len": 400}]
    server.answer = lambda body: said("[]")
    more = {**rows[0], "id": "long", "funding_statement": "We thank the ducks. " * 60}
    long = write_jsonl(tmp_path / "long.jsonl", [*rows, more])
    options = Options(endpoint=server.url, constrain="off")
    made = session.Session.open(adapter_source.find(str(adapter)), "x", options, samples=2)
    job = calibrating.prepare(
        made.source, [long], made.way, test=str(long), cutter=made.cutter(None, 1), engine=made.settings
    )
    assert job.fitted == 80
    assert job.left_out["rows too long for one prompt"] == 1
    assert job.left_out["test rows too long for one prompt"] == 1
    few = write_jsonl(tmp_path / "few.jsonl", [{**more, "id": str(n)} for n in range(60)])
    code, told = call("calibrate", adapter, few, "--endpoint", server.url, "--samples", "2")
    assert (code, told.splitlines()[-1]) == (
        2,
        f"{few}: 0 rows (left out: 60 rows too long for one prompt) are too few to calibrate on; give 50 or more.",
    )


def test_an_encoder_has_no_constraint_and_no_confidence(adapter: Path) -> None:
    source = adapter_source.find(str(adapter))
    write_json(adapter / adapter_folder.CONFIG, {"task_type": "TOKEN_CLS"})
    made = session.Session.open(source, "vllm", Options())
    assert made.options.constrain == "off"
    assert made.confidence(None, grounded=True) is None
    with pytest.raises(UserError, match="--min-confidence: an encoder says nothing of how sure it is"):
        made.confidence(0.9, grounded=True)
    with pytest.raises(UserError, match="constrain: source is for models that write, and an encoder tags words"):
        session.Session.open(source, "transformers", Options(constrain="source"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--samples", "5", "--temperature", "0"], "--temperature 0 gives the same answer each time"),
        (["--pick", "likelihood"], "--pick likelihood chooses among --samples"),
        (["--endpoint", "http://127.0.0.1:9/v1"], "answer by vote, with --samples 5"),
        (["--test", "elsewhere"], "--test elsewhere: neither a test set of the run nor a file"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(adapter: Path, given: Path, options: list[str], message: str) -> None:
    code, said = call("calibrate", adapter, given, *options)
    assert code == 2
    assert message in " ".join(said.split())


def test_too_few_rows_and_answers_of_one_kind_are_refused(tmp_path: Path, rows: list[dict], adapter: Path) -> None:
    five = write_jsonl(tmp_path / "five.jsonl", rows[:5])
    code, said = call("calibrate", adapter, five)
    assert (code, said) == (2, f"{five}: 5 rows are too few to calibrate on; give 50 or more.\n")
    perfect, given = echo_adapter(tmp_path / "perfect", rows), write_jsonl(tmp_path / "rows.jsonl", rows)
    code, said = call("calibrate", perfect, given)
    assert code == 2
    assert "the rows cannot be calibrated on:" in said
    assert "5 wrong ones. Give more rows, or longer answers." in said
    assert not (perfect / "calibration.json").exists()
    code, said = call("extract", perfect, given, "-o", tmp_path / "o.jsonl", "--min-confidence", "0.9")
    assert (code, "no calibration for answers by tokens; make one with `adapters calibrate`" in said) == (2, True)


@pytest.mark.slow
def test_rows_of_the_run_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "funding.jsonl", funding_rows(60))
    (tmp_path / "r.yaml").write_text(echo_recipe("run").replace("target: nested", "target: compact"))
    assert call("run", "r.yaml")[0] == 0
    code, said = call("calibrate", "runs/run", "funding.jsonl")
    assert code == 2
    assert "funding.jsonl: 0 rows (left out: 60 rows in the training data) are too few to calibrate on" in said
    assert 'id="confidence"' not in render(RunFolder.open(Path("runs/run")))
    store_calibration(Path("runs/run/2-grpo"))
    page = render(RunFolder.open(Path("runs/run")))
    shown = page[page.index('id="confidence"') : page.index('id="samples"')]
    assert "answers by tokens, tested on test.jsonl" in shown
    assert shown.count("<svg") == 2
    assert "at 95 % precision" in shown
    assert "of the right ones, from confidence" in shown
    stored = read_json(Path("runs/run/2-grpo/calibration.json"))
    for broken in ({"figures": 3}, {"figures": {"values": {"n": "x"}}}, "tokens"):
        write_json(Path("runs/run/2-grpo/calibration.json"), {**stored, "ways": {"tokens": broken}})
        assert 'id="confidence"' not in render(RunFolder.open(Path("runs/run")))
    others = [
        {**row, "funding_statement": f"{row['funding_statement']} {n} ducks swam."}
        for n, row in enumerate(funding_rows(60, "o"))
    ]
    write_jsonl(tmp_path / "others.jsonl", [*funding_rows(3), *others])
    code, said = call("calibrate", "runs/run", "others.jsonl", "--test", "nonesuch")
    assert (code, "(its test sets: test)" in said) == (2, True)


def test_a_value_knows_how_sure_the_one_is_that_it_belongs_to() -> None:
    source = '[{"funder_name":"NSF","award_ids":["A-1"]},{"funder_name":"ERC","award_ids":["B"]}]'
    paths = ["0.funder_name", "0.awards.0.award_ids.0", "1.funder_name", "1.awards.0.award_ids.0"]
    spans = [{"path": p, "value": v, "match": "exact"} for p, v in zip(paths, ("NSF", "A-1", "ERC", "B"), strict=True)]
    ends = tuple(range(1, len(source) + 1))
    answer = Answer(1, source, scores=TokenScores(ends, tuple(-float(n < 43) for n in ends)))
    found = told(TASK, answer, spans, "NSF A-1 ERC B")
    assert found is not None
    assert [s["first"] for s in found.values] == [-1.0, -1.0, 0.0, 0.0]
    assert found.raw_values == pytest.approx([0.3679, 0.3679, 1, 1], abs=1e-4)
    assert told(TASK, Answer(1, source), spans, "") is None, "an engine without log-probabilities"
    samples = (source, source.replace("ERC", "Wellcome"), "no JSON", source.replace("A-1", "C-9"))
    voted = told(TASK, Answer(1, source, samples=samples), spans, "NSF A-1 ERC B")
    assert voted is not None
    assert voted.raw_values == [0.75, 0.5, 0.5, 0.5]
    assert (voted.raw_whole, [s["first"] for s in voted.values]) == (0.25, [0.75, 0.75, 0.5, 0.5])


def part(answer: str, text: str, logprob: float, fields: dict[str, str]) -> tuple[dict, Answer, str]:
    spans = [{"path": f"0.{path}", "value": value, "match": "exact"} for path, value in fields.items()]
    ends = tuple(range(1, len(answer) + 1))
    scores = TokenScores(ends, (logprob,) * len(ends))
    return {"record": [], "spans": spans, "error": None}, Answer(1, answer, scores=scores), text


def test_a_text_in_parts_is_as_sure_of_a_value_as_its_surest_part() -> None:
    # Without weights other than 1 the confidence is the sigmoid of the mean log-probability.
    one = calibration.Calibration(("mean",), (0.0,), (1.0,), (1.0,), 0.0)
    sure = Confidence(TASK, "tokens", one, one, {})
    parts = [
        part('["NSF", "A-1"]', "NSF A-1", -2.0, {"funder_name": "NSF", "awards.0.award_ids.0": "A-1"}),
        part('["nsf", "A-1"]', "nsf A-1", -1.0, {"funder_name": "nsf", "awards.0.funding_scheme.0": "A-1"}),
    ]
    whole = {**parts[0][0], "record": [{"funder_name": "NSF"}]}
    line = sure.of_parts(whole, parts)
    assert [span["confidence"] for span in line["spans"]] == [0.269, 0.119], "of the field, in either spelling"
    failed = ({"record": None, "spans": None, "error": "truncated"}, Answer(1, "["), "more")
    incomplete = sure.of_parts(whole, [*parts, failed])
    assert incomplete == {**line, "confidence": None}, "what is incomplete is not right as a whole"
    assert sure.of_parts({**whole, "spans": None}, [failed])["confidence"] is None
    assert replace(sure, rows=None).of_parts(whole, parts) == incomplete


def test_a_record_without_its_unsure_strings() -> None:
    award = {"funding_scheme": [], "award_ids": ["1", "2"], "award_title": []}
    record = [{"funder_name": "A", "awards": [award]}, {"funder_name": "B", "awards": [award]}]
    left, moved = without(record, {"0.funder_name", "1.awards.0.award_ids.0"}, TASK.record_schema())
    assert left == [{"funder_name": "B", "awards": [{**award, "award_ids": ["2"]}]}]
    assert moved == {"1.funder_name": "0.funder_name", "1.awards.0.award_ids.1": "0.awards.0.award_ids.0"}
    schema = {"properties": {"shop": {"type": "string"}, "at": {"type": "object", "required": ["town"]}}}
    receipt = {"shop": "S", "at": {"town": "T", "street": "U"}, "total": 3}
    assert without(receipt, {"shop"}, schema)[0] == {"at": {"town": "T", "street": "U"}, "total": 3}
    assert without(receipt, {"at.street"}, schema)[0] == {"shop": "S", "at": {"town": "T"}, "total": 3}
    assert without(receipt, {"at.town"}, schema) == ({"shop": "S", "total": 3}, {"shop": "shop"})
    assert without({"shop": "S"}, {"shop"}, {"required": ["shop"]}) == (None, {})
    place = {"anyOf": [{"$ref": "#/$defs/Place"}, {"type": "null"}]}
    named = {"properties": {"at": place}, "$defs": {"Place": {"type": "object", "required": ["town"]}}}
    assert without(receipt, {"at.town"}, named) == ({"shop": "S", "total": 3}, {"shop": "shop"}), "as pydantic says it"


def test_what_is_left_without_the_unsure_strings() -> None:
    class Receipts:
        def record_schema(self) -> dict[str, Any]:
            return {"properties": {"shop": {"type": "string"}, "items": {"type": "array"}}}

    # The confidence is the sigmoid of the mean log-probability: 0.5, and 0.119 of the first string.
    one = calibration.Calibration(("mean",), (0.0,), (1.0,), (1.0,), 0.0)
    sure = Confidence(Receipts(), "tokens", one, one, {}, least=0.5)

    def left(record: Any, *paths: str) -> tuple[Any, str | None]:
        answer = json.dumps(record)
        spans = [{"path": path, "value": value, "match": "exact"} for path, value in zip(paths, "AB", strict=False)]
        ends = tuple(range(1, len(answer) + 1))
        scores = TokenScores(ends, tuple(-2.0 * (end <= answer.index("A") + 2) for end in ends))
        line = sure.added({"record": record, "spans": spans, "error": None}, Answer(1, answer, scores=scores), "A B")
        return line["record"], line["error"]

    assert left({"shop": "A", "total": 3}, "shop") == ({"total": 3}, None), "numbers have no confidence and stay"
    assert left({"shop": "A", "items": []}, "shop") == (
        None,
        "unsure: none of its values has a confidence of 0.5 (the highest: 0.119)",
    )
    assert left({"items": [{"name": "A", "of": "B"}]}, "items.0.name", "items.0.of") == (
        None,
        "unsure: what its other values belong to has no confidence of 0.5",
    )
    sure = replace(sure, least=0.50049)
    assert left({"items": ["A", "B"]}, "items.0", "items.1")[0] == {"items": ["B"]}, "in digits of a confidence"
